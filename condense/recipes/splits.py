"""Which split a group goes to: all variants of one concept, or all that is of one person, stay together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}


def split_groups(groups: Sequence[str], labels: Sequence[str], shares: Mapping[str, float] = SHARES) -> dict[str, str]:
    """The split of each group. `groups` and `labels`: (n,), of the items.

    Class by class, the groups come in the order of their names' SHA-256, and each goes to the split that lacks most of its
    share of items. So every class with three groups or more is in all three. A group counts as of its most frequent class.
    """
    size = Counter(groups)
    class_of: dict[str, str] = {}
    for (group, label), _ in sorted(
        Counter(zip(groups, labels, strict=True)).items(), key=lambda each: (-each[1], each[0])
    ):
        class_of.setdefault(group, label)
    split_of: dict[str, str] = {}
    for label in sorted(set(class_of.values())):
        have = dict.fromkeys(shares, 0)
        members = (group for group in class_of if class_of[group] == label)
        for group in sorted(members, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
            split = min(shares, key=lambda name: have[name] / shares[name])
            split_of[group] = split
            have[split] += size[group]
    return split_of
