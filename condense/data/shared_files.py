"""Items that share a file: five captions of one picture, one picture with two sounds. They belong together, like a group.

A file is known by its content, so a copy under another name is the same. Items that share a file, directly or through others,
are one component; with given groups, those that share a group as well.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from condense.data.dataset import stratified_holdout
from condense.data.groups import grouped_holdout
from condense.system.errors import UserError


def components(keys: Sequence[Sequence[Hashable]], names: Sequence[str]) -> list[str]:
    """The component of each item: the smallest of its items' `names`. `keys`: what each item may share with others."""
    from scipy.sparse import coo_array  # only for those who need them: they take half a second
    from scipy.sparse.csgraph import connected_components

    number: dict[Hashable, int] = {}
    edges = [(item, number.setdefault(key, len(number))) for item, own in enumerate(keys) for key in own]
    items, ends = np.asarray(edges, dtype=np.int64).reshape(-1, 2).T
    size = len(keys) + len(number)
    graph = coo_array((np.ones(len(items), dtype=np.int8), (items, len(keys) + ends)), shape=(size, size))
    _, found = connected_components(graph, directed=False)
    name_of: dict[int, str] = {}
    for component, name in zip(found[: len(keys)].tolist(), names, strict=True):
        name_of[component] = min(name, name_of.get(component, name))
    return [name_of[component] for component in found[: len(keys)].tolist()]


def held_out_components(
    labels: Sequence[str], whole: Sequence[str], digests: Sequence[str], fraction: float
) -> list[bool]:
    """Which items are held out: whole components, so that of each label about `fraction` of the items is.

    `whole`: each item's component; `digests`: of each item's content. Components are taken in the order of their names' hashes,
    each one that brings the labels' counts closer to what `stratified_holdout` takes; without any shared file the result is
    the same. A label that has nothing held out then gets its smallest component; and where train would lose a label with
    any, its items one by one, which the caller tells (`crossing`). Depends on content and labels only.
    """
    total = Counter(labels)
    target = {label: min(n - 1, max(1, round(fraction * n))) for label, n in total.items()}
    inside: dict[str, Counter[str]] = {}
    for label, name in zip(labels, whole, strict=True):
        inside.setdefault(name, Counter())[label] += 1
    order = sorted(inside, key=lambda name: (hashlib.sha256(name.encode()).hexdigest(), name))
    taken: Counter[str] = Counter()
    chosen: set[str] = set()

    def fits(name: str) -> bool:
        """Whether train keeps every label without it."""
        return name not in chosen and all(taken[label] + n < total[label] for label, n in inside[name].items())

    def take(name: str) -> None:
        chosen.add(name)
        taken.update(inside[name])

    for name in order:
        own = inside[name]
        closer = sum(abs(taken[y] - target[y]) - abs(taken[y] + n - target[y]) for y, n in own.items())
        if closer > 0 and fits(name):
            take(name)
    for label in sorted(total):
        if not taken[label]:
            there = [name for name in order if label in inside[name] and fits(name)]
            if there:
                take(min(there, key=lambda name: inside[name].total()))
    held = [name in chosen for name in whole]
    for label in (label for label in total if not taken[label]):
        rows = [i for i, y in enumerate(labels) if y == label]
        distinct = sorted({digests[i] for i in rows})
        if len(distinct) > 1:
            of_content = dict(
                zip(distinct, stratified_holdout([label] * len(distinct), distinct, fraction), strict=True)
            )
            for i in rows:
                held[i] = of_content[digests[i]]
    return held


def grouped_with_files(
    labels: Sequence[str], groups: Sequence[str], keys: Sequence[Sequence[Hashable]], fraction: float
) -> tuple[list[bool], list[str]]:
    """Which items are held out by given groups, and what they were held out by: groups that share a file go together, unless
    validation cannot be split off then. Raises UserError if the groups themselves do not allow it."""
    joined = components([[("group", group), *own] for group, own in zip(groups, keys, strict=True)], groups)
    if joined != list(groups):
        try:
            return grouped_holdout(labels, joined, fraction), joined
        except UserError:
            pass
    return grouped_holdout(labels, groups, fraction), list(groups)


def crossing(source: str, what: str, of_splits: Mapping[str, Mapping[Hashable, str]]) -> tuple[str, ...]:
    """One warning if something is on both sides of a split. `of_splits`: split -> what is there -> its place, for an example.
    `what`: its name in the singular."""
    found: list[str] = []
    for a, b in itertools.combinations(of_splits, 2):
        common = [key for key in of_splits[a] if key in of_splits[b]]
        if common:
            count = (
                f"{len(common):,} {what}{'s are' if len(common) > 1 else ' is'}" if not found else f"{len(common):,}"
            )
            example = f"{of_splits[a][common[0]]} and {of_splits[b][common[0]]}"
            found.append(f"{count} in both {a} and {b} (such as {example})")
    return (f"{source}: {', '.join(found)}: scores there are not of new items",) if found else ()
