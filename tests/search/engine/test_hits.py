"""Which items were right, as text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.engine.hits import pack_hits, unpack_hits


@given(st.lists(st.booleans(), max_size=200))
def test_what_is_packed_comes_back(hits: list[bool]) -> None:
    text = pack_hits(hits)
    assert text.isascii() and len(text) <= 4 * (len(hits) // 24 + 1)
    assert unpack_hits(text, len(hits)).tolist() == hits
    assert text == pack_hits(np.array(hits, dtype=bool))


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 200))
def test_another_number_of_items_is_refused(hits: list[bool], count: int) -> None:
    if (count + 7) // 8 == (len(hits) + 7) // 8:
        return
    with pytest.raises(ValueError, match="hits of"):
        unpack_hits(pack_hits(hits), count)


def test_what_is_no_base64_is_refused() -> None:
    with pytest.raises(ValueError, match="base64"):
        unpack_hits("no base64!", 3)


@given(st.lists(st.sampled_from([0.0, 1 / 6, 0.5, 1.1, -0.3]), max_size=60))
def test_few_different_values_come_back_exactly(values: list[float]) -> None:
    assert unpack_hits(pack_hits(np.array(values, dtype=float)), len(values)).tolist() == values


def test_many_different_values_are_rounded() -> None:
    values = np.random.default_rng(0).normal(0.6, 0.5, 1000)
    text = pack_hits(values)
    assert text.isascii() and len(text) < 2700
    back = unpack_hits(text, 1000)
    assert np.abs(back - values).max() < 1e-3 and abs(back.mean() - values.mean()) < 1e-4
    for packed in (text, pack_hits(np.array([0.25, 0.5, 0.25]))):
        with pytest.raises(ValueError, match="hits of 7 items"):
            unpack_hits(packed, 7)
