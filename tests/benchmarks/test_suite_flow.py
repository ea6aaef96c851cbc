"""The suite from end to end, on a small space: the keys of its JSON, and that an interrupted run goes on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import suite
from suite_scores import METHODS

SPACE = {
    "name": "small",
    "tasks": [{"dataset": {"name": "spoken_digits", "pairs_per_image": 1}, "encoder": {"name": "tiny", "epochs": 2}}],
    "search": {
        "lambda_cross": {"low": 0.01, "high": 10, "log": True},
        "learning_rate": {"low": 0.03, "high": 3, "log": True},
    },
    "steps": 4,
    "report_every": 2,
    "trials": 4,
    "seeds": 2,
    "max_concurrent": 2,
    "confirmation": {"top_k": 1, "seeds": 2, "perturbations": 0, "reported_perturbations": 0, "tuned_rates": 0},
}


def options(folder: Path) -> argparse.Namespace:
    return argparse.Namespace(
        tasks=["spoken_digits"],
        dpc=[1],
        output=folder,
        seeds=2,
        convnet_seeds=0,
        convnet="fast",
        trials=4,
        encoder="tiny",
        json=None,
    )


@pytest.mark.faults  # as its repetitions
def test_every_method_is_measured_and_a_second_run_does_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "read_spaces", lambda _: {"spoken_digits": SPACE})
    first = suite.benchmark(options(tmp_path))
    assert set(first["tasks"]) == {"spoken_digits"}
    methods = first["tasks"]["spoken_digits"]["1"]
    assert set(methods) == set(METHODS)
    for method, of in methods.items():
        assert {"mean", "ci95", "n"} <= set(of["probe"]), method
        low, high = of["probe"]["ci95"]
        assert low <= of["probe"]["mean"] <= high, method
        assert {"mean", "ci95", "n"} <= set(of["retrieval"]), method
    assert methods["full_data"]["probe"]["mean"] > methods["random"]["probe"]["mean"] > 0.1
    assert "recommendation minus" in capsys.readouterr().out

    def never(*_: Any) -> Any:
        raise AssertionError("was done before")

    for name in ("tune", "search", "condensed", "measure"):
        monkeypatch.setattr(suite, name, never)
    second = suite.benchmark(options(tmp_path))
    assert second["tasks"] == first["tasks"]
