"""What follows a search: what it tells, and how often."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from screen import Screen, Stream

from search.ledger.ledger import Ledger, Report, TrialRecord
from search.space.model import Space
from search.tuning import callbacks, display
from search.tuning.callbacks import SearchCallback, trial_tags
from search.tuning.display import Display

STEPS = 6
SPACE = Space.model_validate(
    {
        "name": "watched",
        "tasks": [{"dpc": 1}],
        "search": {"lambda_cross": {"low": 0.01, "high": 100, "log": True}},
        "steps": STEPS,
        "report_every": 2,
        "trials": 8,
    }
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (callbacks, display):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    return Screen.of(monkeypatch)


def record(
    number: int, status: Any = "unfinished", score: float | None = None, steps: int = STEPS, **changes: Any
) -> TrialRecord:
    """A trial with one report, of `score` at `steps`."""
    reports = () if score is None else (Report(steps, 0.0, 0.0, {"score": score}),)
    known: dict[str, Any] = {"name": None, "params": {}, "config": {}, "seeds": [0], "created": 0.0} | changes
    return TrialRecord(number=number, status=status, steps=steps, score=score, reports=reports, **known)


def displayed(*past: TrialRecord) -> tuple[Display, Stream]:
    stream = Stream()
    return Display(SPACE, list(past), stream), stream


def parts(shown: Display, seconds: float = 0) -> list[str]:
    return shown.line(seconds).partition("] ")[2].split(", ")


def test_at_the_start_nothing_is_done() -> None:
    shown, _ = displayed()
    assert shown.line(0) == "[0:00] trials 0/8, 0 running, 0 stopped early"


def test_it_counts_what_runs_and_how_trials_ended(clock: Clock) -> None:
    shown, _ = displayed()
    for number in range(5):
        shown.started(record(number))
    assert parts(shown)[:2] == ["trials 0/8", "5 running"]
    shown.ended(record(0, "completed", 0.5))
    shown.ended(record(1, "pruned", 0.4, steps=2))
    shown.ended(record(2, "pruned", 0.4, steps=4))
    assert parts(shown)[:3] == ["trials 3/8", "2 running", "2 stopped early"]
    assert "failed" not in shown.line(0)
    shown.ended(record(3, "failed", error="the total loss was not finite at step 1 (seed 0)"))
    assert parts(shown)[:4] == ["trials 4/8", "1 running", "2 stopped early", "1 failed"]


def test_a_trial_that_starts_again_runs_once(clock: Clock) -> None:
    shown, _ = displayed()
    shown.started(record(0))
    shown.started(record(0))
    assert parts(shown)[1] == "1 running"


def test_a_failed_trial_says_why_at_once(clock: Clock) -> None:
    shown, stream = displayed()
    shown.started(record(3))
    shown.ended(record(3, "failed", error="the total loss was not finite at step 1 (seed 0)"))
    assert stream.getvalue().splitlines()[-1] == "trial 3 failed: the total loss was not finite at step 1 (seed 0)"


def test_the_best_is_the_best_of_whole_trials(clock: Clock) -> None:
    shown, _ = displayed()
    shown.reported(record(4, score=0.9, steps=2))
    assert "best" not in shown.line(0)
    shown.reported(record(2, score=0.4321))
    assert "best 0.432 (trial 2)" in parts(shown)
    shown.reported(record(3, score=0.3))
    shown.ended(record(5, "failed"))
    assert "best 0.432 (trial 2)" in parts(shown)
    shown.reported(record(1, score=0.7, name="default"))
    assert "best 0.700 (default)" in parts(shown)


@given(scores=st.lists(st.integers(-2, 2), min_size=1, max_size=6))
def test_the_best_is_the_highest_whatever_the_sign(scores: list[int]) -> None:
    shown, _ = displayed(*(record(number, "completed", float(score)) for number, score in enumerate(scores)))
    assert f"best {max(scores):.3f} " in shown.line(0)


def test_time_left_is_that_of_the_trials_so_far(clock: Clock) -> None:
    shown, _ = displayed()
    assert "left" not in shown.line(60)
    shown.ended(record(0, "completed", 0.5))
    shown.ended(record(1, "pruned", 0.5, steps=2))
    assert shown.line(65).startswith("[1:05] ")
    assert parts(shown, 65)[-1] == "about 3:15 left"  # 6 trials at 32.5 s


def test_a_resumed_search_counts_the_past_but_not_its_time(clock: Clock) -> None:
    past = [record(0, "completed", 0.5), record(1, "pruned", 0.6, steps=2), record(2, score=0.1, steps=2)]
    shown, _ = displayed(*past)
    assert parts(shown, 100) == ["trials 2/8", "0 running", "1 stopped early", "best 0.500 (trial 0)"]
    shown.ended(record(2, "completed", 0.2))
    assert parts(shown, 10)[-1] == "about 0:50 left"  # 5 trials at 10 s


def test_a_log_file_gets_a_line_every_ten_seconds(clock: Clock) -> None:
    shown, stream = displayed()
    times = []
    for tenth in range(600):
        clock.now = 1000 + tenth / 10
        before = len(stream.getvalue())
        shown.reported(record(0, score=0.5, steps=2))
        if len(stream.getvalue()) > before:
            times.append(clock.now)
    assert all(later - earlier >= 10 for earlier, later in itertools.pairwise(times))
    assert 5 <= len(times) <= 6
    text = stream.getvalue()
    assert text.count("\n") == len(times)
    assert "\r" not in text and "\033" not in text


def test_the_end_is_always_shown(clock: Clock) -> None:
    shown, stream = displayed()
    for number in range(8):
        shown.reported(record(number, score=0.5))
        shown.ended(record(number, "completed", 0.5))
    lines = stream.getvalue().splitlines()
    assert len(lines) <= 2
    assert lines[-1] == "[0:00] trials 8/8, 0 running, 0 stopped early, best 0.500 (trial 0)"


def test_while_trials_take_their_time_a_log_file_still_gets_a_line(clock: Clock) -> None:
    shown, stream = displayed()
    shown.wait()
    assert stream.getvalue() == ""  # nothing has begun
    shown.started(record(0))
    for second in range(70):
        clock.now = 1000 + second
        shown.wait()
    assert [line[:6] for line in stream.getvalue().splitlines()] == ["[0:00]", "[0:30]", "[1:00]"]


def test_a_search_whose_trials_cannot_start_says_so(clock: Clock) -> None:
    shown, stream = displayed()
    for _ in range(29):
        clock.now += 1
        shown.wait()
    assert stream.getvalue() == ""
    for _ in range(40):
        clock.now += 1
        shown.wait()
    said = "trials 0/8, 0 running (none can start: no node has room for one), 0 stopped early\n"
    assert stream.getvalue() == f"[0:30] {said}[1:00] {said}"
    shown.started(record(0))
    assert parts(shown)[1] == "1 running"
    shown.ended(record(0, "pruned"))
    assert parts(shown)[1] == "0 running"  # the next one is about to start
    clock.now += 30
    assert "none can start" in parts(shown)[1]


def test_a_terminal_shows_two_lines_that_are_renewed(clock: Clock, screen: Screen) -> None:
    shown = Display(SPACE, [], screen)
    for tenth in range(100):
        clock.now = 1000 + tenth / 10
        shown.reported(record(0, score=0.5, steps=2))
    assert 9 <= screen.renewed <= 11
    assert [line.lstrip("━╺╸ ") for line in screen.lines] == ["trials 0/8, 0:09", "0 running, 0 stopped early"]
    clock.now += 20
    shown.wait()
    assert screen.lines[0].endswith("trials 0/8, 0:29")
    for number in range(8):
        shown.reported(record(number, score=0.5))
        shown.ended(record(number, "completed", 0.5))
    assert [line.lstrip("━╺╸ ") for line in screen.lines] == [
        "trials 8/8, 0:29",
        "0 running, 0 stopped early, best 0.500 (trial 0)",
    ]
    shown.close()
    assert screen.lines == ["[0:29] trials 8/8, 0 running, 0 stopped early, best 0.500 (trial 0)", ""]


def test_a_message_on_a_terminal_stands_above(clock: Clock, screen: Screen) -> None:
    shown = Display(SPACE, [], screen)
    shown.started(record(0))
    shown.say("trial 0: its process died")
    shown.ended(record(0, "failed", error="the total loss was not finite"))
    assert screen.lines[:2] == ["trial 0: its process died", "trial 0 failed: the total loss was not finite"]
    assert screen.lines[2].endswith("trials 0/8, 0:00")
    assert screen.lines[3:] == ["1 running, 0 stopped early"]
    shown.close()


def test_who_wants_the_lines_gets_them_instead_of_the_terminal(clock: Clock, screen: Screen) -> None:
    lines: list[str] = []
    shown = Display(SPACE, [], screen, say=lines.append)
    shown.started(record(0))
    clock.now += 5
    shown.ended(record(0, "failed", error="the total loss was not finite"))
    shown.close()
    assert lines == ["[0:00] trials 0/8, 1 running, 0 stopped early", "trial 0 failed: the total loss was not finite"]
    assert screen.getvalue() == ""


class Gone(Screen):
    """A terminal whose connection was lost."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_a_terminal_that_has_gone_ends_no_search(clock: Clock) -> None:
    shown = Display(SPACE, [], Gone())
    shown.started(record(0))
    shown.say("trial 0: its process died")
    shown.ended(record(0, "completed", 0.5))
    shown.close()


