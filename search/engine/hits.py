"""Values of held-out items as text, in base64. Of an accuracy: which items a probe gets right ("hits"), eight items a byte. Of
other scores: values whose mean is the score (`condense/evaluation/item_values.py`), a byte or two each. Imports no torch.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np

LEVELS, HALVES = "levels:", "float16:"  # a text without either is of bools
MOST_LEVELS = 256


def pack_hits(hits: Sequence[bool] | np.ndarray) -> str:
    """(n,) bool -> ASCII, of about n / 6 characters; n itself is not kept.

    Values of a recall, of which there are few different ones, come back as they are: the values, and which one each item has.
    Others are rounded to 11 bits.
    """
    values = np.asarray(hits)
    if values.dtype.kind in "bi" or values.size == 0:
        return _text(np.packbits(values.astype(bool)))
    levels, which = np.unique(values.astype(np.float64), return_inverse=True)
    if len(levels) <= min(MOST_LEVELS, len(values)):
        return f"{LEVELS}{_text(levels)}:{_text(which.astype(np.uint8))}"
    return HALVES + _text(values.astype(np.float16))


def unpack_hits(text: str, count: int) -> np.ndarray:
    """(count,) bool or float64: what `pack_hits` was given. Raises ValueError for a text of another number of items."""
    if text.startswith(LEVELS):
        levels, which = (_bytes(part) for part in text.removeprefix(LEVELS).split(":"))
        return np.frombuffer(levels)[_counted(np.frombuffer(which, dtype=np.uint8), count, count)]
    if text.startswith(HALVES):
        values = np.frombuffer(_bytes(text.removeprefix(HALVES)), dtype=np.uint8)
        return _counted(values, 2 * count, count).view(np.float16).astype(float)
    packed = _counted(np.frombuffer(_bytes(text), dtype=np.uint8), (count + 7) // 8, count)
    return np.unpackbits(packed, count=count).astype(bool)


def pack_judged(judged: Sequence[Any]) -> dict[str, list[Any]]:
    """{scores, hits, log_loss} of `condense.evaluation.replica_scores.Judged`; None where these are not known."""
    return {
        "scores": [one.score for one in judged],
        "hits": [None if one.values is None else pack_hits(np.asarray(one.values)) for one in judged],
        "log_loss": [one.log_loss for one in judged],
    }


def _text(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("hits must be in base64") from None


def _counted(packed: np.ndarray, size: int, count: int) -> np.ndarray:
    if len(packed) != size:
        raise ValueError(f"hits of {count} items must be {size} bytes, but got {len(packed)}")
    return packed
