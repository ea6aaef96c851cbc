"""A matrix of all similarities, some rows at a time: what is quadratic in the items is never held whole."""

from __future__ import annotations

from collections.abc import Iterator

BLOCK = 2**21  # numbers of a matrix that are held at a time: 8 MB in float32, and about three such beside it


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """0 .. rows - 1 in slices of so many rows that a block has at most `BLOCK` numbers; at least one row."""
    step = max(1, BLOCK // max(1, columns))
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))


def sets_at_once(items: int) -> int:
    """How many sets of so many items have similarities among their own of one block; at least one."""
    return max(1, BLOCK // max(1, items) ** 2)
