"""Searches that are killed, interrupted, or lose a process: nothing finished is lost or repeated, the end is the same."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from search_process import SearchProcess, has_run, near, report, reports, results, table
from small_search import NO_CONFIRMATION, ONE_AT_A_TIME
from test_search import check_mlflow

pytestmark = pytest.mark.slow


class Begun:
    """A search like `whole_search`, one trial at a time."""

    def __init__(self, folder: Path, space: Path, start: Callable[..., SearchProcess]) -> None:
        self.output = folder / "out"
        self._arguments = ("--space", space, "--output", self.output)
        self._start = start
        self.search = start(*self._arguments)

    def resume(self) -> SearchProcess:
        self.search = self._start(*self._arguments, "--resume")
        return self.search

    def until_trial(self, number: int) -> None:
        """Waits until this trial has reported, and so all before it have ended."""
        self.search.until(lambda: reports(self.output, f"{number:05d}") > 0)


@pytest.fixture
def begun(tmp_path: Path, start: Callable[..., SearchProcess], write_space: Callable[..., Path]) -> Begun:
    return Begun(tmp_path, write_space(tmp_path, **ONE_AT_A_TIME), start)


def same(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """To compare tables with: numbers to 1e-6."""
    return [
        {key: pytest.approx(x, rel=1e-6, abs=1e-6) if isinstance(x, float) else x for key, x in row.items()}
        for row in table
    ]


def check_same_search(output: Path, whole: Path) -> None:
    """It ended as the undisturbed search did: trials, choice, confirmation, and MLflow has it all once."""
    assert table(output) == same(table(whole))
    here, there = report(output), report(whole)
    for key in ("trials", "recommended", "perturbation", "robust_region", "test", "verdict"):
        assert here[key] == there[key], key
    # Log-losses are of probes that are trained beside others: equal but for rounding.
    assert near(here["confirmation"], there["confirmation"])
    assert here["surrogate"] == there["surrogate"]
    if not here["verdict"]["keep_default"]:
        assert here["perturbation"]
    check_mlflow(output)


@pytest.mark.faults
def test_killed_twice(begun: Begun, whole_search: tuple[Path, SearchProcess]) -> None:
    output = begun.output
    begun.until_trial(4)
    begun.search.kill()
    before = results(output)
    assert 4 <= len(before) < 10  # it went on while it was being killed

    begun.resume().until(lambda: has_run(output, "reporting"))
    begun.search.kill()
    between = results(output)
    assert len(between) == 10
    assert before.items() <= between.items()  # content and time: not one was written again
    assert not (output / "report.json").exists()

    assert begun.resume().finish() == 0, begun.search.said()
    assert results(output) == between
    check_same_search(output, whole_search[0])


def test_ctrl_c(begun: Begun, whole_search: tuple[Path, SearchProcess]) -> None:
    output = begun.output
    begun.until_trial(3)
    for times in (1, 2):
        begun.search.interrupt()
        assert begun.search.finish() == 130, begun.search.said()
        assert "Traceback" not in begun.search.said()
        assert "continue with the same command and --resume" in begun.search.out.read_text()
        if times == 1:
            before = results(output)
            assert 3 <= len(before) < 10
            begun.resume().until(lambda: has_run(output, "choosing"))  # the next one comes after this one's trials

    assert begun.resume().finish() == 0, begun.search.said()
    assert before.items() <= results(output).items()
    check_same_search(output, whole_search[0])


@pytest.mark.faults
@pytest.mark.parametrize("ending", [signal.SIGHUP, signal.SIGTERM])
def test_a_lost_connection(begun: Begun, ending: signal.Signals) -> None:
    """SIGHUP is what the end of an SSH connection comes to, SIGTERM what Slurm, Docker and Kubernetes send: interruptions
    like another, to be resumed."""
    begun.until_trial(2)
    begun.search.process.send_signal(ending)
    assert begun.search.finish() == 130, begun.search.said()
    assert "continue with the same command and --resume" in begun.search.out.read_text()
    before = results(begun.output)

    record = begun.output / "search.json"  # and as an earlier version would have left it, without a key of today's
    content = json.loads(record.read_text())
    del content["space"]["tasks"][0]["metric"]
    record.write_text(json.dumps(content))
    begun.resume()
    begun.until_trial(len(before) + 1)
    begun.search.kill()
    assert before.items() <= results(begun.output).items()


@pytest.mark.faults
def test_lost_processes(begun: Begun, whole_search: tuple[Path, SearchProcess]) -> None:
    """First the engine is killed, then twice the process that runs trials, wherever in or between trials it is, and at
    last the engine that confirms."""
    begun.until_trial(2)
    (engine,) = begun.search.descendants("ray::EngineActor")
    engine.kill()
    for number in (4, 6):
        begun.until_trial(number)
        for process in begun.search.descendants("ray::ImplicitFunc"):
            process.kill()
    begun.search.until(lambda: has_run(begun.output, "choosing"))
    for process in begun.search.descendants("ray::EngineActor"):
        process.kill()
    assert begun.search.finish() == 0, begun.search.said()
    assert re.search("Traceback", begun.search.said()) is None
    check_same_search(begun.output, whole_search[0])


@pytest.mark.faults
@pytest.mark.parametrize(("actor", "name"), [("EnginePool", "pool"), ("Referee", "ledger")])
def test_the_death_of_what_all_trials_need_is_no_failure_of_theirs(begun: Begun, actor: str, name: str) -> None:
    begun.until_trial(2)
    (process,) = begun.search.descendants(f"ray::{actor}")
    process.kill()
    assert begun.search.finish() == 1, begun.search.said()
    assert f"error: the {name}'s process on the search's own host was killed" in begun.search.said()
    assert "Traceback" not in begun.search.said()
    assert begun.resume().finish() == 0, begun.search.said()
    assert {row["status"] for row in table(begun.output)} <= {"completed", "pruned"}


@pytest.mark.faults
def test_eight_trials_in_one_engine_lose_a_process_and_their_engine(
    tmp_path: Path, start: Callable[..., SearchProcess], write_space: Callable[..., Path]
) -> None:
    """ASHA stops some; one trial's process and the engine are killed: complete, nothing lost, nothing double."""
    asha = {"name": "asha", "grace_steps": 20}
    more = {"scheduler": asha, "confirmation": NO_CONFIRMATION}
    space = write_space(tmp_path, trials=16, max_concurrent=8, steps=60, report_every=10, **more)
    output = tmp_path / "out"
    search = start("--space", space, "--output", output)
    search.until(lambda: sum(reports(output, f"{i:05d}") > 0 for i in range(16)) >= 3)
    search.descendants("ray::ImplicitFunc")[0].kill()
    search.until(lambda: len(results(output)) >= 4)
    before = results(output)
    (engine,) = search.descendants("ray::EngineActor")
    engine.kill()
    assert search.finish() == 0, search.said()
    assert re.search("Traceback", search.said()) is None

    assert before.items() <= results(output).items()
    rows = table(output)
    assert [row["number"] for row in rows] == list(range(16))
    assert {row["status"] for row in rows} == {"completed", "pruned"}
    for row in rows:  # every step once, also where a trial went on from an earlier one
        lines = (output / "trials" / f"{int(row['number']):05d}" / "progress.jsonl").read_text().splitlines()
        steps = [step for line in lines for step in json.loads(line)["curve"]["step"]]
        assert steps == [float(step) for step in range(1, int(row["steps"]) + 1)]
    check_mlflow(output, report_every=10)
