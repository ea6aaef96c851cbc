"""What is written while trials run: a light report and trials.csv, often enough and never too often."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fake_search import fake_search

from search import interim
from search.interim import InterimReport
from search.ledger.ledger import Ledger
from search.report.running import goes_on, write_running_html
from search.space.files import load_space
from search.space.model import Space


def ledger_of(folder: Path, space: Space, ended: int, begun: int) -> Path:
    """A search's folder with trials that have ended, and others that have reported once."""
    with closing(Ledger.open(folder, space.model_dump(mode="json"), resume=False)) as ledger:
        config = space.default_trials()[1].hyperparameters.model_dump(mode="json")
        for number in range(ended + begun):
            ledger.new_trial(number, None, {"lambda_cross": 1.0 + number}, config, [0, 1])
            metrics = {"score": number / 10, "score_mean": number / 10, "score_std": 0.01, "seconds": 1.0}
            ledger.save(number, space.steps, metrics, None, b"state")
            if number < ended:
                ledger.finish(number, "completed", number / 10)
    return folder


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_both_files_are_there_before_the_end(tmp_path: Path, write_space: Callable[..., Path]) -> None:
    space = load_space(str(write_space(tmp_path)))
    output = ledger_of(tmp_path / "out", space, ended=4, begun=2)
    with InterimReport(space, output, between=0.1, first=0.0):
        wait_for((output / "report.html").exists)
    page = (output / "report.html").read_text()
    assert "This search goes on: 4 of at most 6 trials have ended, 2 are under way" in page
    assert "The best so far is trial 3, 0.300." in page and "Nothing is confirmed yet" in page
    assert 'id="history"' in page and 'id="trial-3"' in page and 'id="trial-4"' not in page
    with (output / "trials.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["completed"] * 4 + ["unfinished"] * 2
    assert not list(output.glob("*.unfinished")) and not (output / "report.json").exists()


@pytest.mark.parametrize(("ended", "first"), [(2, 0.0), (4, 60.0)])
def test_not_too_early(tmp_path: Path, write_space: Callable[..., Path], ended: int, first: float) -> None:
    space = load_space(str(write_space(tmp_path)))
    output = ledger_of(tmp_path / "out", space, ended, 1)
    with InterimReport(space, output, between=0.01, first=first):
        time.sleep(0.3)
    assert not (output / "report.html").exists()


def test_one_that_takes_long_is_written_less_often(
    tmp_path: Path, write_space: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a fiftieth of the time at most: after one of 50 ms there is none for 2.5 s."""
    output = ledger_of(tmp_path / "out", space := load_space(str(write_space(tmp_path))), 4, 1)
    written: list[float] = []

    def write(self: InterimReport) -> None:
        written.append(time.monotonic())
        time.sleep(0.05)

    monkeypatch.setattr(InterimReport, "write", write)
    with InterimReport(space, output, between=0.01, first=0.0):
        time.sleep(1.0)
    assert len(written) == 1
    monkeypatch.setattr(interim, "SHARE", 0.9)
    with InterimReport(space, output, between=0.01, first=0.0):
        wait_for(lambda: len(written) > 4)


def test_its_troubles_are_not_the_search_s(
    tmp_path: Path,
    write_space: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A full disk is a line each time; a bug its traceback once."""
    output = ledger_of(tmp_path / "out", space := load_space(str(write_space(tmp_path))), 4, 1)
    errors: list[Exception] = [OSError(28, "No space left on device"), ValueError("a bug"), AssertionError("never")]
    monkeypatch.setattr(InterimReport, "write", lambda self: (_ for _ in ()).throw(errors.pop(0)))
    with caplog.at_level(logging.WARNING), InterimReport(space, output, between=0.01, first=0.0):
        wait_for(lambda: len(errors) == 1)
        time.sleep(0.2)
    assert len(errors) == 1
    assert [bool(record.exc_info) for record in caplog.records] == [False, True]
    assert "No space left on device" in caplog.text


def test_of_many_trials_and_of_none(tmp_path: Path) -> None:
    report, trials, _ = fake_search(60)
    page = write_running_html(tmp_path, report.space, trials, 3, 0.0).read_text()
    assert f"<h1>{report.space.name}</h1>" in page and "1970-01-01 00:00 UTC" in page
    assert 'id="parallel"' in page and "What to use" not in page
    assert "<h1>" in write_running_html(tmp_path, report.space, [], 1, 0.0).read_text()
    assert "best so far" not in goes_on(report.space, [], 1, 0.0)
