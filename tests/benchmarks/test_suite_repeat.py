"""Repeated searches: what is compared with what on test, and that an interrupted run goes on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import suite_repeat
from test_suite_flow import SPACE

from condense.config.published import paper_default
from search.analysis.paired import Items, Outcome


def outcome(rng: np.random.Generator, common: np.ndarray, right: float) -> Outcome:
    hits = common + rng.normal(0, 0.2, (10, len(common))) < right
    return Outcome(hits.mean(1).tolist(), [hits.astype(float)])


def test_a_mean_over_searches_and_over_tasks() -> None:
    rng = np.random.default_rng(0)
    items = [Items(400, data="a"), Items(300, data="b")]
    common = [rng.uniform(0, 1, each.count) for each in items]
    searches = [[outcome(rng, own, level) for level in (0.7, 0.8, 0.9)] for own in common]
    rival = [outcome(rng, own, 0.6) for own in common]
    found = suite_repeat.figures_of(searches[0], {"mmd": rival[0]}, items[:1])
    each = [one["mean"] for one in found["mmd"]["searches"]]
    assert found["mmd"]["difference"]["mean"] == pytest.approx(float(np.mean(each)))
    assert found["mmd"]["difference"]["mean"] == pytest.approx(found["recommended"] - found["mmd"]["score"])
    assert each == sorted(each) and found["mmd"]["difference"]["ci95"][0] > 0
    means = [suite_repeat.mean_outcome(own) for own in searches]
    whole = suite_repeat.figures_of([suite_repeat.together(means)], {"mmd": suite_repeat.together(rival)}, items)
    other = suite_repeat.figures_of(searches[1], {"mmd": rival[1]}, items[1:])
    both = (found["mmd"]["difference"]["mean"] + other["mmd"]["difference"]["mean"]) / 2
    assert whole["mmd"]["difference"]["mean"] == pytest.approx(both)
    assert whole["mmd"]["difference"]["covers"] == ["seeds", "items"]


def test_what_is_the_rival_itself_differs_by_nothing() -> None:
    rng = np.random.default_rng(0)
    items, common = [Items(400, data="a")], rng.uniform(0, 1, 400)
    rival, other = outcome(rng, common, 0.6), outcome(rng, common, 0.7)
    kept = suite_repeat.figures_of([rival, rival], {"mmd": rival}, items)["mmd"]
    assert kept["difference"]["ci95"] == [0.0, 0.0] and suite_repeat.told_difference(kept) == "the same setting"
    mixed = suite_repeat.figures_of([rival, other], {"mmd": rival}, items)["mmd"]
    assert [own["ci95"] == [0.0, 0.0] for own in mixed["searches"]] == [True, False]
    assert mixed["difference"]["ci95"][0] < mixed["difference"]["mean"] < mixed["difference"]["ci95"][1]


@pytest.mark.faults
def test_every_search_is_judged_and_a_second_run_searches_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def search(cell: Any, trials: int, seed: int) -> dict[str, Any]:
        asked.append(seed)
        own = paper_default().model_copy(update={"lambda_cross": float(seed)})
        return {
            "hyperparameters": own.model_dump(mode="json"),
            "report": {"verdict": {"keep_default": seed == 1, "published": "default"}},
        }

    monkeypatch.setattr(suite_repeat, "search", search)
    monkeypatch.setattr(suite_repeat, "read_spaces", lambda _: {"spoken_digits": SPACE})
    monkeypatch.setattr(suite_repeat, "MMD_LEARNING_RATES", (0.3,))
    options = argparse.Namespace(
        tasks=["spoken_digits"], dpc=1, repetitions=2, seeds=2, trials=4, output=tmp_path, json=tmp_path / "out.json"
    )
    first = suite_repeat.benchmark(options)
    second = suite_repeat.benchmark(options)
    assert asked == [1, 2]
    assert first["tasks"] == second["tasks"]
    own = first["tasks"]["spoken_digits"]
    assert own["verdicts"] == ["default", "own"] and own["metric"] == "accuracy"
    low, high = own["mmd"]["difference"]["ci95"]
    assert low <= own["mmd"]["difference"]["mean"] <= high
    assert first["average"]["mmd"]["difference"] == own["mmd"]["difference"]
    assert "| spoken_digits | 1 x default, 1 x own |" in capsys.readouterr().out