def test_default_trials_are_tagged() -> None:
    assert trial_tags(record(0, name="paper_default")) == {"default": "paper_default"}
    assert trial_tags(record(2)) == {}


class Told:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def trial_reported(self, number: int, step: int, metrics: Any, **more: Any) -> None:
        self.steps.append(step)


def test_later_stages_of_a_race_are_followed_while_they_run(tmp_path: Path, clock: Clock) -> None:
    """Tune hears of a raced trial's first reports, and then only of its end."""
    ledger = Ledger.open(tmp_path / "out", SPACE.model_dump(mode="json"), resume=False)
    ledger.new_trial(0, None, {}, {}, [0])
    told = Told()
    space = Space.model_validate({**SPACE.model_dump(mode="json"), "seeds": 4, "racing": {"start": 1}})
    follower = SearchCallback(space, ledger, told, displayed()[0], {})  # type: ignore[arg-type]
    trial = SimpleNamespace(config={"number": 0}, status="RUNNING")

    def save(step: int) -> None:
        ledger.save(0, step, {"score": 0.5}, None, b"")

    follower.on_step_end(0, [trial])
    save(2)
    follower.on_trial_result(0, [trial], trial, {"step": 2})
    for step in (4, 6, 8, 10):
        save(step)
    clock.now += 1
    follower.on_step_end(1, [trial])
    assert told.steps == [2]  # not at every turn of Tune's loop
    clock.now += 10
    follower.on_step_end(2, [trial])
    assert told.steps == [2, 4, 6, 8, 10]
    save(12)
    follower.on_trial_result(3, [trial], trial, {"step": 12})
    assert told.steps == [2, 4, 6, 8, 10, 12]
    ledger.close()


def test_the_papers_default_is_not_called_the_best(clock: Clock) -> None:
    shown, _ = displayed()
    shown.ended_records[0] = record(0, "completed", 0.99, name="paper_default")
    for one in (record(0, "completed", 0.99, name="paper_default"), record(1, "completed", 0.9)):
        shown.reported(one)
    assert "best 0.900 (trial 1)" in shown.line(1.0)
