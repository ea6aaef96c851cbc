"""Networks that are trained from scratch on items: a tower per modality, their features into one linear head.

For clips (clips, channels, height, width), such as ImageBind's sounds, the clips count as channels. All weights are drawn
from the generator that is given, on the CPU.

B  items of a batch
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from condense.config.modalities import kind_of, submodule_name

Shapes = Mapping[str, Sequence[int]]  # modality -> (channels, height, width), two sizes if it is 1-d, or clips
Kinds = Mapping[str, str] | None  # modality -> kind; not needed of ImageBind's six
LIGHT = (16, 32, 32)  # channels of the three blocks of `ConvNet`
PUBLISHED = (128, 128, 128)


class Network(nn.Module):
    """`forward(inputs)`: modality -> (B, *shape) float32, to logits (B, C)."""

    towers: nn.ModuleDict  # modality -> (B, channels, *sides) to features of any shape
    head: nn.Linear  # of the concatenated features

    def __init__(self, shapes: Shapes, kinds: Kinds = None) -> None:
        super().__init__()
        self.channels_last = {modality: is_channels_last(modality, kinds) for modality in shapes}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        features = []
        for modality, is_last in self.channels_last.items():
            x = inputs[modality]
            x = x.flatten(1, 2) if x.dim() == 5 else x
            tower = self.towers[submodule_name(modality)]
            features.append(tower(x.transpose(1, 2) if is_last else x).flatten(1))
        return self.head(torch.cat(features, 1))


class ConvNet(Network):
    """The ConvNet of `fast`: instance norm, ReLU and average pooling as published, but narrow, and quick on a CPU."""

    def __init__(
        self,
        shapes: Shapes,
        num_classes: int,
        generator: torch.Generator,
        widths: Sequence[int] = LIGHT,
        kinds: Kinds = None,
    ) -> None:
        super().__init__(shapes, kinds)
        given = {modality: channels_first(modality, shape, kinds) for modality, shape in shapes.items()}
        self.towers = nn.ModuleDict({submodule_name(m): _light_tower(shape, widths) for m, shape in given.items()})
        features = sum(widths[-1] * 4 ** (len(shape) - 1) for shape in given.values())
        self.head = nn.utils.skip_init(nn.Linear, features, num_classes)
        start_for_relu(self, generator)


class PublishedConvNet(Network):
    """The ConvNet that DC, DSA and DM evaluate with (Gidaris & Komodakis 2018), with PyTorch's usual start.

    Blocks of 3x3 convolution, instance norm with weights, ReLU, 2x2 average pooling: three up to a longer side of 32, and
    a further one for every doubling, as for Tiny ImageNet and ImageNet (Cazenave et al. 2022, arXiv:2203.11932). A side
    below 4 is not pooled: instance norm needs more than one position. 1-d modalities get the same in one dimension. Items
    of 1 x 28 x 28 are padded to 32 x 32, as published.
    """

    def __init__(
        self,
        shapes: Shapes,
        num_classes: int,
        generator: torch.Generator,
        widths: Sequence[int] = PUBLISHED,
        kinds: Kinds = None,
    ) -> None:
        super().__init__(shapes, kinds)
        self.towers, features = nn.ModuleDict(), 0
        for m, shape in shapes.items():
            self.towers[submodule_name(m)], found = _published_tower(channels_first(m, shape, kinds), widths)
            features += found
        self.head = nn.utils.skip_init(nn.Linear, features, num_classes)
        start_as_usual(self, generator)


def is_channels_last(modality: str, kinds: Kinds = None) -> bool:
    """Text is (length, channels); every other 1-d modality is (channels, length)."""
    return kind_of(modality, kinds) == "text"


def channels_first(modality: str, shape: Sequence[int], kinds: Kinds = None) -> tuple[int, ...]:
    """(channels, *sides) of an item; clips count as channels. Raises ValueError if that leaves neither 1 nor 2 sides."""
    shape = (shape[0] * shape[1], *shape[2:]) if len(shape) == 4 else tuple(shape)
    if len(shape) not in (2, 3):
        raise ValueError(f"{modality}: a ConvNet takes items of 2 or 3 dimensions, but got {len(shape)}")
    return shape[::-1] if is_channels_last(modality, kinds) else shape


def start_for_relu(network: Network, generator: torch.Generator) -> None:
    """He et al. 2015's start of convolutions (arXiv:1502.01852); the head's is normal, of variance 1 / features."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
    nn.init.normal_(network.head.weight, std=network.head.in_features**-0.5, generator=generator)
    nn.init.zeros_(network.head.bias)


def start_as_usual(network: nn.Module, generator: torch.Generator) -> None:
    """PyTorch's default start of convolutions and linear layers: uniform within 1 / sqrt(fan in), weights and biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            bound = module.weight[0].numel() ** -0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)


def _light_tower(shape: Sequence[int], widths: Sequence[int]) -> nn.Sequential:
    """(B, *shape) -> (B, widths[-1], 4, 4), or (B, widths[-1], 4) for a 1-d modality.

    A further block for every doubling of the longer side above 32. The first block halves its input by the stride of its
    convolution, not by pooling: full resolution took three quarters of the time.
    """
    channels, *sides = shape
    one = len(sides) == 1
    convolution = nn.Conv1d if one else nn.Conv2d
    pool = nn.AvgPool1d if one else nn.AvgPool2d
    layers: list[nn.Module] = []
    for i, width in enumerate([*widths, *[widths[-1]] * further_blocks(sides)]):
        kernel, stride = (5, 2) if i == 0 else (3, 1)
        layers.append(
            nn.utils.skip_init(convolution, channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        )
        layers += [nn.GroupNorm(width, width), nn.ReLU()]  # a group per channel: instance norm, and faster
        if i > 0:
            layers.append(pool(2, ceil_mode=True))
        sides = [math.ceil(side / 2) for side in sides]
        channels = width
    if any(side != 4 for side in sides):  # not needed for 32 x 32; costs as much as a pooling
        layers.append((nn.AdaptiveAvgPool1d if one else nn.AdaptiveAvgPool2d)(4))
    return nn.Sequential(*layers)


def _published_tower(shape: Sequence[int], widths: Sequence[int]) -> tuple[nn.Sequential, int]:
    """(B, *shape) -> (B, widths[-1], *sides), and how many features that is."""
    channels, *sides = shape
    convolution = nn.Conv1d if len(sides) == 1 else nn.Conv2d
    padding = 1
    if list(shape) == [1, 28, 28]:
        padding, sides = 3, [32, 32]
    layers: list[nn.Module] = []
    for width in [*widths, *[widths[-1]] * further_blocks(sides)]:
        layers.append(nn.utils.skip_init(convolution, channels, width, 3, padding=padding))
        layers += [nn.GroupNorm(width, width), nn.ReLU()]
        kernel = tuple(2 if side >= 4 else 1 for side in sides)
        layers.append(nn.AvgPool1d(kernel) if len(sides) == 1 else nn.AvgPool2d(kernel))  # type: ignore[arg-type]
        sides = [side // 2 if side >= 4 else side for side in sides]
        channels, padding = width, 1
    return nn.Sequential(*layers), channels * math.prod(sides)


def further_blocks(sides: Sequence[int]) -> int:
    """Blocks beyond three: one for every doubling of the longer side above 32."""
    return max(0, math.ceil(math.log2(max(sides) / 32)))
