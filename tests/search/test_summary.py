"""What the terminal says at a search's end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_search import OPTIMUM, fake_content

from search.report.model import Report
from search.report.verdict import INDENT
from search.summary import say_results


def said(content: dict[str, Any], where: str = "sqlite:////data/mlflow.db") -> list[str]:
    lines: list[str] = []
    tracker: Any = SimpleNamespace(where=where, experiment_id="7", view="search-abc")
    say_results(Report.model_validate(content), Path("results/quick start"), tracker, "abc", lines.append)
    return "\n".join(lines).splitlines()


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("HOME", str(tmp_path))  # where nothing tells of a cluster


def test_the_verdict_comes_first_with_the_values_below_what_is_recommended() -> None:
    lines = said(fake_content()[0])
    labels = [line.split("  ")[0] for line in lines if line and not line.startswith(" ")]
    assert labels == ["recommended", "how sure", "against", "on test", "report", "condense", "MLflow UI"]
    values = [line for line in lines if line.split()[:1] and line.split()[0] in OPTIMUM]
    assert [line.split()[0] for line in values] == list(OPTIMUM)
    assert values[0] == " " * INDENT + "lambda_cross          0.3        good from 0.06 to 1.4"
    verdict = lines[: next(i for i, line in enumerate(lines) if line.startswith("report"))]
    assert all(len(line) <= 90 and line == line.rstrip() for line in verdict)


def test_values_without_a_range_are_just_values() -> None:
    content, _, _ = fake_content()
    content["recommended"] = {"lambda_cross": 0.3, "optimizer": "sgd", "num_frequencies": 512}
    content["robust_region"] = {}
    lines = [line.strip() for line in said(content)]
    assert {"lambda_cross     0.3", "optimizer        sgd", "num_frequencies  512"} <= set(lines)


def test_commands_can_be_pasted_into_a_shell() -> None:
    told = "\n".join(said(fake_content()[0]))
    assert "condense run 'results/quick start/best.yaml' --output DIR" in told
    assert "webbrowser 'results/quick start/report.html'" in told
    assert "ui --backend-store-uri sqlite:////data/mlflow.db " in told
    served = "\n".join(said(fake_content()[0], "https://mlflow.example/"))
    assert "--backend-store-uri" not in served and "https://mlflow.example/#/experiments/7/runs?" in served
