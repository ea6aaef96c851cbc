"""A score at its ceiling or floor is noticed."""

from __future__ import annotations

from typing import Any

import pytest

from search.analysis.saturation import Saturation
from search.ledger.ledger import Report, TrialRecord
from search.space.model import Robust
from search.space.plan import Plan


def trials(accuracies: list[float], status: Any = "completed") -> list[TrialRecord]:
    found = []
    for number, value in enumerate(accuracies):
        metrics = {"accuracy/seed_0": value - 0.001, "accuracy/seed_1": value + 0.001, "seeds": 2.0, "score": value}
        reports = (Report(6, 0.0, 0.0, metrics),)
        found.append(TrialRecord(number, None, {}, {}, [0, 1], 0.0, status, 6, value, reports=reports))
    return found


@pytest.mark.parametrize(
    ("accuracies", "limit"),
    [
        ([0.999, 0.998, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], "ceiling"),
        ([0.999, 0.97, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], None),
        ([0.104, 0.1, 0.09, 0.1, 0.1, 0.1, 0.1, 0.1], "floor"),
        ([0.3, 0.15, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], None),
        ([1.0, 1.0, 1.0], None),  # too few to say
    ],
)
def test_it_looks_at_the_best_quarter(accuracies: list[float], limit: str | None) -> None:
    looks = Saturation(Plan([{"dpc": 1}], [0, 1], [6], Robust(), None), [10])
    assert looks.of(trials(accuracies)) == limit
    assert (looks.line(trials(accuracies)) is None) == (limit is None)
    assert looks.of(trials(accuracies, "pruned")) is None


def test_it_says_what_helps() -> None:
    looks = Saturation(Plan([{"dpc": 1}], [0, 1], [6], Robust(), None), [10])
    assert looks.line(trials([1.0] * 8)) == (
        "the score is at its ceiling (the best quarter of 8 trials: 99% right or more), where settings cannot be told apart; "
        "what helps: `metric: log_loss` where it is accuracy, fewer synthetic items per class (smaller `dpc`), a `group` "
        "for each item, or a harder split"
    )
    assert "larger `dpc`" in str(looks.line(trials([0.1] * 8)))


def test_every_task_must_be_at_its_limit() -> None:
    metrics: dict[str, float] = {f"accuracy/task_{t}/seed_0": (1.0, 0.9)[t] for t in range(2)} | {"seeds": 1.0}
    record = trials([1.0])[0]
    both = [
        TrialRecord(i, None, {}, {}, [0], 0.0, "completed", 6, 1.0, reports=(Report(6, 0.0, 0.0, metrics),))
        for i in range(4)
    ]
    assert record.reports
    assert Saturation(Plan([{}, {}], [0], [6], Robust(), None), [10, 10]).of(both) is None
