"""A small ResNet, to see whether what a condensed set teaches a ConvNet carries over to another architecture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from condense.config.modalities import submodule_name
from condense.evaluation.networks import Kinds, Network, Shapes, channels_first, further_blocks, start_for_relu

STAGES = (32, 64, 128)  # channels


class ResNet(Network):
    """Per modality: a 3x3 convolution, then stages of two basic blocks, and the mean over positions.

    After He et al. 2016 (arXiv:1512.03385, section 4.2), with instance norm as DC's ResNet18 has for evaluations. Each stage
    after the first halves the sides; before the first they are halved for every doubling of the longer side above 32. A
    side below 4 is not halved. 1-d modalities get the same in one dimension.
    """

    def __init__(
        self,
        shapes: Shapes,
        num_classes: int,
        generator: torch.Generator,
        widths: Sequence[int] = STAGES,
        kinds: Kinds = None,
    ) -> None:
        super().__init__(shapes, kinds)
        given = {modality: channels_first(modality, shape, kinds) for modality, shape in shapes.items()}
        self.towers = nn.ModuleDict({submodule_name(m): _tower(shape, widths) for m, shape in given.items()})
        features = widths[-1] * len(shapes)
        self.head = nn.utils.skip_init(nn.Linear, features, num_classes)
        start_for_relu(self, generator)


class _Block(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))."""

    def __init__(self, channels: int, width: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        one = (1,) * len(stride)
        self.main = nn.Sequential(
            _convolution(channels, width, 3, stride),
            nn.GroupNorm(width, width),
            nn.ReLU(),
            _convolution(width, width, 3, one),
            nn.GroupNorm(width, width),
        )
        changes = channels != width or stride != one
        self.shortcut = (
            nn.Sequential(_convolution(channels, width, 1, stride), nn.GroupNorm(width, width))
            if changes
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.main(x) + self.shortcut(x))


def _convolution(channels: int, width: int, kernel: int, stride: tuple[int, ...]) -> nn.Module:
    kind = nn.Conv1d if len(stride) == 1 else nn.Conv2d
    return nn.utils.skip_init(kind, channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)


def _tower(shape: Sequence[int], widths: Sequence[int]) -> nn.Sequential:
    """(B, *shape) -> (B, widths[-1]), with all sides averaged."""
    channels, *sides = shape

    def halve() -> tuple[int, ...]:
        stride = tuple(2 if side >= 4 else 1 for side in sides)  # instance norm needs more than one position
        sides[:] = [-(-side // by) for side, by in zip(sides, stride, strict=True)]
        return stride

    one = (1,) * len(sides)
    layers: list[nn.Module] = []
    for i in range(max(1, further_blocks(sides))):
        layers.append(
            _convolution(channels if i == 0 else widths[0], widths[0], 3, halve() if max(sides) > 32 else one)
        )
        layers += [nn.GroupNorm(widths[0], widths[0]), nn.ReLU()]
    before = widths[0]
    for stage, width in enumerate(widths):
        layers += [_Block(before, width, halve() if stage else one), _Block(width, width, one)]
        before = width
    layers.append((nn.AdaptiveAvgPool1d if len(one) == 1 else nn.AdaptiveAvgPool2d)(1))
    return nn.Sequential(*layers)
