"""Folds: the items of train and validation, divided into parts of which each is held out for validation once.

A score on one validation split tells of the few hundred items, or the few speakers, that happen to be in it; the mean over folds
tells of all of them. The test split has no part in this.

Both divisions go by hashes: they are the same on every machine and in any row order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from condense.config.models import Fold
from condense.data.dataset import Dataset, FoldOf, Split
from condense.storage.store import hash_of
from condense.system.errors import UserError

VERSION = 1
PARTS = ("condense", "validation")  # of what folds are made, in the order of a pool's items


def fold_of(dataset: Dataset, fold: Fold) -> Dataset:
    """`dataset` with another division of condense and validation: fold number `fold.index` is validation, the others condense.

    What is measured on the condense split and not by an encoder, the units of series and the range of inputs, stays that of
    `dataset`.

    Raises UserError if the data cannot be divided so.
    """
    number = torch.from_numpy(fold_numbers(dataset, fold))
    held = number == fold.index
    rows = {"condense": (~held).nonzero()[:, 0], "validation": held.nonzero()[:, 0]}
    pool = dataset.condense, dataset.validation
    key = {"version": VERSION, "dataset": dataset.fingerprint, **fold.model_dump(mode="json")}
    # Other divisions of the same items are other data.
    key["validation"] = hashlib.sha256(np.packbits(held.numpy()).tobytes()).hexdigest()
    made = replace(
        dataset,
        name=f"{dataset.name}, fold {fold.index + 1} of {fold.of}",
        fingerprint=hash_of(key),
        fold=FoldOf(dataset, rows),
        digests={},
        condense=PooledSplit(pool, rows["condense"]),
        validation=PooledSplit(pool, rows["validation"]),
    )
    made.check_modalities()
    return made


def fold_numbers(dataset: Dataset, fold: Fold) -> np.ndarray:
    """(n,) int64 in 0 .. fold.of - 1: in which fold each item of condense and, after these, of validation is held out.

    Raises UserError if there are too few items or groups, or if a fold would leave the condense split without a label.
    """
    labels = torch.cat([dataset.condense.labels, dataset.validation.labels]).cpu().numpy()
    if fold.by == "group":
        groups = pooled_groups(dataset)
        if groups is None:
            raise UserError(f"{dataset.name}: folds by group need groups, but the data have none")
        number = grouped_folds(labels, groups, fold.of)
    else:
        digests = [digest for part in PARTS for digest in dataset.digests.get(part, ())]
        if len(digests) != len(labels):  # of a dataset that was made by hand
            digests = list(map(str, range(len(labels))))
        number = stratified_folds(labels, digests, fold.of)
    for index in range(fold.of):
        held = number == index
        left = np.unique(labels[~held])
        if not held.any() or len(left) < len(np.unique(labels)):
            lacks = "no item" if not held.any() else "all items of a label"
            raise UserError(
                f"{dataset.name}: {fold.of} folds by {fold.by}: fold {index} would hold out {lacks}: give fewer folds, "
                "or more items"
            )
    return number


def pooled_groups(dataset: Dataset) -> np.ndarray | None:
    """(n,) the groups of condense's and validation's items; None where the data have none."""
    known = [split.groups for split in (dataset.condense, dataset.validation)]
    return None if any(own is None for own in known) else torch.cat(known).cpu().numpy()  # type: ignore[arg-type]


def grouped_folds(labels: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """(n,) int64 in 0 .. count - 1, the same for all items of a group, with about as many items of each label in each fold.

    Large groups first (ties by hash), each into the fold where the sum over labels of (share of the label's items)^2 grows
    least: that sum is smallest where all folds have the same share.

    Raises UserError if there are fewer groups than folds.
    """
    names, place = np.unique(groups, return_inverse=True)
    if len(names) < count:
        raise UserError(f"{count} folds by group need as many groups, but there are {len(names)}")
    classes, label = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(names), len(classes)))
    np.add.at(counts, (place, label), 1)
    share = counts / counts.sum(0)  # (G, C)
    # In whole numbers, so that no rounding decides about the order.
    order = sorted(range(len(names)), key=lambda i: (-round(1e9 * float(share[i].sum())), _hashed(str(names[i]))))
    taken, fold = np.zeros((count, len(classes))), np.zeros(len(names), dtype=np.int64)
    empty = count
    for at, group in enumerate(order):
        growth = ((taken + share[group]) ** 2 - taken**2).sum(1)
        if len(order) - at <= empty:  # no fold stays empty
            growth[taken.any(1)] = np.inf
        best = int(np.flatnonzero(growth <= growth.min() + 1e-9)[0])
        empty -= not taken[best].any()
        fold[group] = best
        taken[best] += share[group]
    return fold[place]


def stratified_folds(labels: np.ndarray, digests: Sequence[str], count: int) -> np.ndarray:
    """(n,) int64 in 0 .. count - 1: each label's distinct items in the order of their hashes, dealt out in turn. Items with the
    same label and digest are one.

    Labels take their turns one after the other, so folds differ by one item at most, of each label and of all.
    """
    items = sorted(
        {(int(label), digest) for label, digest in zip(labels, digests, strict=True)},
        key=lambda item: (item[0], _hashed(item[1]), item[1]),
    )
    fold = {item: i % count for i, item in enumerate(items)}
    return np.array([fold[int(label), digest] for label, digest in zip(labels, digests, strict=True)], dtype=np.int64)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class PooledSplit:
    """The items `rows` of several splits, one after the other (see `condense.data.dataset.Split`)."""

    parts: tuple[Split, ...]
    rows: Tensor  # (n,) int64, in 0 .. sum of the parts' sizes - 1

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Tensor:
        return self._chosen(lambda part: part.labels)

    @property
    def groups(self) -> Tensor | None:
        if any(part.groups is None for part in self.parts):
            return None
        return self._chosen(lambda part: part.groups)  # type: ignore[arg-type, return-value]

    @property
    def present(self) -> Mapping[str, Tensor]:
        names = dict.fromkeys(name for part in self.parts for name in part.present)
        has = {name: self._chosen(lambda part, name=name: _present(part, name)) for name in names}  # type: ignore[misc]
        return {name: mask for name, mask in has.items() if not mask.all()}

    def load(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        rows = self.rows[torch.as_tensor(indices, dtype=torch.int64)]
        loaded: dict[str, Tensor] = {}
        first = 0
        for part in self.parts:
            mine = ((rows >= first) & (rows < first + len(part))).nonzero()[:, 0]
            if len(mine):
                for name, x in part.load(rows[mine] - first).items():
                    if name not in loaded:
                        loaded[name] = torch.zeros(len(rows), *x.shape[1:], dtype=x.dtype, device=x.device)
                    loaded[name][mine] = x.to(loaded[name].device)
            first += len(part)
        return loaded

    def _chosen(self, of: Callable[[Split], Tensor]) -> Tensor:
        return torch.cat([of(part) for part in self.parts])[self.rows]


def _present(part: Split, name: str) -> Tensor:
    found = part.present.get(name)
    return torch.ones(len(part), dtype=torch.bool) if found is None else found.cpu()
