"""One trial of a running search is stopped: it keeps its scores, and counts as stopped early."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from search_process import SearchProcess, reports

from search.analysis.deadline import Deadline
from search.command import main
from search.confirmation.trials_csv import trial_rows
from search.ledger.atomic_files import read_json
from search.ledger.ledger import Ledger
from search.ledger.requests import is_to_stop, stop_trial
from search.space.files import load_space
from search.space.plan import Plan
from search.tracking.store import connect
from search.tuning.ending import Ending
from search.tuning.journal import open_study
from search.tuning.searcher import SpaceSearcher


@pytest.mark.parametrize("scheduler", ["none", "asha"])
def test_it_counts_as_stopped_early(tmp_path: Path, write_space: Callable[..., Path], scheduler: str) -> None:
    """Without a scheduler, too. Others that end early by themselves are failures."""
    space = load_space(str(write_space(tmp_path, scheduler=scheduler, steps=60, report_every=20)))
    with closing(Ledger.open(tmp_path / "out", space.model_dump(mode="json"), resume=False)) as ledger:
        plan = Plan([task.model_dump(mode="json") for task in space.tasks], [0], space.report_steps, space.robust, None)
        ending = Ending(space, ledger, plan, Deadline(None, 0.0), 0.0, print)
        searcher = SpaceSearcher(space, ledger)
        for _ in range(3):
            searcher.suggest("before")  # the defaults, and a proposal
        result: dict[str, Any] = {"number": 2, "step": 20, "score": 0.8}
        ledger.save(2, 20, {"score": 0.8}, None, b"")
        assert not ending("before", result)
        stop_trial(ledger.output, 2)
        assert ending("before", result) and not ending("other", {**result, "number": 1})
        assert not ending("before", {"training_iteration": 1})
        searcher.on_trial_complete("before", result)
        record = ledger.trial(2)
        assert record is not None
        assert (record.status, record.steps, record.score) == ("pruned", 20, 0.8)
        assert record.error == "stopped by --stop-trial"
        assert open_study(ledger.output).trials[2].state.name == "PRUNED"
        (row,) = (row for row in trial_rows(ledger.trials())[1] if row["number"] == 2)
        assert (row["status"], row["score"]) == ("pruned", 0.8)
        assert is_to_stop(ledger.output, 2) and not is_to_stop(ledger.output, 1)


def test_what_cannot_be_stopped_is_a_line(
    tmp_path: Path, write_space: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        assert main(["--stop-trial", *arguments]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    output = tmp_path / "out"
    assert "--stop-trial needs --output" in refused("3")
    assert "holds no search" in refused("3", "--output", str(output))
    space = load_space(str(write_space(tmp_path)))
    with closing(Ledger.open(output, space.model_dump(mode="json"), resume=False)) as ledger:
        for number in (0, 1):
            ledger.new_trial(number, None, {}, {}, [0, 1])
        ledger.finish(0, "failed", None, "broken")
        assert "trial 0 has ended: failed; running: 1" in refused("0", "--output", str(output))
        assert "trial 7 has not begun; running: 1" in refused("7", "--output", str(output))
    assert "no search runs there (stopped)" in refused("1", "--output", str(output))
    assert not is_to_stop(output, 0) and not is_to_stop(output, 1)


@pytest.mark.faults
def test_of_a_running_search(
    tmp_path: Path, start: Callable[..., SearchProcess], write_space: Callable[..., Path]
) -> None:
    output, uri = tmp_path / "out", f"sqlite:///{tmp_path}/mlflow.db"
    space = write_space(tmp_path, scheduler="none", steps=100_000, report_every=20, max_concurrent=1)
    own = start("--space", space, "--output", output, "--tracking-uri", uri)
    own.until(lambda: reports(output, "00000") > 1)
    asking = start("--stop-trial", 0, "--output", output)
    assert asking.finish() == 0, asking.said()
    assert "trial 0: asked to end" in asking.out.read_text() and "trial 0: pruned after step" in asking.out.read_text()
    result = read_json(output / "trials" / "00000" / "result.json")
    assert result is not None and result["status"] == "pruned" and 0 < result["steps"] < 100_000 and result["score"] > 0
    own.until(lambda: reports(output, "00001") > 1)  # the search goes on
    client = connect(uri)

    def statuses() -> list[str]:
        found = client.search_runs([e.experiment_id for e in client.search_experiments()], "tags.trial_number = '0'")
        return [run.info.status for run in found]

    own.until(lambda: statuses() == ["KILLED"])
    assert "1 stopped early" in own.out.read_text() or own.until(lambda: "1 stopped early" in own.out.read_text())
