"""How many threads an engine on a CPU takes."""

from __future__ import annotations

import pytest

from search.engine.actor import default_threads


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (4, 4), (5, 4), (64, 63)])
def test_where_there_are_cores_to_spare_one_is_left_to_the_others(cores: int, threads: int) -> None:
    assert default_threads(cores) == threads
