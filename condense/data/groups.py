"""Groups: items that belong together (of one speaker, patient, scene, recording), and must not be divided by a split.

A model that has seen a speaker knows more about that speaker's other recordings than about anybody else's. A score on groups
that were seen says nothing about new ones.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from condense.system.errors import UserError

TIE = 1e-9  # of (share)^2: what is nearer than this is as near, so that no rounding decides
ROUNDS = 5  # of places changed, at most


def grouped_holdout(labels: Sequence[str], groups: Sequence[str], fraction: float) -> list[bool]:
    """Which items are held out: whole groups, so that of each label about `fraction` of the items is.

    Groups are taken in the order of their names' hashes, each one that lowers the sum over labels of (share held - fraction)^2;
    then held groups change places with others as long as that lowers it further. A group that is the last with some label
    stays. Depends on the counts per group and label only, so it is the same on every machine and in any row order.

    Raises UserError if no group can be held out.
    """
    names = sorted(set(groups), key=lambda name: (hashlib.sha256(name.encode()).hexdigest(), name))
    counts = _counts(labels, groups, names)  # (G, C)
    whole = counts.sum(0)

    def distances(held: np.ndarray) -> np.ndarray:
        """(..., C) items held -> (...): infinite where train would lose a label."""
        found = np.square(held / whole - fraction).sum(-1)
        return np.where((held == whole).any(-1), np.inf, found)

    if not np.isfinite(distances(counts)).any():
        raise UserError(
            f"{len(names)} group{'s' if len(names) != 1 else ''} in train, and with each train would lose a label: validation "
            "cannot be split off without dividing a group: give more groups, or validation items of your own"
        )
    is_held, taken = np.zeros(len(names), dtype=bool), np.zeros_like(whole)
    for row, own in enumerate(counts):
        if distances(taken + own) < distances(taken) - TIE:
            is_held[row], taken = True, taken + own
    if not is_held.any():  # all are large
        is_held[int(distances(counts).argmin())] = True
        taken = counts[is_held][0]
    for _ in range(ROUNDS):
        before = distances(taken)
        for group in np.flatnonzero(is_held).tolist():
            others = np.flatnonzero(~is_held)  # never empty: train keeps a group
            after = distances(taken - counts[group] + counts[others])
            if after.min() < distances(taken) - TIE:
                best = others[int(after.argmin())]
                is_held[[group, best]], taken = [False, True], taken - counts[group] + counts[best]
        if not distances(taken) < before:
            break
    held = {name for name, chosen in zip(names, is_held.tolist(), strict=True) if chosen}
    return [group in held for group in groups]


def _counts(labels: Sequence[str], groups: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """(G, C) int64: items of each of the groups `names` with each label, labels sorted."""
    row, column = ({name: i for i, name in enumerate(of)} for of in (names, sorted(set(labels))))
    counts = np.zeros((len(row), len(column)), dtype=np.int64)
    for label, group in zip(labels, groups, strict=True):
        counts[row[group], column[label]] += 1
    return counts


def group_numbers(of_splits: Mapping[str, Sequence[Hashable]]) -> dict[str, Tensor]:
    """split -> (n,) int64: 0, 1, ... in the order of the sorted groups of all splits."""
    known = sorted(set(itertools.chain.from_iterable(of_splits.values())))  # type: ignore[type-var]
    number = {group: i for i, group in enumerate(known)}
    return {
        split: torch.tensor([number[group] for group in groups], dtype=torch.int64)
        for split, groups in of_splits.items()
    }


def shared_groups(source: str, of_splits: Mapping[str, Tensor], names: Sequence[object] = ()) -> tuple[str, ...]:
    """One warning if a group is on both sides of a split; `of_splits`: split -> (n,) numbers of groups. `names`: of the groups,
    by number, for an example."""
    found = []
    for a, b in itertools.combinations(of_splits, 2):
        common = set(of_splits[a].tolist()) & set(of_splits[b].tolist())
        if common:
            example = f" (such as {names[min(common)]!r})" if names else ""
            found.append(f"{len(common)} in both {a} and {b}{example}")
    if not found:
        return ()
    total = len(set(torch.cat(list(of_splits.values())).tolist()))
    return (f"{source}: of {total} groups {', '.join(found)}: scores there are not of new groups",)
