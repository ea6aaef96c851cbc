"""A paired multi-modal dataset in three splits.

A condensation sees `condense`, a search also `validation`; `test` must be opened explicitly, once, at the end.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from condense.inputs.spec import InputSpec
from condense.system.device_memory import host_memory
from condense.system.errors import UserError

HELD = 1 << 31  # largest size in bytes of a split's inputs on a device


class Split(Protocol):
    """n paired items. `load` reads items in the units of the dataset's `InputSpec`s.

    An item may lack modalities, though not all of them.
    """

    @property
    def labels(self) -> Tensor:
        """(n,) int64, in 0 .. C-1."""
        ...

    @property
    def present(self) -> Mapping[str, Tensor]:
        """modality -> (n,) bool: which items have it. Only for modalities that some item lacks, so often empty."""
        ...

    @property
    def groups(self) -> Tensor | None:
        """(n,) int64: the group (speaker, subject, scene ...) of each item, the same number in all splits of a dataset; None:
        the data have none."""
        ...

    def __len__(self) -> int: ...

    def load(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """modality -> (len(indices), *shape) float32; zeros for what an item lacks."""
        ...


@dataclass(frozen=True)
class MemorySplit:
    """A split held in memory: `inputs[modality]` is (n, *shape), with arbitrary values where `present` is false."""

    inputs: Mapping[str, Tensor]
    labels: Tensor
    present: Mapping[str, Tensor] = field(default_factory=dict)
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        chosen = torch.as_tensor(indices)
        items = {modality: tensor[chosen] for modality, tensor in self.inputs.items()}
        return without_missing(items, self.present, chosen)


def without_missing(items: dict[str, Tensor], present: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    """`items`, modality -> (k, *shape), with zeros for modalities that the items `chosen` (k,) of a split lack."""
    for modality, has in present.items():
        x = items[modality]
        items[modality] = x.masked_fill(~has[chosen].to(x.device).view(-1, *[1] * (x.ndim - 1)), 0)
    return items


def held(split: Split, specs: Mapping[str, InputSpec], device: torch.device) -> Split:
    """A split prepared for many reads: held on the device if it has at most `HELD` bytes, in host memory if it takes at most a
    quarter of what is free there; a larger one is returned as it is, to be read (and decoded) batch by batch."""
    size = 4 * len(split) * sum(math.prod(spec.shape) for spec in specs.values())
    if size > HELD:
        if size > host_memory() // 4:
            return split
        device = torch.device("cpu")
    inputs = {modality: x.to(device, torch.float32) for modality, x in split.load(range(len(split))).items()}
    return MemorySplit(inputs, split.labels.to(device))


@dataclass(frozen=True)
class FoldOf:
    """The dataset whose condense and validation splits were divided anew (`condense/data/folds.py`), and how."""

    base: Dataset
    rows: Mapping[
        str, Tensor
    ]  # condense, validation -> (n,) int64, rows of base's condense and, after these, validation

    def chosen(self, split: str, of_parts: Sequence[Tensor]) -> Tensor:
        """What the fold's `split` has of `of_parts`: a tensor of base's condense, and one of its validation."""
        whole = torch.cat(list(of_parts))
        return whole[self.rows[split].to(whole.device)]


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits of the same classes and modalities."""

    name: str
    specs: Mapping[str, InputSpec]  # modality -> what its items look like
    class_names: tuple[str, ...]
    condense: Split
    validation: Split
    _test: Split
    fingerprint: str  # hash of the content and of the way it was split
    warnings: tuple[str, ...] = ()  # what a user should know of it, a line each
    content: Mapping[str, str] = field(default_factory=dict)  # by item (`condense/data/content.py`); empty: not known
    source: Dataset | None = None  # where its items are features: the dataset that they were made of
    digests: Mapping[str, Sequence[str]] = field(default_factory=dict)  # split -> (n,) hashes of its items, where known
    fold: FoldOf | None = None  # where condense and validation are a fold: of what

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.specs)

    @property
    def kinds(self) -> dict[str, str]:
        """modality -> its kind (`condense/config/modalities.py`)."""
        return {modality: spec.kind for modality, spec in self.specs.items()}

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def open_test(self) -> Split:
        """The test split. For final evaluations only, never for a selection."""
        return self._test

    def check_class_sizes(self, dpc: int, items_in_each: int = 1) -> None:
        """Raises UserError if a class of the condense split has fewer than `dpc` items, for stored ones that hold so many."""
        counts = torch.bincount(self.condense.labels, minlength=self.num_classes)
        for name, count in zip(self.class_names, counts.tolist(), strict=True):
            if count < dpc:
                has = f"{self.name}: class {name!r} has {count}"
                if items_in_each > 1:
                    wanted = f"dpc {dpc // items_in_each} with formation starts from {dpc}"
                    raise UserError(f"{has} items to condense, but {wanted}")
                raise UserError(f"{has} items to condense, but dpc is {dpc}")

    def check_modalities(self) -> None:
        """Raises UserError if a class of the condense split has no item with some modality: synthetic items have them all."""
        for modality, has in self.condense.present.items():
            counts = torch.bincount(self.condense.labels[has], minlength=self.num_classes)
            for name, count in zip(self.class_names, counts.tolist(), strict=True):
                if count == 0:
                    raise UserError(
                        f"{self.name}: class {name!r} has no item with {modality} to condense: each class needs at "
                        "least one with each modality in train, besides what is held out for validation"
                    )

    def check_pairs(self) -> None:
        """Raises UserError unless some pair of modalities occurs together in an item of every split."""
        splits = {"condense": self.condense, "validation": self.validation, "test": self._test}
        common = set(itertools.combinations(self.modalities, 2))
        for name, split in splits.items():
            everything = torch.ones(len(split), dtype=torch.bool)
            has = {m: split.present.get(m, everything).cpu() for m in self.modalities}
            common = {(a, b) for a, b in common if bool((has[a] & has[b]).any())}
            if not common:
                raise UserError(
                    f"{self.name}: `metric: retrieval` needs two modalities that some item of every split has both of; {name} "
                    "has no such item"
                )


def stratified_holdout(labels: Sequence[str], keys: Sequence[str], fraction: float) -> list[bool]:
    """Which items are held out: per class the `round(fraction * n)` (at least 1) with the smallest hash of their key.

    Depends on labels and keys only, so it is the same on every machine and in any row order.
    Raises UserError if a class has fewer than 2 items.
    """
    by_class: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        by_class.setdefault(label, []).append(index)
    held = [False] * len(labels)
    for label, members in by_class.items():
        if len(members) < 2:
            raise UserError(
                f"label {label!r} has {len(members)} train item: at least 2 are needed to split off validation"
            )
        members.sort(key=lambda i: (hashlib.sha256(keys[i].encode()).hexdigest(), keys[i]))
        for index in members[: min(len(members) - 1, max(1, round(fraction * len(members))))]:
            held[index] = True
    return held
