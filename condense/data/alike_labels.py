"""Labels that look like one another, or like a missing value: classes of their own, which nobody may have meant.

Labels that differ in nothing but their Unicode form (`é` as one character or as two) are one class: they cannot be told apart by
eye, and programs change this form on the way (`condense/data/manifest_rows.py` makes it NFC). All other differences are kept.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable

MISSING = frozenset({"nan", "null", "none", "na", "n/a", "#n/a", "<na>", "nil", "undefined", "missing", "-", "?"})
EXAMPLES = 3


def alike_labels(source: str, labels: Iterable[str]) -> tuple[str, ...]:
    """At most two warnings. `labels`: of each item. `source`: the file that they are in."""
    counts = Counter(labels)
    alike: dict[str, list[str]] = {}
    for label in sorted(counts):
        alike.setdefault(folded(label), []).append(label)
    groups = [group for group in alike.values() if len(group) > 1]
    missing = [label for label in sorted(counts) if folded(label) in MISSING]
    found = []
    if groups:
        shown = _some([" and ".join(f"{label!r} ({counts[label]:,})" for label in group) for group in groups])
        number = sum(map(len, groups))
        found.append(
            f"{source}: {number} labels differ only in case, width or spaces, and are classes of their own: {shown}"
        )
    if missing:
        shown = _some([f"{label!r} ({counts[label]:,})" for label in missing])
        found.append(f"{source}: taken as a class, though it looks like a missing value: {shown}")
    return tuple(found)


def folded(label: str) -> str:
    """The same for labels that look alike: without case, width and additional spaces.

    Unicode's compatibility caseless matching (The Unicode Standard, D146).
    """
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", label).casefold())
    return " ".join(unicodedata.normalize("NFKD", text.casefold()).split())


def _some(parts: list[str]) -> str:
    return ", ".join(parts[:EXAMPLES]) + (f" and {len(parts) - EXAMPLES} more" if len(parts) > EXAMPLES else "")
