"""Fixed transformations that keep an item's class: the same one is applied to real and to synthetic items.

Siamese augmentation (DSA, Zhao & Bilen 2021, arXiv:2102.08259) draws one transformation per step for both sides. Here a few
are drawn once, so that real items are embedded once under each of them.

A transformation is differentiable, and an item's result does not depend on the others of its batch. What it does follows from
the modality's `InputSpec` and its kind:

- images, depth and thermal: moved, scaled, turned, a window cut out; images also brightness, contrast, saturation; mirrored where
  the data allows it
- spectrograms: moved in time and frequency, a range of time and one of frequency masked
- series, (channels, length): noise, gain, time warp
- text in a continuous space: some tokens replaced by those before them; start, end and padding stay
- other shapes: as they are

What is moved repeats its edge; what is cut out or masked takes the item's mean. All modalities of an item are transformed, each
in its own way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from condense.config.modalities import PICTURES
from condense.inputs.spec import InputSpec, TextSpec, WrittenSpec
from condense.inputs.tokens import TokenSpec, end_positions

VERSION = 1  # of what a transformation does; part of the keys of embeddings
MOVE, TURN, SCALE = 0.125, math.radians(15), 0.15  # shares of a side; radians; change of size
CUT = 0.25  # side of the window that is cut out, as a share
BRIGHTNESS, CONTRAST, SATURATION = 0.1, 0.2, 0.3  # share of the range; factors
PITCH, MASK = 0.05, 0.125  # shares of a spectrogram's sides
NOISE, GAIN, WARP = 0.05, 0.1, 0.05  # share of the item's standard deviation; factor; share of the length
DROPPED = 0.1  # share of a text's tokens


@dataclass(frozen=True)
class Transformation:
    """The `index`-th of the transformations of some inputs, 0, 1, ...; `mirror`: whether images may be mirrored."""

    specs: Mapping[str, InputSpec]
    index: int
    mirror: bool = False

    def __call__(self, modality: str, x: Tensor) -> Tensor:
        """(n, *shape) -> the same shape, in the encoder's units and within its range."""
        spec = self.specs[modality]
        generator = torch.Generator().manual_seed(1_000_003 * self.index + sorted(self.specs).index(modality))
        draw = torch.rand(16, generator=generator).tolist()
        if isinstance(spec, WrittenSpec):
            return _drop_tokens(spec, x, generator)
        if spec.kind in PICTURES and x.ndim == 4:
            changed = _image(x, spec, draw, spec.kind == "image", self.mirror)
        elif spec.kind == "sound" and x.ndim in (4, 5):
            changed = _spectrogram(x.flatten(1, 2) if x.ndim == 5 else x, draw).view_as(x)
        elif x.ndim == 3:
            changed = _sensors(x, draw, generator)
        else:
            return x
        low, high = spec.bounds()
        return changed.clamp(low.to(x.device), high.to(x.device))


def _both_ways(share: float) -> float:
    """0 .. 1 -> -1 .. 1."""
    return 2 * share - 1


def _image(x: Tensor, spec: InputSpec, draw: Sequence[float], colour: bool, mirror: bool) -> Tensor:
    angle, size = TURN * _both_ways(draw[0]), 1 + SCALE * _both_ways(draw[1])
    right, down = 2 * MOVE * _both_ways(draw[2]), 2 * MOVE * _both_ways(draw[3])
    x = _affine(x, angle, size, right, down)
    if mirror and draw[4] < 0.5:
        x = x.flip(3)
    if colour:
        x = x + BRIGHTNESS * _both_ways(draw[5]) * (spec.high - spec.low)
        mean = x.mean((1, 2, 3), keepdim=True)
        x = mean + (x - mean) * (1 + CONTRAST * _both_ways(draw[6]))
        if x.shape[1] == 3:
            grey = x.mean(1, keepdim=True)
            x = grey + (x - grey) * (1 + SATURATION * _both_ways(draw[7]))
    if draw[8] < 0.5:
        rows, columns = (_range(side, CUT, at) for side, at in zip(x.shape[2:], draw[9:11], strict=True))
        x = _filled(x, rows[:, None] & columns[None, :])
    return x


def _spectrogram(x: Tensor, draw: Sequence[float]) -> Tensor:
    x = _affine(x, 0.0, 1.0, 2 * MOVE * _both_ways(draw[0]), 2 * PITCH * _both_ways(draw[1]))
    bands, frames = (_range(side, MASK, at) for side, at in zip(x.shape[2:], draw[2:4], strict=True))
    if draw[4] < 0.5:
        x = _filled(x, bands[:, None].expand(x.shape[2:]))
    if draw[5] < 0.5:
        x = _filled(x, frames[None, :].expand(x.shape[2:]))
    return x


def _sensors(x: Tensor, draw: Sequence[float], generator: torch.Generator) -> Tensor:
    length = x.shape[2]
    rest = torch.linspace(0, 1, length)
    place = (rest + WARP * _both_ways(draw[0]) * torch.sin(math.pi * rest)).clamp(0, 1) * (length - 1)
    before = place.floor().long().clamp(max=max(0, length - 2))
    weight = (place - before).to(x)
    x = x[..., before] * (1 - weight) + x[..., (before + 1).clamp(max=length - 1)] * weight
    noise = torch.randn(x.shape[1:], generator=generator).to(x)
    spread = (x.var((1, 2), correction=0, keepdim=True) + 1e-12).sqrt()
    return x * (1 + GAIN * _both_ways(draw[1])) + NOISE * spread * noise


def _drop_tokens(spec: WrittenSpec, x: Tensor, generator: torch.Generator) -> Tensor:
    """Some positions between start and end take the token before them."""
    length = x.shape[1]
    dropped = (torch.rand(length, generator=generator) < DROPPED).to(x.device)
    if isinstance(spec, TokenSpec):
        padding = spec.open_table()[spec.padding].to(x)
    elif isinstance(spec, TextSpec):
        padding = x.new_zeros(x.shape[2])
    else:
        return x
    place = torch.arange(length, device=x.device)
    inner = (place > 1) & (place < end_positions(x.detach(), padding)[:, None])  # (n, length)
    return torch.where((inner & dropped)[:, :, None], x.roll(1, 1), x)


def _affine(x: Tensor, angle: float, size: float, right: float, down: float) -> Tensor:
    """Bilinear, edges repeated; `right` and `down` in halves of the side."""
    cos, sin = math.cos(angle) / size, math.sin(angle) / size
    theta = torch.tensor([[cos, -sin, right], [sin, cos, down]], dtype=x.dtype, device=x.device)
    grid = F.affine_grid(theta[None], [1, *x.shape[1:]], align_corners=False).expand(len(x), -1, -1, -1)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _range(side: int, share: float, at: float) -> Tensor:
    """(side,) bool: a range of `share` of it, beginning at `at` (0 .. 1) of the places that there are."""
    size = round(side * share)
    first = int(at * (side - size + 1))
    place = torch.arange(side)
    return (place >= first) & (place < first + size)


def _filled(x: Tensor, window: Tensor) -> Tensor:
    """`window` (height, width) of each item set to the item's mean."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return torch.where(window.to(x.device), mean, x)
