"""What `speakers.py` and `fidelity.py` make of figures that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


def report(validation: list[float], test: list[float], baseline: str) -> dict[str, Any]:
    rivals = ("paper_default", "mmd")
    recommended = {
        "mean": 0.8,
        "baseline": baseline,
        "difference": {"paper_default": {"ci95": test}, "best_baseline": {"ci95": test}},
    }
    return {
        "confirmation": {"differences": {name: {"mean": 0.0, "ci95": validation} for name in rivals}},
        "test": {"recommended": recommended, **{name: {"mean": 0.7, "difference": {}} for name in rivals}},
    }


def test_a_claim_that_test_contradicts_is_not_true() -> None:
    import speakers

    above, below = [0.1, 0.2], [-0.2, -0.1]
    for rival in speakers.RIVALS:
        assert speakers.claim(report(above, below, "mmd"), rival)["true"] is False
        assert speakers.claim(report(below, above, "mmd"), rival)["true"] is False
        assert speakers.claim(report(above, [-0.1, 0.1], "mmd"), rival)["true"] is True
    assert speakers.claim(report(above, below, "herding"), "mmd")["true"] is None  # test has no interval of it
    assert min(speakers.widths(report(above, [0.0, 0.0], "mmd"))) == 0.0


def test_what_features_lose_on_inputs() -> None:
    """Four settings and the default, two seeds: the first of each chooses, the second compares."""
    import fidelity

    inputs = np.array([[0.1, 0.1], [0.4, 0.2], [0.3, 0.4], [0.2, 0.3], [0.5, 0.35]])
    same = fidelity.compared(inputs, inputs)
    assert same["correlation"] == pytest.approx(1.0) and same["best"] == pytest.approx(0.4)
    assert same["lost"] == pytest.approx({"features": 0.0, "inputs": 0.2, "default": 0.05, "median": 0.15})
    reversed_ = fidelity.compared(np.vstack([-inputs[:-1], inputs[-1:]]), inputs)
    assert reversed_["correlation"] == pytest.approx(-1.0) and reversed_["lost"]["features"] == pytest.approx(0.3)
