"""Units of images in a file of tensors: whole numbers are pixels, as in a file; floats are already in the encoder's units."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from condense.data.tensor_parts import SCALES
from condense.inputs.spec import ImageSpec, InputSpec

BRIGHT = 16.0  # no encoder's own unit comes near it: floats up to here and beyond are levels of 8 or 16 bits


def pixel_specs(wanted: Mapping[str, InputSpec], inputs: Mapping[str, Tensor]) -> dict[str, ImageSpec]:
    """modality -> the encoder's input, for images stored as whole numbers.

    `inputs`: modality -> (n, *shape), as stored.
    """
    return {
        modality: spec
        for modality, spec in wanted.items()
        if isinstance(spec, ImageSpec)
        and modality in inputs
        and inputs[modality].dtype in SCALES
        and tuple(inputs[modality].shape[1:]) == spec.shape
    }


def to_float(tensor: Tensor) -> Tensor:
    """Whole numbers over their largest value, in [0, 1]; floats as they are. float32."""
    return tensor.float() / SCALES[tensor.dtype] if tensor.dtype in SCALES else tensor.float()


def unit_warnings(
    source: str,
    wanted: Mapping[str, InputSpec],
    inputs: Mapping[str, Tensor],
    extremes: Mapping[str, tuple[float, float]],
) -> tuple[str, ...]:
    """One for each image whose floats look like pixels. `extremes`: modality -> smallest and largest value of train."""
    found = []
    for modality, (low, high) in extremes.items():
        spec = wanted.get(modality)
        if not isinstance(spec, ImageSpec) or inputs[modality].dtype in SCALES or spec.high >= BRIGHT:
            continue
        if low >= 0 and high > BRIGHT:
            found.append(
                f"{source}: train/{modality}: floats of {low:g} .. {high:g} look like pixels, but are taken as they are, in the "
                f"encoder's units ({spec.low:.3g} .. {spec.high:.3g}): store pixels as uint8, which are brought to them"
            )
    return tuple(found)


def normalized(items: dict[str, Tensor], pixels: Mapping[str, ImageSpec]) -> dict[str, Tensor]:
    """`items` with the images of `pixels`, (n, *shape) in [0, 1], in the encoder's units, as `read_item` reads a file."""
    return {m: pixels[m].normalize(x).to(torch.float32) if m in pixels else x for m, x in items.items()}
