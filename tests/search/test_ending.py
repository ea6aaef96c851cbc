"""Searches that end before all of their trials: in time, without progress, or when they are asked to."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from search_process import SearchProcess, report

import search
from search.command import main
from search.space.files import load_space


@pytest.mark.slow
def test_in_time(tmp_path: Path, start: Callable[..., SearchProcess], write_space: Callable[..., Path]) -> None:
    """Confirmed and reported within the time; what was not ended is gone on with, and more trials are added."""
    arguments = ("--space", write_space(tmp_path), "--trials", 5000, "--output", tmp_path / "out")
    began = time.monotonic()
    own = start(*arguments, "--time", 0.025)
    assert own.finish() == 0, own.said()
    assert time.monotonic() - began < 90
    said = own.out.read_text()
    assert said.count("no more trials: the 90 s budget leaves ") == 1
    found = report(tmp_path / "out")
    assert found["ended"]["why"] == "time" and found["ended"]["text"] in said
    done = sum(found["trials"].values())
    assert 1 <= done < 5000 and found["confirmation"]["recommended"]["n"] >= 2
    assert f"There were no more trials after {done} of at most 5,000" in (tmp_path / "out" / "report.html").read_text()
    assert search.status(tmp_path / "out").state == "complete"
    again = start(*arguments[:2], "--output", tmp_path / "out", "--resume", "--trials", done + 2)
    assert again.finish() == 0, again.said()
    assert sum(report(tmp_path / "out")["trials"].values()) == done + 2
    assert report(tmp_path / "out")["ended"]["why"] == "trials"


@pytest.mark.slow
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
