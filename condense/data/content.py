"""What a dataset holds, item by item, in a form to keep: the same wherever its files lie, and able to tell what has changed.

A fingerprint says whether two datasets are the same. This says how they differ: by items, labels or splits.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

WIDTH = 8  # bytes of a hash: of a million items, some pair is alike by chance once in 30 million datasets
PARTS = ("item", "label", "split")


def content_of(rows: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """(split, label, digest of the item) of each item in order -> `item`, `label` and `split`: a hash of each, in base64."""
    splits, labels, digests = zip(*rows, strict=True)
    hashes = {"item": map(_hash, digests), "label": _hashed(labels), "split": _hashed(splits)}
    return {part: base64.b64encode(b"".join(hashes[part])).decode("ascii") for part in PARTS}


def _hash(value: str) -> bytes:
    return hashlib.sha256(value.encode()).digest()[:WIDTH]


def _hashed(values: Iterable[str]) -> Iterable[bytes]:
    """The hashes of few values, many times."""
    return map(functools.cache(_hash), values)


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> str | None:
    """How the items differ, in a phrase (`20 of 400 items have another label`); None: they do not, or one is not known.

    Raises ValueError if one is no `content_of`.
    """
    if not before or not after:
        return None
    old, new = _hashes(before), _hashes(after)
    count = len(old["item"])
    if len(new["item"]) != count:
        kept = (Counter(old["item"].tolist()) & Counter(new["item"].tolist())).total()
        return f"there were {count:,} items, now there are {len(new['item']):,}: {kept:,} of them are as they were"
    moved = {part: int((old[part] != new[part]).sum()) for part in PARTS}
    if moved["item"] and sorted(_whole(old)) == sorted(_whole(new)):
        return f"{moved['item']:,} of {count:,} items have another place in the order"
    words = {"item": "hold something else", "label": "have another label", "split": "are in another split"}
    found = [f"{moved[part]:,} of {count:,} items {words[part]}" for part in PARTS if moved[part]]
    return ", ".join(found) or None


def _hashes(content: Mapping[str, str]) -> dict[str, np.ndarray]:
    """part -> (n,) of `WIDTH` bytes each, as integers."""
    return {part: np.frombuffer(base64.b64decode(content[part], validate=True), dtype=np.uint64) for part in PARTS}


def _whole(hashes: Mapping[str, np.ndarray]) -> list[tuple[int, ...]]:
    return list(zip(*(hashes[part].tolist() for part in PARTS), strict=True))
