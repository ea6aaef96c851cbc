"""EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946, without squeeze-and-excitation, with ReLU6), for ImageNet.

The published weights are those of TensorFlow: padding as its SAME, more at the end where it is odd, and 1e-3 added to the
variances of batch norms. These are folded into the convolutions when the weights are read.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from condense.config.towers import EfficientNetLite0Tower
from condense.data.file_digests import known_digest
from condense.encoders.towers.protocol import Tower
from condense.inputs.spec import ImageSpec, InputSpec
from condense.storage.store import hash_of
from condense.system.errors import UserError

VERSION = 1
WEIGHTS = "model.safetensors"
EPSILON = 1e-3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels
FEATURES = 1280
STEM = 32
BLOCKS = (  # repeats, kernel, stride of the first, expansion, channels after it
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class Convolution(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, and ReLU6 if `active`."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True):
        super().__init__(before, after, kernel, stride, groups=groups)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, after, ceil(h / stride), ceil(w / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel > 1:
            rows, columns = (max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:])
            if rows % 2 == columns % 2 == 0:  # the same on either side: the convolution's own padding is faster
                y = F.conv2d(x, self.weight, self.bias, self.stride, (rows // 2, columns // 2), 1, self.groups)
                return F.relu6(y) if self.active else y
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        y = F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)
        return F.relu6(y) if self.active else y


class Block(nn.Module):
    """Inverted residual (Sandler et al. 2018): expand, filter each channel, project; added to the input if shapes allow."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        self.expand = Convolution(before, inner, 1) if expansion > 1 else None
        self.depthwise = Convolution(inner, inner, kernel, stride, groups=inner)
        self.project = Convolution(inner, after, 1, active=False)
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, after, ceil(h / stride), ceil(w / stride))."""
        y = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(Tower):
    """(n, 3, h, w) of pixels in 0 .. 1, any size of at least 32 -> (n, 1280), the mean over all places."""

    width = FEATURES

    def __init__(self, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.precision = precision
        self.stem = Convolution(3, STEM, 3, 2)
        blocks, before = [], STEM
        for repeats, kernel, stride, expansion, after in BLOCKS:
            for i in range(repeats):
                blocks.append(Block(before, after, kernel, stride if i == 0 else 1, expansion))
                before = after
        self.blocks = nn.ModuleList(blocks)
        self.last = Convolution(before, FEATURES, 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        x = ((inputs - self.mean) / self.std).to(self.precision).contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        features: Tensor = self.last(x).float().mean((2, 3))
        return features

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """The published weights, by their names. Raises KeyError, ValueError if they do not fit."""
        read(self.stem, weights, "_conv_stem", "_bn0")
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            if block.expand is not None:
                read(block.expand, weights, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
            read(block.depthwise, weights, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1")
            read(block.project, weights, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2")
        read(self.last, weights, "_conv_head", "_bn1")


def read(to: Convolution, weights: dict[str, Tensor], convolution: str, norm: str) -> None:
    """A convolution with the batch norm after it, folded: y = (w * x - mean) g + b with g = scale / sqrt(variance + 1e-3)."""
    weight = weights[f"{convolution}.weight"].float()
    scale, shift, mean, variance = (
        weights[f"{norm}.{part}"].float() for part in ("weight", "bias", "running_mean", "running_var")
    )
    if weight.shape != to.weight.shape:
        raise ValueError(
            f"{convolution}.weight must have shape {tuple(to.weight.shape)}, but has {tuple(weight.shape)}"
        )
    gain = scale / (variance + EPSILON).sqrt()
    assert to.bias is not None
    to.weight.copy_(weight * gain[:, None, None, None])
    to.bias.copy_(shift - mean * gain)


def efficientnet_spec(config: EfficientNetLite0Tower, modality: str) -> InputSpec:
    """A square image of pixels in 0 .. 1. Raises UserError if the weights are missing."""
    _weights(config)
    return ImageSpec.of(modality, 3, config.image_size, (0.0,) * 3, (1.0,) * 3)


def build_efficientnet(config: EfficientNetLite0Tower, precision: torch.dtype) -> EfficientNetLite0:
    """Raises UserError, naming the file, if the weights cannot be read."""
    path = _weights(config)
    with torch.random.fork_rng(devices=[]):  # modules draw from the global generator when they are made
        tower = EfficientNetLite0(precision)
    try:
        tower.load(load_file(path))
    except KeyError as error:
        raise UserError(f"{path}: the weights lack {error.args[0]}") from None
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as weights: {' '.join(str(error).split())}") from None
    tower.fingerprint = hash_of({"version": VERSION, "file": known_digest(path), "precision": str(precision)})
    for module in tower.modules():
        if isinstance(module, Convolution):
            module.to(precision)
    return tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _weights(config: EfficientNetLite0Tower) -> Path:
    path = config.path / WEIGHTS
    if not path.is_file():
        raise UserError(f"{path}: no such file: `path` of efficientnet_lite0 is a folder with {WEIGHTS}")
    return path
