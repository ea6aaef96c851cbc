"""Hosts whose clocks differ, and a clock that is set back: the order of things does not come from clocks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from search_process import SearchProcess, table
from test_search import check_mlflow

from search.ledger.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)  # Debian's package libfaketime
CLOCK = re.compile(r"\btime\.time\(|\bdatetime\b|\bctime\(|\blocaltime\(|\bgmtime\(")
ON_THE_HEAD = {
    "search/interim.py",
    "search/report/page.py",
    "search/report/running.py",
    "search/tuning/ending.py",
    "search/ledger/ledger.py",
    "search/tracking/tracker.py",
}  # an actor that is pinned there, and the driver


def test_only_the_head_looks_at_a_clock() -> None:
    """Trials, engines and pool measure durations (`time.monotonic`); what happened when is noted where it is recorded."""
    files = [*ROOT.glob("search/**/*.py"), *ROOT.glob("condense/**/*.py")]
    assert {str(file.relative_to(ROOT)) for file in files if CLOCK.search(file.read_text())} == ON_THE_HEAD
    driver = (ROOT / "search" / "driver.py").read_text()
    assert "ledger_actor = ray.remote(Referee).options(num_cpus=0, scheduling_strategy=here)" in driver


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


@pytest.mark.faults
# Three hours behind, Ray 2.60 makes no placement group on a node that has idled.
@pytest.mark.parametrize("skew", ["+3h", "-10m"])
def test_a_worker_whose_clock_is_wrong(
    skew: str,
    boot: Callable[[int], Cluster],
    start: Callable[..., SearchProcess],
    write_space: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray's daemon, the engine and the trials of a worker, with a clock that is off."""
    if FAKETIME is None:
        pytest.skip("NO WRONG CLOCK IS TESTED HERE: needs Debian's package libfaketime")
    output = tmp_path / "out"
    cluster = boot(0)  # all trials are the worker's
    monkeypatch.setenv("RAY_JEMALLOC_LIB_PATH", "")  # Ray preloads a library of its own there
    wrong = {"LD_PRELOAD": str(FAKETIME), "RAY_LD_PRELOAD_ON_WORKERS": "1"}
    wrong |= {"FAKETIME": skew, "DONT_FAKE_MONOTONIC": "1", "FAKETIME_FORCE_MONOTONIC_FIX": "0"}
    worker = cluster.add_node(num_cpus=1, env_vars=wrong)
    ray.init(address=cluster.address, log_to_driver=False)
    there = ray.get(ray.remote(lambda: time.time()).options(num_cpus=1).remote())
    ray.shutdown()
    assert abs(there - time.time()) > 10
    began = time.time()
    space = write_space(tmp_path, trials=3, max_concurrent=1, confirmation={"top_k": 1, "seeds": 2})
    search = start("--space", space, "--output", output, "--address", cluster.address)
    assert search.finish() == 0, search.said()
    assert worker.any_processes_alive()
    ended = time.time()
    for row in table(output):
        assert row["status"] in ("completed", "pruned")
    records = Ledger(output).trials()
    assert len(records) == 3
    for record in records:
        moments = [record.created, *(each.time for each in record.reports), record.finished]
        assert all(moment is not None and began <= moment <= ended for moment in moments)
        assert 0 <= record.seconds < ended - began
    check_mlflow(output)
