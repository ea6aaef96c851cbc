"""Hosts whose clocks differ, and a clock that is set back: the order of things does not come from clocks."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from search.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
CLOCK = re.compile(r"\btime\.time\(|\bdatetime\b|\bctime\(|\blocaltime\(|\bgmtime\(")
ON_THE_HEAD = {"search/ledger.py", "search/tracking.py"}  # an actor that is pinned there, and the driver


def test_only_the_head_looks_at_a_clock() -> None:
    """Trials, engines and brokers measure durations (`time.monotonic`); what happened when is noted where it is recorded."""
    files = [*ROOT.glob("search/*.py"), *ROOT.glob("condense/**/*.py")]
    assert {str(file.relative_to(ROOT)) for file in files if CLOCK.search(file.read_text())} == ON_THE_HEAD
    driver = (ROOT / "search" / "driver.py").read_text()
    assert "keeper = ray.remote(Ledger).options(num_cpus=0, scheduling_strategy=here)" in driver


def test_a_clock_that_is_set_back_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(tmp_path, {}, resume=False)
    for number in (0, 1):
        ledger.new_trial(number, None, {}, {}, [0])
    now = iter([5000.0, 9000.0, 1000.0, 1000.0])  # an hour forward, then more than that back
    monkeypatch.setattr(time, "time", lambda: next(now, 1000.0))
    for step in (1, 2, 3):
        ledger.save(0, step, {"score": step}, None, b"state")
    ledger.finish(0, "completed", 3.0)
    ledger.save(1, 1, {"score": 0}, None, b"other")
    assert [report.step for report in ledger.trials()[0].reports] == [1, 2, 3]
    assert [past.report.step for past in ledger.history() if past.number == 0] == [1, 2, 3]
    known = ledger.load(1)
    assert known is not None and known[0] == 1 and known[2] == b"other"
    ledger.close()
