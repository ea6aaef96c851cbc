"""Whether what follows the trials ends in time: a simulated search of three hours, and the estimate's parts."""

from __future__ import annotations

import heapq
import math
import random
import re
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.analysis.cost import fewest_confirmation_runs, most_confirmation_runs
from search.analysis.deadline import (
    Deadline,
    Pace,
    in_words,
    length_of_union,
    seconds_after_runs,
    seconds_to_conclude,
)
from search.ledger.ledger import Report, TrialRecord
from search.space.files import load_space
from search.space.model import Space
from search.space.plan import Plan
from search.tuning import ending
from search.tuning.ending import Ending

START = 1e9  # unix time


class Clock:
    """Both of Python's: monotonic, and of the day."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return START + self.now


class Simulated:
    """A search whose trials take so long, `slots` at a time; stands in for its ledger."""

    def __init__(self, space: Space, folder: Path, slots: int, seconds: float, pruned: float, seed: int = 0) -> None:
        self.space, self.output, self.slots, self.seconds, self.pruned = space, folder, slots, seconds, pruned
        self.random = random.Random(seed)
        self.records: dict[int, TrialRecord] = {}
        self.running: dict[int, float] = {}  # number -> seconds that it takes

    def trials(self) -> list[TrialRecord]:
        return list(self.records.values())

    def run(self, own: Ending, clock: Clock) -> None:
        """Until it takes no more trials and the last that may run to its end has ended."""
        queue: list[tuple[float, int, int]] = []  # time of the next report, number, its step
        number, took = 0, self.running
        while not own.stop_all():
            while len(took) < self.slots and own.ended is None:
                took[number] = self.seconds * self.random.uniform(0.8, 1.25)
                self.records[number] = self._record(number, "unfinished", [])
                heapq.heappush(queue, (clock.now + took[number] / 3, number, 1))
                number += 1
            if not queue:
                return
            at, which, step = heapq.heappop(queue)
            while clock.now < at:  # Tune looks ten times a second; here every ten seconds are enough
                clock.now = min(at, clock.now + 10.0)
                if own.stop_all():
                    return
            past = list(self.records[which].reports)
            past.append(self._report(step * self.space.steps // 3, clock.time(), took[which] * step / 3))
            status = "completed" if step == 3 else "pruned" if self.random.random() < self.pruned else "unfinished"
            self.records[which] = self._record(which, status, past)
            if status == "unfinished":
                heapq.heappush(queue, (at + took[which] / 3, which, step + 1))
            else:
                del took[which]

    def _record(self, number: int, status: Any, reports: list[Report]) -> TrialRecord:
        config = self.space.default_trials()[1].hyperparameters.model_dump(mode="json")
        steps = reports[-1].step if reports else 0
        seeds = list(range(self.space.seeds))
        ended = {} if status == "unfinished" else {"score": 0.9, "finished": reports[-1].time}
        name = {0: "paper_default", 1: "default"}.get(number)
        return TrialRecord(number, name, {}, config, seeds, 0.0, status, steps, reports=tuple(reports), **ended)

    def _report(self, step: int, at: float, seconds: float) -> Report:
        score = 0.8 + 0.1 * self.random.random()
        metrics = {"score": score, "score_mean": score, "score_std": 0.01, "seeds": float(self.space.seeds)}
        return Report(step, at, seconds, metrics)


def plan_of(space: Space) -> Plan:
    tasks = [task.model_dump(mode="json") for task in space.tasks]
    return Plan(tasks, list(range(space.seeds)), space.report_steps, space.robust, None)


def ending_of(search: Simulated, clock: Clock, preparation: float, say: Any = print) -> Ending:
    """Of a search that began at 0 and has three hours."""
    deadline = Deadline(3.0, 0.0, clock.monotonic)
    known = search.space, cast(Any, search), plan_of(search.space), deadline, preparation, say
    return Ending(*known, lambda: len(search.running), clock.monotonic)


@pytest.mark.parametrize("pruned", [0.0, 0.5])
@pytest.mark.parametrize(("slots", "seconds"), [(1, 120.0), (4, 240.0), (8, 600.0)])
def test_three_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int, seconds: float, pruned: float
) -> None:
    """Were the confirmation to take all that it may, each run at the pace of the trials, all would be over in time, and at most
    a trial's length and the margin would be wasted."""
    clock = Clock()
    monkeypatch.setattr(ending, "time", clock)
    space = load_space("quickstart", ["trials=100000"])
    search = Simulated(space, tmp_path, slots, seconds, pruned)
    told: list[str] = []
    clock.now = preparation = 100.0
    own = ending_of(search, clock, preparation, told.append)
    search.run(own, clock)
    assert own.ended is not None and own.ended.why == "time"
    (line,) = told
    assert line.startswith("no more trials: the 3 h budget leaves ") and line.endswith(" for confirmation and report")
    alone = seconds * 0.9  # of one trial, on a device that could take them all
    per_run = seconds / (slots * space.seeds)
    runs = most_confirmation_runs(space, search.trials())
    took = runs * per_run + 4 * alone + preparation + 10
    assert clock.now + took <= 3 * 3600
    least = fewest_confirmation_runs(space) * per_run + 8 * alone + 4 * alone + preparation + 20
    assert clock.now + 1.5 * max(took, least) + 2 * seconds >= 3 * 3600  # not given up long before


