"""Proposals of a space with steps, conditions and constraints: never one that it does not allow, interrupted or not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from condense.config.models import Hyperparameters
from search.ledger.ledger import Ledger
from search.space.files import load_space
from search.space.model import Space
from search.tuning.journal import open_study
from search.tuning.searcher import SpaceSearcher

SAMPLERS = ("tpe", "gp", "cmaes", "nsga2", "random", "qmc")
SEARCH = """search={
    momentum: {low: 0, high: 0.9, step: 0.1, when: {optimizer: sgd}}, optimizer: {choices: [sgd, adam]},
    lambda_cross: {low: 0.01, high: 10, log: true}, lambda_joint: {low: 0.01, high: 10, log: true},
    num_frequencies: {low: 64, high: 512, step: 64}}""".replace("\n", " ")


def make(sampler: str, trials: int = 24, *more: str) -> Space:
    own = [SEARCH, f"trials={trials}", "seeds=1", f"sampler={{name: {sampler}, startup_trials: 5}}", "scheduler=none"]
    return load_space("quickstart", [*own, "constraints=[lambda_joint <= lambda_cross]", *more])


def score(config: dict[str, Any]) -> float:
    """Best with sgd and a momentum of 0.8, where lambda_joint is as large as it may be."""
    away = abs(config["momentum"] - 0.8) if config["optimizer"] == "sgd" else 0.6
    return 1 - away - abs(math.log10(config["lambda_joint"] / 3)) / 4


def run(space: Space, output: Path, most: int = 1000) -> None:
    ledger = Ledger.open(output, space.model_dump(mode="json"), resume=(output / "search.json").exists())
    searcher = SpaceSearcher(space, ledger)
    for i in range(most):
        config = searcher.suggest(f"t{i}")
        if not isinstance(config, dict):
            break
        result = {"step": space.steps, "score": score(config)}
        ledger.save(config["number"], space.steps, result, None, b"")
        searcher.on_trial_complete(f"t{i}", result)
    ledger.close()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_is_allowed_and_the_same_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    space = make(sampler, count := 8 if sampler == "gp" else 24)
    run(space, tmp_path / "whole")
    for most in (7, 8, 1000):
        run(space, tmp_path / "parts", most)
    records = Ledger(tmp_path / "whole").trials()
    assert [r.params for r in Ledger(tmp_path / "parts").trials()] == [r.params for r in records]
    assert len(records) == count
    for record in records[2:]:
        assert space.contains(Hyperparameters.model_validate(record.config)), record.params
        assert list(record.params) == [
            n for n in space.search if n != "momentum" or record.params["optimizer"] == "sgd"
        ]
        assert record.params.get("momentum") in (None, *(i / 10 for i in range(10)))
        assert record.config["momentum"] == record.params.get("momentum", 0.5)
    assert sampler == "gp" or {r.params["optimizer"] for r in records[2:]} == {"sgd", "adam"}
    trials = open_study(tmp_path / "whole").trials
    assert [t.params for t in trials[2:]] == [r.params for r in records[2:]]
    assert trials[1].state == TrialState.COMPLETE  # 0.03 <= 0.1: the project's default is of this space


def test_tpe_learns_what_is_conditional_and_constrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    late = {}
    for sampler in ("random", "tpe"):
        run(make(sampler, 60), tmp_path / sampler)
        late[sampler] = [score(r.config) for r in Ledger(tmp_path / sampler).trials()[30:]]
    assert sum(late["tpe"]) > sum(late["random"]) + 3
    assert max(late["tpe"]) > 0.8


def test_a_narrow_constraint_is_met_by_random_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the sampler proposes nothing within it."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    space = make("gp", 8, "constraints=[lambda_joint > 2, lambda_joint <= lambda_cross]")
    run(space, tmp_path / "s")
    assert all(r.params["lambda_joint"] > 2 for r in Ledger(tmp_path / "s").trials()[2:])


def test_a_lost_journal_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    space = make("tpe", 12)
    run(space, tmp_path / "s", 9)
    before = [(t.params, t.values, t.distributions) for t in open_study(tmp_path / "s").trials]
    (tmp_path / "s" / "optuna.journal").unlink()
    run(space, tmp_path / "s", 0)
    assert [(t.params, t.values, t.distributions) for t in open_study(tmp_path / "s").trials] == before
