"""Multi-formation: an item that is stored holds several smaller ones (Kim et al. 2022, IDC, arXiv:2205.14959).

With a factor f an image holds f x f smaller images, a sound or a sensor's reading f parts, one after the other; each is enlarged
to the full size before it is embedded, or before a network is trained on it. Text holds one. The storage is the same, the
resolution lower, the number of items larger: as many as in the modality that holds most. A modality that holds fewer gives
its parts in turn: with f = 2 the four images of a stored item meet its two sounds twice.

n  stored items        k  items that one of them holds        p  parts of a modality, p <= k
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from condense.config.modalities import PICTURES
from condense.inputs.spec import InputSpec, WrittenSpec


def grid_of(spec: InputSpec, factor: int) -> tuple[int, int]:
    """Rows and columns of parts in a stored item of this modality."""
    if isinstance(spec, WrittenSpec) or len(spec.shape) not in (2, 3, 4):
        return 1, 1
    return (factor, factor) if spec.kind in PICTURES and len(spec.shape) == 3 else (1, factor)


def parts_of(spec: InputSpec, factor: int) -> int:
    rows, columns = grid_of(spec, factor)
    return rows * columns


def items_in_each(specs: Mapping[str, InputSpec], factor: int) -> int:
    """k: how many items a stored one holds."""
    return max(parts_of(spec, factor) for spec in specs.values())


def check_formation(specs: Mapping[str, InputSpec], factor: int) -> None:
    """Raises ValueError if a part would have less than one value per side."""
    for modality, spec in specs.items():
        rows, columns = grid_of(spec, factor)
        sides = spec.shape[-2:] if rows > 1 else spec.shape[-1:]
        if min(sides) < max(rows, columns):
            raise ValueError(f"formation must be at most {min(sides)}, a side of {modality}, but got {factor}")


def parts(spec: InputSpec, stored: Tensor, factor: int) -> Tensor:
    """(n, *shape) -> (n * p, *shape): the parts of each stored item, enlarged (bilinear)."""
    rows, columns = grid_of(spec, factor)
    if rows * columns == 1:
        return stored
    x = _as_images(stored)
    full = [x.shape[2], x.shape[3]]
    cut = [
        F.interpolate(column, full, mode="bilinear", align_corners=False)
        for row in x.tensor_split(rows, 2)
        for column in row.tensor_split(columns, 3)
    ]
    return torch.stack(cut, 1).reshape(-1, *stored.shape[1:])


def in_turn(x: Tensor, parts_each: int, items_each: int) -> Tensor:
    """(n * p, ...) -> (n * k, ...): item j of a stored one has part j modulo p."""
    if parts_each == items_each:
        return x
    order = torch.arange(items_each, device=x.device) % parts_each
    return x.view(-1, parts_each, *x.shape[1:])[:, order].reshape(-1, *x.shape[1:])


def formed(specs: Mapping[str, InputSpec], stored: Mapping[str, Tensor], factor: int) -> dict[str, Tensor]:
    """modality -> (n, *shape) to modality -> (n * k, *shape): all items, ready to train on."""
    count = items_in_each(specs, factor)
    return {m: in_turn(parts(specs[m], x, factor), parts_of(specs[m], factor), count) for m, x in stored.items()}


def stored_from(specs: Mapping[str, InputSpec], items: Mapping[str, Tensor], factor: int) -> dict[str, Tensor]:
    """modality -> (n * k, *shape) to (n, *shape): items made smaller (means over areas) and put together.

    Of a modality with p < k parts the first p of each k items are kept.
    """
    count = items_in_each(specs, factor)
    return {m: _stored(specs[m], x.view(-1, count, *x.shape[1:]), factor) for m, x in items.items()}


def _stored(spec: InputSpec, items: Tensor, factor: int) -> Tensor:
    """(n, k, *shape) -> (n, *shape)."""
    rows, columns = grid_of(spec, factor)
    if rows * columns == 1:
        return items[:, 0].contiguous()
    canvas = torch.empty_like(_as_images(items[:, 0]))
    tiles = [tile for row in canvas.tensor_split(rows, 2) for tile in row.tensor_split(columns, 3)]
    for part, tile in enumerate(tiles):
        tile.copy_(F.interpolate(_as_images(items[:, part]), [tile.shape[2], tile.shape[3]], mode="area"))
    return canvas.view(len(items), *items.shape[2:])


def _as_images(x: Tensor) -> Tensor:
    """(n, channels, height, width); of sensors the height is 1, of clips each is a channel."""
    if x.ndim == 3:
        return x.unsqueeze(2)
    return x.flatten(1, 2) if x.ndim == 5 else x
