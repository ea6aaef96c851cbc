"""The simulated ledger is one that a search goes on from, and the driver's figures are measured on it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("ray")


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


def test_a_simulated_search_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scaling_driver
    import simulated_ledger

    monkeypatch.setattr("os.fsync", lambda _: None)
    simulated_ledger.simulate(tmp_path / "search", 60, lambda line: None)
    journal = tmp_path / "search" / "optuna.journal"
    before = journal.read_bytes()
    _, ledger, ready = scaling_driver.resumed(tmp_path / "search", 60)
    added = journal.read_bytes()[len(before) :].splitlines()
    # The study is opened, and told its space, as one of an earlier version is; it and the ledger agree.
    assert [json.loads(line)["op_code"] for line in added] == [0, 2]
    records = ledger.trials()
    assert Counter(r.status for r in records).keys() == {"completed", "pruned", "failed"}
    assert len(records) == 60 and {len(r.reports) for r in records if r.status == "completed"} == {10}
    config = ready.searcher.suggest("next")
    assert isinstance(config, dict) and config["number"] == 60
    ledger.close()


@pytest.mark.faults  # at its size in the benchmark
def test_the_drivers_figures() -> None:
    import scaling_driver

    figures = scaling_driver.driver_figures(60)
    assert list(figures) == ["suggest_ms", "surrogate_s", "resume_s", "report_mb", "driver_mb"]
    assert all(value > 0 for value in figures.values())
