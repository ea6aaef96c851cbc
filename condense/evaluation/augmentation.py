"""Augmentation of batches that keeps an item's class. All that is drawn comes from the generator that is given, on the CPU.

B  items of a batch
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from condense.config.modalities import PICTURES, kind_of

# DSA's published sizes (arXiv:2102.08259, appendix; `ParamDiffAug` of github.com/VICO-UoE/DatasetCondensation).
SATURATION, BRIGHTNESS, CONTRAST = 2.0, 1.0, 0.5
CROP_PAD, CUTOUT = 0.125, 0.5  # shares of a side
SCALE, ROTATE = 1.2, 15.0  # largest factor; largest angle, degrees
FLIP = 0.5  # probability
TIME_SHIFT, TIME_MASK, FREQUENCY_MASK = 0.125, 0.25, 0.25  # largest shares of a spectrogram's sides
JITTER, GAIN = 0.05, 0.1  # standard deviations, of added noise over the channel's own, and of a channel's factor


@dataclass(frozen=True)
class Draw:
    """Random numbers from a generator on the CPU, moved to `device`."""

    generator: torch.Generator
    device: torch.device

    def uniform(self, *sizes: int) -> Tensor:
        """In [0, 1)."""
        return torch.rand(*sizes, generator=self.generator).to(self.device)

    def normal(self, *sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=self.generator).to(self.device)


Change = Callable[[Tensor, Draw, float], Tensor]  # (B, channels, *sides), draw, strength -> the same shape


def augment(
    batch: Mapping[str, Tensor],  # modality -> (B, *shape)
    generator: torch.Generator,  # on the CPU
    kinds: Mapping[str, str] | None = None,  # modality -> kind; not needed of ImageBind's six
) -> dict[str, Tensor]:
    """Mild augmentation, drawn anew for every item of a batch.

    Images: moved by up to 1/10 of the side, scaled by 0.9 .. 1.1, turned by up to 10 degrees. Spectrograms: moved by
    up to 1/8 in time and 1/20 in frequency. Edges are repeated. The clips of an item move together. Other modalities
    are unchanged.

    Raises KeyError for a modality without a kind, here and below.
    """
    moved = {}
    for modality, given in batch.items():
        x = given.flatten(1, 2) if given.dim() == 5 else given
        kind = kind_of(modality, kinds)
        if kind in PICTURES and x.dim() == 4:
            x = _affine(x, generator, turn=math.radians(10), scale=0.1, shift=(0.1, 0.1))
        elif kind == "sound" and x.dim() == 4:
            x = _affine(x, generator, turn=0.0, scale=0.0, shift=(0.125, 0.05))
        moved[modality] = x.reshape(given.shape)
    return moved


def augment_dsa(
    batch: Mapping[str, Tensor],  # modality -> (B, *shape)
    generator: torch.Generator,  # on the CPU
    kinds: Mapping[str, str] | None = None,  # modality -> kind; not needed of ImageBind's six
    *,
    flip: bool = False,
    strength: float = 1.0,
) -> dict[str, Tensor]:
    """DSA's augmentation (Zhao & Bilen 2021, arXiv:2102.08259): one change per batch and modality, drawn; its sizes per item.

    - images: colour (brightness, saturation, contrast), crop, cutout, scale, rotation, and mirroring if `flip`
    - depth and thermal: the same without colour, where values are distances and temperatures
    - spectrograms (sound of 3 dimensions): moved in time with their edges repeated, or a range of time or of frequency
      masked (Park et al. 2019, arXiv:1904.08779)
    - other modalities of one side: noise added, or channels scaled (Um et al. 2017, arXiv:1706.00527)
    - text: unchanged

    What comes in from outside, or is masked, is 0, as published. The clips of an item change together. Items of zeros, which
    lack the modality, stay so. `strength` shrinks every change: 1 as published, 0 none.
    """
    changed = {}
    for modality, given in batch.items():
        x = given.flatten(1, 2) if given.dim() == 5 else given
        changes = changes_for(kind_of(modality, kinds), x.dim() - 2, flip)
        if changes:
            change = changes[int(torch.randint(len(changes), (), generator=generator))]
            there = x.flatten(1).any(1).view(-1, *[1] * (x.dim() - 1))
            x = torch.where(there, change(x, Draw(generator, x.device), strength), x)
        changed[modality] = x.reshape(given.shape)
    return changed


def changes_for(kind: str, sides: int, flip: bool) -> tuple[Change, ...]:
    """What `augment_dsa` draws from, for items of a kind with 1 or 2 sides."""
    if kind == "text":
        return ()
    if sides == 1:
        return (jitter, gain)
    if kind in PICTURES:
        mirrored: tuple[Change, ...] = (mirror,) if flip else ()
        return (*((colour,) if kind == "image" else ()), crop, cutout, *mirrored, scale, rotate)
    return (shift_time, mask_time, mask_frequency) if kind == "sound" else ()


def colour(x: Tensor, draw: Draw, strength: float) -> Tensor:
    """Brightness -1/2 .. 1/2 added; then saturation by 0 .. 2, contrast by 1/2 .. 3/2."""
    one = (len(x), 1, 1, 1)
    x = x + strength * BRIGHTNESS * (draw.uniform(*one) - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (1 + strength * (SATURATION * draw.uniform(*one) - 1))
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (1 + strength * (CONTRAST + draw.uniform(*one) - 1))


def crop(x: Tensor, draw: Draw, strength: float) -> Tensor:
    """Padded by 1/8 of each side, and cut to the old size: moved by whole pixels."""
    for axis in (2, 3):
        most = int(x.shape[axis] * CROP_PAD * strength + 0.5)
        x = _shift(x, axis, (draw.uniform(len(x)) * (2 * most + 1)).long() - most, repeat=False)
    return x


def cutout(x: Tensor, draw: Draw, strength: float) -> Tensor:
    """A window of half of each side, with its centre anywhere in the image, is 0."""
    inside = torch.ones(len(x), 1, 1, 1, dtype=torch.bool, device=x.device)
    for axis in (2, 3):
        side = x.shape[axis]
        size = int(side * CUTOUT * strength + 0.5)
        centre = (draw.uniform(len(x)) * (side + (1 - size % 2))).long()
        inside = inside & _window(x, axis, centre - size // 2, size)
    return x.masked_fill(inside, 0)


def scale(x: Tensor, draw: Draw, strength: float) -> Tensor:
    """Height and width by factors of their own, 1 / 1.2 .. 1.2."""
    factors = 1 + strength * (1 / SCALE + (SCALE - 1 / SCALE) * draw.uniform(2, len(x)) - 1)  # (2, B)
    nothing = torch.zeros_like(factors[0])
    return _sample(x, factors[0], nothing, nothing, factors[1], "zeros")


def rotate(x: Tensor, draw: Draw, strength: float) -> Tensor:
    """By up to 15 degrees either way."""
    angle = strength * math.radians(ROTATE) * (2 * draw.uniform(len(x)) - 1)
    return _sample(x, angle.cos(), -angle.sin(), angle.sin(), angle.cos(), "zeros")


def mirror(x: Tensor, draw: Draw, strength: float) -> Tensor:
    """Left and right swapped in half of the items."""
    return torch.where(draw.uniform(len(x), 1, 1, 1) < FLIP * strength, x.flip(3), x)


def shift_time(x: Tensor, draw: Draw, strength: float) -> Tensor:
    """By up to 1/8 of the frames either way; the first or last frame is repeated."""
    most = int(x.shape[3] * TIME_SHIFT * strength + 0.5)
    return _shift(x, 3, (draw.uniform(len(x)) * (2 * most + 1)).long() - most, repeat=True)


def mask_time(x: Tensor, draw: Draw, strength: float) -> Tensor:
    """Up to 1/4 of the frames, next to each other, are 0."""
    return _mask(x, 3, TIME_MASK * strength, draw)


def mask_frequency(x: Tensor, draw: Draw, strength: float) -> Tensor:
    """Up to 1/4 of the bands, next to each other, are 0."""
    return _mask(x, 2, FREQUENCY_MASK * strength, draw)


def jitter(x: Tensor, draw: Draw, strength: float) -> Tensor:
    """Gaussian noise of 5 % of each channel's standard deviation."""
    return x + strength * JITTER * x.std(-1, correction=0, keepdim=True) * draw.normal(*x.shape)


