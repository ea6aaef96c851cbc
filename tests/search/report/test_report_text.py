"""How the report words numbers, rules and addresses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_search import fake_content

from search.report import axes, links, text
from search.report.model import PairedDifference, Racing, Report


def robust(**rule: Any) -> Report:
    content, _, _ = fake_content(4)
    content["space"]["robust"] = rule
    return Report.model_validate(content)


def test_robust_score_is_told_by_its_rule() -> None:
    for rule, told in (
        ({"rule": "mean_std", "k": 0.5}, "mean minus 0.5 standard deviations over seeds"),
        ({"rule": "mean_std"}, "mean minus 1 standard deviation over seeds"),
        ({"rule": "cvar", "fraction": 0.25}, "the mean of the lowest 25 % of seeds and tasks"),
        ({"rule": "worst_case"}, "the lowest of all seeds and tasks"),
        ({"rule": "mean"}, "the mean over seeds"),
    ):
        assert text.robust_rule(robust(**rule)) == f"Robust score: {told}, on validation data."


def test_racing_is_told_in_a_sentence() -> None:
    told = text.racing(Racing(seeds={"1": 30, "4": 8}, replica_steps=620, full=1240))
    assert told.endswith("30 on 1 seed and 8 on 4 seeds; that took 620 replica-steps instead of 1,240 (50 %).")
    assert text.racing(Racing(seeds={"3": 10}, replica_steps=0, full=0)).endswith("10 on 3 seeds.")
    assert text.racing(None) == text.racing(Racing(seeds={}, replica_steps=0, full=0)) == ""


def test_differences_are_told_with_their_interval() -> None:
    found = PairedDifference(mean=-0.0123, ci95=(-0.02, 0.001), n=8)
    assert text.difference(found) == "−0.012 [−0.020, 0.001]"
    assert text.difference(found, turned=True) == "0.012 [−0.001, 0.020]"
    lost = PairedDifference.model_validate({"mean": 0.1, "ci95": [float("nan"), float("inf")], "n": 8})
    assert lost.interval is None and lost.sign == 0 and text.difference(lost) == "0.100"
    assert [text.signed(value) for value in (0.01, 0.0, -0.01, None)] == ["+0.010", "+0.000", "−0.010", "–"]


@pytest.mark.parametrize(
    ("quantile", "told"),
    [(0.1, "nine runs in ten"), (0.25, "three runs in four"), (0.5, "half of the runs"), (0.05, "95 % of the runs")],
)
def test_quantiles_are_told_in_words(quantile: float, told: str) -> None:
    assert text.most(quantile) == told


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.12345, "0.123"), (1234.5, "1,234"), (12, "12"), (6120, "6,120"), (0.00012345, "0.000123"), (-0.5, "−0.5"),
        (1e-7, "1.00e−07"), (99.96, "100"), (0, "0"), (None, "–"), ("sgd", "sgd"), (True, "True"), (float("nan"), "nan"),
    ],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value: Any, shown: str) -> None:
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [(0.01, 100, True, [0.01, 0.1, 1, 10, 100]), (0.1, 4, True, [0.1, 0.2, 0.5, 1, 2]), (0, 1, False, [0, 0.5, 1]),
     (1e-6, 1e6, True, [1e-6, 1e-3, 1, 1e3, 1e6]), (3, 3, False, [3])],
)  # fmt: skip
def test_ticks_are_round(low: float, high: float, log: bool, expected: list[float]) -> None:
    found = axes.ticks(low, high, log)
    assert set(np.round(np.log10(expected), 6) if log else expected) <= set(
        np.round(np.log10(found), 6) if log else found
    )
    assert len(found) <= 6


def test_durations() -> None:
    assert [text.duration(s) for s in (1.234, 214.3, 7300, None)] == ["1.23 s", "3 min 34 s", "2 h 1 min", "–"]


def test_mlflow_command_hides_passwords() -> None:
    assert links.mlflow_command("sqlite:///a b.db") == "mlflow ui --backend-store-uri 'sqlite:///a b.db'"
    assert (
        links.mlflow_command("postgresql://me:secret@host/db") == "mlflow ui --backend-store-uri postgresql://host/db"
    )
    assert links.mlflow_command("https://me:secret@host/") is None and links.mlflow_command("") is None
    assert links.safe_uri("https://me:secret@host:5000/x") == "https://host:5000/x"
