"""Several objectives: what they are, the Pareto front, and a real search for two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from search_process import SearchProcess, report, table
from small_search import NO_CONFIRMATION

from search.analysis.pareto import pareto
from search.ledger.ledger import Report, TrialRecord
from search.space.model import Space
from search.tuning.journal import open_study

RANGE: dict[str, Any] = {"lambda_cross": {"low": 0.01, "high": 100, "log": True}}
TWO: dict[str, Any] = {"objectives": ["score", "worst_class"], "scheduler": "none"}


def space(**changes: Any) -> Space:
    return Space.model_validate({"name": "two", "tasks": [{}], "search": RANGE, **TWO, **changes})


def record(number: int, *values: float, status: Any = "completed") -> TrialRecord:
    metrics = {"score": values[0], "objective/worst_class": values[1], "seeds": 3.0}
    return TrialRecord(
        number=number,
        name=None,
        params={},
        config={},
        seeds=[0],
        created=0.0,
        status=status,
        score=values[0],
        reports=(Report(60, 1.0, 1.0, metrics),),
    )


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20))
def test_the_front_is_what_no_other_beats(values: list[tuple[int, int]]) -> None:
    found = pareto(space(), [record(i, *map(float, pair)) for i, pair in enumerate(values)])
    assert found is not None and found["objectives"] == ["score", "worst_class"]
    for trial in found["trials"]:
        a, b = trial["values"]
        better = [pair for pair in values if pair[0] >= a and pair[1] >= b and pair != (a, b)]
        assert trial["front"] == (not better)
    assert any(trial["front"] for trial in found["trials"])


def test_what_has_no_values_is_left_out() -> None:
    default = dataclasses.replace(record(3, 0.9, 0.9), name="paper_default")
    failed = record(1, 0.5, 0.5, status="failed")
    found = pareto(space(), [record(0, 0.5, float("nan")), failed, record(2, 0.1, 0.1), default])
    assert found is not None and [trial["number"] for trial in found["trials"]] == [2]
    assert pareto(space(objectives=["score"]), [record(0, 0.5, 0.5)]) is None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"objectives": ["worst_class"]}, "must begin with score"),
        ({"objectives": ["score", "score"]}, "differ from each other"),
        ({"scheduler": "asha"}, "need `scheduler`: none"),
        ({"racing": {}}, "no `racing`"),
        ({"sampler": {"name": "cmaes"}}, "cmaes has a single objective"),
    ],
)
def test_what_does_not_go_together(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        space(**changes)


@pytest.mark.faults
def test_a_search_for_two(
    start: Callable[..., SearchProcess], write_space: Callable[..., Path], tmp_path: Path
) -> None:
    scale = {"frequency_scale": {"low": 0.1, "high": 4, "log": True}}
    searched = {**RANGE, "lambda_joint": RANGE["lambda_cross"], **scale}  # the default lies in it
    path = write_space(
        tmp_path,
        **TWO,
        search=searched,
        sampler={"name": "nsga2", "startup_trials": 3},
        trials=8,
        confirmation=NO_CONFIRMATION,
    )
    search = start("--space", path, "--output", tmp_path / "out")
    assert search.finish() == 0, search.said()
    found = report(tmp_path / "out")["pareto"]
    study = open_study(tmp_path / "out")
    assert len(study.directions) == 2
    assert {t.number for t in study.best_trials} == {t["number"] for t in found["trials"] if t["front"]}
    rows = table(tmp_path / "out")
    assert (
        len(found["trials"]) == sum(row["status"] == "completed" and row["name"] != "paper_default" for row in rows) > 3
    )
    for trial in found["trials"]:
        assert trial["values"] == pytest.approx(study.trials[trial["number"]].values)
        assert trial["values"][0] == pytest.approx(rows[trial["number"]]["score"])
    assert report(tmp_path / "out")["recommended"]
