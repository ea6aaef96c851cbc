"""Settings that all get everything right are told apart by log-loss."""

from __future__ import annotations

from typing import Any

import pytest

from search.confirmation.ceiling import log_losses
from search.confirmation.selection import PLATEAU, Candidate, _chosen


def runs(accuracy: float, *scores: float | None) -> dict[int, dict[str, Any]]:
    return {seed: {"accuracies": [accuracy], "log_loss": [score]} for seed, score in enumerate(scores)}


def test_only_where_all_are_at_the_ceiling() -> None:
    best, worse = runs(1.0, 0.8, 0.9), runs(0.995, 0.7, 0.6, 0.1)
    assert log_losses({"a": best, "b": worse}, [0, 1, 2], ["accuracy"]) == pytest.approx({"a": 0.85, "b": 0.65})
    assert log_losses({"a": best, "b": runs(0.98, 0.7, 0.6)}, [0, 1], ["accuracy"]) == {}
    assert log_losses({"a": best, "b": runs(1.0, None, None)}, [0, 1], ["accuracy"]) == {}
    assert log_losses({"a": best, "b": {0: {"accuracies": [1.0]}}}, [0, 1], ["accuracy"]) == {}  # an earlier version's
    assert log_losses({"a": best, "b": {}}, [0, 1], ["accuracy"]) == {}
    assert log_losses({"a": best, "b": worse}, [0, 1], ["log_loss"]) == {}


def test_every_task_must_be_there() -> None:
    both = {0: {"accuracies": [1.0, 0.9], "log_loss": [0.9, 0.5]}}
    assert log_losses({"a": both}, [0], ["accuracy", "accuracy"]) == {}


def test_the_tied_setting_with_the_best_log_loss_is_chosen() -> None:
    candidates = [
        Candidate(label, None, {}, {"of": label}, score=1.0, tied=label != "other")
        for label in (PLATEAU, "a", "b", "other")
    ]
    known = {PLATEAU: 0.7, "a": 0.9, "b": 0.8, "other": 0.99}

    def told(settings: Any) -> dict[str, float]:
        return {label: known[label] for label in settings}

    assert _chosen(candidates, told).label == "a"
    assert _chosen(candidates, lambda settings: {}).label == _chosen(candidates).label == PLATEAU
