"""How many trials in a row have brought nothing."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from search.analysis.patience import trials_without_progress
from search.ledger.ledger import Report, TrialRecord


def trial(number: int, score: float | None, std: float = 0.0, seeds: int = 4, **changes: Any) -> TrialRecord:
    metrics = {"score": math.nan if score is None else score, "score_std": std, "seeds": float(seeds)}
    known: dict[str, Any] = {"status": "failed" if score is None else "completed", "finished": float(number), **changes}
    reports = (Report(10, float(number), 1.0, metrics),)
    return TrialRecord(
        number, known.pop("name", None), {}, {}, [0], 0.0, steps=10, score=score, reports=reports, **known
    )


def test_progress_is_more_than_the_best_one_s_standard_error() -> None:
    first = trial(0, 0.5, std=0.2)  # of 4 seeds: 0.1
    assert trials_without_progress([]) == trials_without_progress([first]) == 0
    assert trials_without_progress([first, trial(1, 0.59)]) == 1
    assert trials_without_progress([first, trial(1, 0.61)]) == 0
    assert trials_without_progress([first, trial(1, 0.59), trial(2, 0.61)]) == 0  # small steps add up


def test_what_counts() -> None:
    best = trial(0, 0.5)
    assert trials_without_progress([best, trial(1, None), trial(2, 0.6, status="pruned")]) == 2
    assert trials_without_progress([best, trial(1, 0.9, status="unfinished", finished=None)]) == 0
    assert trials_without_progress([best, trial(1, 0.1, name="default"), trial(2, 0.1, name="paper_default")]) == 0
    assert trials_without_progress([trial(0, 0.9, name="paper_default"), trial(1, 0.5)]) == 0  # no candidate
    assert trials_without_progress([trial(0, 0.9, name="default"), trial(1, 0.5)]) == 1


def test_the_order_is_that_in_which_they_ended() -> None:
    assert trials_without_progress([trial(0, 0.5, finished=3.0), trial(1, 0.6, finished=2.0)]) == 1
    assert trials_without_progress([trial(0, 0.5, finished=2.0), trial(1, 0.6, finished=3.0)]) == 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_without_spread_it_is_the_time_since_the_best(scores: list[int]) -> None:
    best = scores.index(max(scores))
    assert trials_without_progress([trial(i, float(s)) for i, s in enumerate(scores)]) == len(scores) - 1 - best
