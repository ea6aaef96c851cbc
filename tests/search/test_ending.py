"""Searches that end before all of their trials: in time, without progress, or when they are asked to."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from search_process import SearchProcess, report, results

import search
from search.command import main
from search.ledger.ledger import Ledger
from search.ledger.requests import CONCLUDE, ask, pending, take
from search.space.files import load_space


@pytest.mark.slow
def test_in_time(tmp_path: Path, start: Callable[..., SearchProcess], write_space: Callable[..., Path]) -> None:
    """Confirmed and reported within the time."""
    arguments = ("--space", write_space(tmp_path), "--trials", 5000, "--output", tmp_path / "out")
    began = time.monotonic()
    own = start(*arguments, "--time", 0.0175)
    assert own.finish() == 0, own.said()
    assert time.monotonic() - began < 63
    said = own.out.read_text()
    assert said.count("no more trials: the 63 s budget leaves ") == 1
    found = report(tmp_path / "out")
    assert found["ended"]["why"] == "time" and found["ended"]["text"] in said
    done = sum(found["trials"].values())
    assert 1 <= done < 5000 and found["confirmation"]["recommended"]["n"] >= 2
    assert f"There were no more trials after {done} of at most 5,000" in (tmp_path / "out" / "report.html").read_text()
    assert search.status(tmp_path / "out").state == "complete"


@pytest.mark.faults
def test_without_progress(
    tmp_path: Path, start: Callable[..., SearchProcess], write_space: Callable[..., Path]
) -> None:
    space = write_space(tmp_path, budget={"patience": 4}, max_concurrent=1)
    own = start("--space", space, "--trials", 300, "--output", tmp_path / "out")
    assert own.finish() == 0, own.said()
    found = report(tmp_path / "out")
    assert found["ended"]["why"] == "patience"
    assert "no more trials: 4 in a row were not better" in own.out.read_text()
    assert 5 <= sum(found["trials"].values()) < 100


@pytest.mark.slow
def test_conclude_a_running_one_and_then_give_it_more_trials(
    tmp_path: Path, start: Callable[..., SearchProcess], write_space: Callable[..., Path]
) -> None:
    output = tmp_path / "out"
    own = start("--space", write_space(tmp_path, max_concurrent=1), "--trials", 5000, "--output", output)
    own.until(lambda: (output / "report.html").exists())  # of the trials so far
    assert "This search goes on" in (output / "report.html").read_text() and own.process.poll() is None
    asking = start("--conclude", output)
    assert own.finish() == 0, own.said()
    assert asking.finish() == 0, asking.said()
    assert "asked to end its trials" in asking.out.read_text() and "small: " in asking.out.read_text()
    assert "no more trials: --conclude asked for it" in own.out.read_text()
    assert "This search goes on" not in (output / "report.html").read_text()
    found = report(output)
    done = sum(found["trials"].values())
    assert found["ended"]["why"] == "asked" and 3 <= done < 5000
    assert main(["--conclude", str(output)]) == 0  # a finished one
    more = start("--space", tmp_path / "small.yaml", "--output", output, "--resume", "--trials", done + 3)
    assert more.finish() == 0, more.said()
    assert sum(report(output)["trials"].values()) == done + 3 and report(output)["ended"]["why"] == "trials"


@pytest.mark.faults
def test_conclude_a_stopped_one(
    tmp_path: Path, start: Callable[..., SearchProcess], write_space: Callable[..., Path]
) -> None:
    output = tmp_path / "out"
    own = start("--space", write_space(tmp_path), "--trials", 5000, "--output", output)
    own.until(lambda: len(results(output)) > 5)
    own.kill()
    before = results(output)
    concluded = start("--conclude", output)
    assert concluded.finish() == 0, concluded.said()
    assert results(output) == before  # no trial more
    assert sum(report(output)["trials"].values()) == len(before) and search.status(output).state == "complete"


def test_nothing_to_conclude(
    tmp_path: Path, write_space: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A line and status 2, whether it runs or not; nothing is asked of it."""
    assert main(["--conclude", str(tmp_path)]) == 2
    assert "holds no search" in capsys.readouterr().err
    space = load_space(str(write_space(tmp_path)))
    with closing(Ledger.open(tmp_path / "out", space.model_dump(mode="json"), resume=False)) as ledger:
        default = space.default_trials()[0]
        ledger.new_trial(0, default.name, {}, default.hyperparameters.model_dump(mode="json"), [0, 1])
        ledger.save(0, space.steps, {"score": 0.5}, None, b"state")
        ledger.finish(0, "completed", 0.5)
        for _ in range(2):
            assert main(["--conclude", str(ledger.output)]) == 2
            err = capsys.readouterr().err
            assert "no trial has ended that could be recommended" in err and err.count("\n") == 1
            ledger.close()
    assert pending(tmp_path / "out") == []


def test_a_request_is_taken_once(tmp_path: Path) -> None:
    assert pending(tmp_path) == take(tmp_path) == []
    ask(tmp_path, CONCLUDE)
    ask(tmp_path, CONCLUDE)
    assert pending(tmp_path) == ["conclude"]
    assert take(tmp_path) == ["conclude"] and take(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["--time", "0"], "`budget.hours`: input should be greater than 0"),
        (["--time", "nan"], "`budget.hours`"),
        (["--set", "budget.patience=0"], "`budget.patience`"),
        (["--set", "budget.trials=3"], "unknown key `budget.trials`"),
        (
            ["--set", "budget.patience=3", "--set", "objectives=[score, worst_class]"],
            "`budget.patience` goes by the score",
        ),
    ],
)
def test_a_mistake_is_a_line(
    tmp_path: Path,
    write_space: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    rule: str,
) -> None:
    space = write_space(tmp_path, scheduler="none")
    assert main(["--space", str(space), "--output", str(tmp_path / "out"), "--dry-run", *arguments]) == 2
    err = capsys.readouterr().err
    assert rule.lower() in err.lower() and err.count("\n") == 1, err


def test_time_is_a_key_of_the_space(
    tmp_path: Path, write_space: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--space", str(write_space(tmp_path)), "--time", "2.5", "--dry-run"]) == 0
    assert "hours: 2.5" in capsys.readouterr().out
    assert load_space(str(write_space(tmp_path, budget={"hours": 3, "patience": 20}))).budget.hours == 3.0
