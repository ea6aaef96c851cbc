"""What each item of a file of tensors holds, and the range of its values: one pass over the file, and none while it does not
change (`condense/data/file_digests.py` says when that is)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from condense.data.file_digests import keep, stat_files, trusted
from condense.data.tensor_parts import Content, Part
from condense.data.tensor_units import to_float
from condense.storage.store import Store
from condense.system.errors import UserError
from condense.system.process import cores

KIND, VERSION = "tensor_items", 1
CHUNK = 256  # items read at a time
Range = tuple[float, float]


@dataclass(frozen=True)
class Items:
    """What a file's items are."""

    digests: dict[str, list[str]]  # split -> a hash of each item's bytes and missing modalities
    ranges: dict[str, dict[str, Range]]  # split -> modality -> smallest and largest value of the present items


def known_items(path: Path, content: Content, opened_at: int) -> Items:
    """The items of a file's content, which was opened at that time (ns since the epoch) or later.

    Raises UserError if a value is NaN or infinite.
    """
    files, parts, modalities = content.files, content.parts, list(content.modalities)
    store = Store()
    key = {"version": VERSION, "files": [str(file.absolute()) for file in files], "modalities": modalities}
    with ThreadPoolExecutor(1) as pool:
        now = stat_files([str(file) for file in files], pool, lambda _: None)
    found = store.get(KIND, key)
    if found is not None:
        same = np.array_equal(found["stat"].numpy(), now)
        if same and trusted(now[:, 1], found["read_at"].numpy()).all():
            return _unpacked(found, modalities)
    items = measured_items(path, parts, modalities)
    packed = {f"{split}/digest": _bytes(own) for split, own in items.digests.items()}
    for split, own in items.ranges.items():
        packed[f"{split}/range"] = torch.tensor([own[m] for m in modalities], dtype=torch.float64)
    keep(store, KIND, key, {**packed, "stat": torch.from_numpy(now), "read_at": torch.tensor([opened_at])})
    return items


def measured_items(path: Path, parts: Mapping[str, Part], modalities: Sequence[str]) -> Items:
    """`known_items`, by reading them all."""
    digests: dict[str, list[str]] = {}
    ranges: dict[str, dict[str, Range]] = {}
    with ThreadPoolExecutor(cores()) as pool:
        for split, part in parts.items():
            limits = {m: (float("inf"), float("-inf")) for m in modalities}
            digests[split] = []
            for first in range(0, len(part.labels), CHUNK):
                chunk = {m: part.inputs[m][first : first + CHUNK].contiguous() for m in modalities}
                has = {m: mask[first : first + CHUNK] for m, mask in part.present.items()}
                for m, x in chunk.items():
                    limits[m] = _widened(limits[m], f"{path}: {split}/{m}", x, has.get(m), first)
                count = len(part.labels[first : first + CHUNK])
                digests[split] += pool.map(lambda i: _digest(chunk, has, i), range(count))  # noqa: B023
            ranges[split] = {m: own if own[0] <= own[1] else (0.0, 0.0) for m, own in limits.items()}  # none has it
    return Items(digests, ranges)


def _widened(known: Range, at: str, tensor: Tensor, has: Tensor | None, first: int) -> Range:
    """`known`, with the values of the present ones of some items, of which the first has number `first`."""
    chunk = to_float(tensor).flatten(1)
    finite = torch.isfinite(chunk).all(dim=1)
    if has is not None:
        finite, chunk = finite | ~has, chunk[has]
    if not finite.all():
        raise UserError(f"{at}: item {first + int(finite.int().argmin())} holds NaN or infinity")
    if len(chunk) == 0:
        return known
    least, most = torch.aminmax(chunk)
    return min(known[0], least.item()), max(known[1], most.item())


def _digest(chunk: Mapping[str, Tensor], has: Mapping[str, Tensor], index: int) -> str:
    content = hashlib.sha256()
    missing = [modality for modality, mask in has.items() if not mask[index]]
    if missing:
        content.update(f"without {', '.join(missing)}\n".encode())
    for modality, items in chunk.items():
        if modality not in missing:
            content.update(items[index].flatten().view(torch.uint8).numpy().data)
    return content.hexdigest()


def _bytes(digests: Sequence[str]) -> Tensor:
    """(n, 32) uint8."""
    return torch.frombuffer(bytearray.fromhex("".join(digests)), dtype=torch.uint8).view(-1, 32)


def _unpacked(found: Mapping[str, Tensor], modalities: Sequence[str]) -> Items:
    digests, ranges = {}, {}
    for name, values in found.items():
        split, _, what = name.partition("/")
        if what == "digest":
            whole = values.numpy().tobytes().hex()
            digests[split] = [whole[i : i + 64] for i in range(0, len(whole), 64)]
        elif what == "range":
            ranges[split] = {m: (own[0], own[1]) for m, own in zip(modalities, values.tolist(), strict=True)}
    order = [split for split in ("train", "validation", "test") if split in digests]
    return Items({split: digests[split] for split in order}, {split: ranges[split] for split in order})