def test_the_line_and_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(ending, "time", clock)
    space = load_space("quickstart", ["trials=100000"])
    search = Simulated(space, tmp_path, 2, 120.0, 0.3)
    told: list[str] = []
    own = ending_of(search, clock, 10.0, told.append)
    seen: list[tuple[float, float]] = []
    look = own.look

    def watched() -> None:
        look()
        if own.seconds_for_trials is not None:
            seen.append((clock.now, own.seconds_for_trials))

    own.look = watched  # type: ignore[method-assign]
    search.run(own, clock)
    assert seen[0][0] < 300 and seen[-1][1] <= 120 * 1.25
    assert all(0 <= left <= 3 * 3600 - at for at, left in seen[:-1])
    late = [at + left for at, left in seen if at > 3600]  # by then it knows when the trials will end
    assert max(late) - min(late) < 0.6 * 3600


def test_running_trials_that_would_not_end_in_time_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(ending, "time", clock)
    space = load_space("quickstart", ["trials=100000"])
    search = Simulated(space, tmp_path, 3, 300.0, 0.0)
    own = ending_of(search, clock, 10.0, print)
    slow = search.random.uniform
    monkeypatch.setattr(search.random, "uniform", lambda a, b: 40.0 if len(search.records) == 5 else slow(a, b))
    search.run(own, clock)
    assert own.stops and own.ended is not None
    unfinished = [r.number for r in search.trials() if r.status == "unfinished"]
    assert 5 in unfinished and len(unfinished) <= 2  # and what takes longer than a typical one


def test_a_budget_that_is_too_small_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(ending, "time", clock)
    space = load_space("quickstart")
    search = Simulated(space, tmp_path, 1, 1800.0, 0.0)
    own = ending_of(search, clock, 10.0, print)
    search.run(own, clock)
    assert own.stops and own.ended is not None
    assert re.fullmatch(r"the 3 h budget leaves .* for confirmation and report, which may take 2\d h.*", own.ended.text)
    assert clock.now < 2.5 * 1800  # with the first that can be recommended


def test_without_a_result_it_goes_on_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(ending, "time", clock)
    space = load_space("quickstart")
    search = Simulated(space, tmp_path, 3, 4 * 3600.0, 0.0)
    own = ending_of(search, clock, 10.0, print)
    search.run(own, clock)
    assert own.stops and own.ended is not None and own.ended.text == "the 3 h budget is over"
    assert clock.now == pytest.approx(3 * 3600, abs=10)


def test_no_limit_no_end(tmp_path: Path) -> None:
    space = load_space("quickstart")
    search = Simulated(space, tmp_path, 2, 60.0, 0.0)
    own = Ending(space, cast(Any, search), plan_of(space), Deadline(), 0.0, print)
    own.look()
    assert own.ended is None and not own.stops and own.seconds_for_trials is None
    assert Deadline().seconds_left == math.inf


def test_the_estimate_has_all_its_parts() -> None:
    space = load_space("quickstart", ["confirmation.budget=0"])
    pace, fewest = Pace(replica_steps=space.steps / 2.0, trial=20.0, whole=30.0), fewest_confirmation_runs(space)
    least = 1.15 * (fewest * 2.0 + 8 * 30.0)
    assert seconds_after_runs(pace, 1, 100.0) == pytest.approx(1.15 * (15 + 100 + 4 * 30))
    assert seconds_to_conclude(space, [], pace, 1, 100.0) == pytest.approx(least + seconds_after_runs(pace, 1, 100.0))
    rich = load_space("quickstart", [f"confirmation.budget={200 * space.steps}"])
    most = 1.15 * 200 * 2.0 + seconds_after_runs(pace, 1, 0.0)
    assert seconds_to_conclude(rich, [], Pace(space.steps / 2.0, 1.0, 1.0), 1, 0.0) == pytest.approx(
        most - 1.15 * 4 * 29
    )


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted), max_size=8))
def test_the_length_of_a_union(intervals: list[list[int]]) -> None:
    covered = {second for low, high in intervals for second in range(low, high)}
    assert length_of_union((float(low), float(high)) for low, high in intervals) == len(covered)


def test_pace_counts_neither_starts_nor_what_was_before(tmp_path: Path) -> None:
    space = load_space("quickstart")
    search = Simulated(space, tmp_path, 1, 60.0, 0.0)

    def trial(number: int, at: float, seconds: float, before: float = 0.0) -> TrialRecord:
        """That ended at a time, after so many seconds of its own; `before` of them in an earlier session."""
        half = [search._report(space.steps // 2, 5.0, before)] if before else []
        return search._record(number, "completed", [*half, search._report(space.steps, at, seconds)])

    whole = space.steps * len(space.tasks) * space.seeds
    side_by_side = [trial(2, 100.0, 10.0), trial(3, 104.0, 10.0)]
    assert Pace.of(space, side_by_side) == Pace(2 * whole / 14.0, 10.0, 10.0)
    alone = whole / 10.0
    early = Pace.of(space, side_by_side, running=4)
    assert early is not None and early.replica_steps == pytest.approx(4 * alone)  # two have not reported
    later = [*side_by_side, trial(4, 1000.0, 20.0)]
    assert Pace.of(space, later) == Pace(3 * whole / 34.0, 10.0, 10.0)
    assert Pace.of(space, later, since=500.0) == Pace(whole / 20.0, 10.0, 10.0)
    gone_on = [trial(5, 1000.0, 50.0, before=40.0)]
    assert Pace.of(space, gone_on, since=500.0) == Pace(whole / 2 / 10.0, 50.0, 50.0)
    assert Pace.of(space, []) is None and Pace.of(space, later, since=2000.0) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0 s"), (50.4, "50 s"), (119, "119 s"), (2460, "41 min"), (5100, "1 h 25 min"), (7200, "2 h"), (3599, "1 h")],
)
def test_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_hours_in_words() -> None:
    assert [str(Deadline(hours)) for hours in (3.0, 0.5, 0.02, None)] == ["3 h", "0.5 h", "72 s", "no limit"]
