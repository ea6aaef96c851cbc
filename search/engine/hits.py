"""Which items a probe gets right, as text: eight items a byte, in base64. Imports no torch."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np


def pack_hits(hits: Sequence[bool] | np.ndarray) -> str:
    """(n,) bool -> ASCII, of about n / 6 characters; n itself is not kept."""
    return base64.b64encode(np.packbits(np.asarray(hits, dtype=bool)).tobytes()).decode("ascii")


def unpack_hits(text: str, count: int) -> np.ndarray:
    """(count,) bool: what `pack_hits` was given. Raises ValueError for a text of another number of items."""
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except binascii.Error:
        raise ValueError("hits must be in base64") from None
    if len(packed) != (count + 7) // 8:
        raise ValueError(f"hits of {count} items must be {(count + 7) // 8} bytes, but got {len(packed)}")
    return np.unpackbits(packed, count=count).astype(bool)


def pack_judged(judged: Sequence[Any]) -> dict[str, list[Any]]:
    """{scores, hits} of `condense.evaluation.replica_scores.Judged`; hits are None where they are not known."""
    return {
        "scores": [one.score for one in judged],
        "hits": [None if one.hits is None else pack_hits(np.asarray(one.hits)) for one in judged],
    }