def gain(x: Tensor, draw: Draw, strength: float) -> Tensor:
    """Each channel by a Gaussian factor, 1 ± 0.1."""
    return x * (1 + strength * GAIN * draw.normal(*x.shape[:2], 1))


def _mask(x: Tensor, axis: int, share: float, draw: Draw) -> Tensor:
    """0 over up to `share` of an axis: the length is drawn, then the place."""
    size = (draw.uniform(len(x)) * (int(x.shape[axis] * share + 0.5) + 1)).long()  # (B,)
    first = (draw.uniform(len(x)) * (x.shape[axis] - size + 1)).long()
    return x.masked_fill(_window(x, axis, first, size), 0)


def _window(x: Tensor, axis: int, first: Tensor, size: Tensor | int) -> Tensor:
    """Where an axis is in first .. first + size - 1, per item; broadcasts to x."""
    place = torch.arange(x.shape[axis], device=x.device).view([-1 if i == axis else 1 for i in range(x.dim())])
    begin = first.view(-1, 1, 1, 1)
    return (place >= begin) & (place < begin + (size.view(-1, 1, 1, 1) if isinstance(size, Tensor) else size))


def _shift(x: Tensor, axis: int, by: Tensor, *, repeat: bool) -> Tensor:
    """Each item moved along an axis by `by` (B,) positions; from outside comes the edge, or 0."""
    side = x.shape[axis]
    place = torch.arange(side, device=x.device)
    source = (place + by[:, None]).view(len(x), *[side if i == axis else 1 for i in range(1, x.dim())])
    moved = x.gather(axis, source.clamp(0, side - 1).expand_as(x))
    return moved if repeat else moved.masked_fill((source < 0) | (source >= side), 0)


def _affine(
    x: Tensor,  # (B, channels, height, width)
    generator: torch.Generator,
    turn: float,  # largest angle, radians
    scale: float,  # largest change of size
    shift: tuple[float, float],  # largest move right and down, as shares of width and height
) -> Tensor:
    uniform = torch.rand(4, len(x), generator=generator) * 2 - 1  # (4, B)
    angle, size = uniform[0] * turn, 1 + uniform[1] * scale
    right, down = uniform[2] * 2 * shift[0], uniform[3] * 2 * shift[1]  # the grid runs from -1 to 1
    cos, sin = angle.cos() / size, angle.sin() / size
    theta = torch.stack([torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)], 1)  # (B, 2, 3)
    grid = nn.functional.affine_grid(theta.to(x.device, x.dtype), list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _sample(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, outside: str) -> Tensor:
    """x at (a u + b v, c u + d v) for every place (u, v), right and down from the centre; a, b, c, d (B,)."""
    nothing = torch.zeros_like(a)
    theta = torch.stack([torch.stack([a, b, nothing], 1), torch.stack([c, d, nothing], 1)], 1)  # (B, 2, 3)
    grid = nn.functional.affine_grid(theta.to(x.dtype), list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, padding_mode=outside, align_corners=False)
