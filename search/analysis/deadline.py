"""When a search has to be over, and how long it may go on with trials: what follows them has to end in time, too.

What follows is estimated from what the trials have shown: replica-steps per second, and how long a trial takes. It is the
confirmation, at most what `confirmation.budget` allows, and at least a few stages, one after the other; then what is exported
and shown, each condensed alone; then the test split's baselines, the report and MLflow's last answers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple

from search.analysis.cost import fewest_confirmation_runs, most_confirmation_runs
from search.ledger.ledger import TrialRecord
from search.space.model import Space

MARGIN = 1.15  # what is estimated may take so many times as long
STAGES = 8  # of the shortest confirmation, one after the other
EXPORTED = 3  # replicas that are condensed to be shown, besides one for each task
SECONDS_TO_REPORT = 15.0  # models of the trials, figures, MLflow's and Ray's end, on a slow machine

Why = Literal["trials", "time", "patience", "asked"]


class Ended(NamedTuple):
    """Why there were no more trials: as many as were asked for have ended; the time; no progress; `--conclude`."""

    why: Why
    text: str  # a clause: "the 3 h budget leaves 41 min for confirmation"


class Deadline:
    """The moment at which a search has to be over; none without `hours`."""

    def __init__(
        self, hours: float | None = None, started: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`started`: on `clock`, which counts seconds."""
        self.hours, self._clock = hours, clock
        self._at = math.inf if hours is None else started + 3600 * hours

    @property
    def seconds_left(self) -> float:
        """Infinite without a limit; below 0 when it is over."""
        return self._at - self._clock()

    def __str__(self) -> str:
        """`3 h`; `72 s` if that is less than a tenth of an hour."""
        if self.hours is None:
            return "no limit"
        return f"{self.hours:.3g} h" if self.hours >= 0.1 else f"{3600 * self.hours:.3g} s"


def in_words(seconds: float) -> str:
    """`1 h 25 min`, `41 min`, `50 s`; to whole minutes from two of them on."""
    if seconds < 120:
        return f"{max(0, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return " ".join([f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (minutes > 0))


@dataclass(frozen=True)
class Pace:
    """What trials have shown of a machine's speed."""

    replica_steps: float  # per second, of all trials together
    trial: float  # seconds of a typical trial beside the others, stopped early or not
    whole: float  # the same of one that is not stopped early

    @classmethod
    def of(cls, space: Space, records: Sequence[TrialRecord], since: float = 0.0, running: int = 0) -> Pace | None:
        """By the reports after `since` (unix time): their replica-steps over the time in which at least one trial was at work. So
        neither the start of processes counts nor the time between sessions. None: no trial has ended yet.

        `running`: trials that run now. Early on, most of them have not reported, and are taken to be as fast as those that have.
        """
        steps, at_work = 0.0, []
        for record in records:
            before, seconds = 0.0, 0.0
            for report in record.reports:
                done = report.metrics.get("replica_steps", report.step * len(space.tasks) * len(record.seeds))
                if report.time > since:
                    steps += done - before
                    at_work.append((report.time - max(0.0, report.seconds - seconds), report.time))
                before, seconds = done, report.seconds
        ended = [r for r in records if r.status in ("completed", "pruned") and r.reports]
        seconds = length_of_union(at_work)
        if steps <= 0 or seconds <= 0 or not ended:
            return None
        whole = [r.seconds for r in ended if r.status == "completed"]
        whole = whole or [r.seconds * space.steps / r.reports[-1].step for r in ended]
        side_by_side = sum(high - low for low, high in at_work) / seconds
        pace = steps / seconds * max(1.0, running / side_by_side)
        return cls(pace, median(r.seconds for r in ended), median(whole))

    def run(self, space: Space) -> float:
        """Seconds of a run of the confirmation among others."""
        return space.steps * len(space.tasks) / self.replica_steps


def length_of_union(intervals: Iterable[tuple[float, float]]) -> float:
    """How much of a line they cover."""
    length, end = 0.0, -math.inf
    for low, high in sorted(intervals):
        length += max(0.0, high - max(low, end))
        end = max(end, high)
    return length


def seconds_after_runs(pace: Pace | None, tasks: int, preparation: float) -> float:
    """What follows the confirmation's runs, and the test split, which is read and embedded at most as long as the rest was.

    `tasks`: the user's. `preparation`: seconds that data, encoder and embeddings took.
    """
    alone = 0.0 if pace is None else pace.whole
    return MARGIN * (SECONDS_TO_REPORT + preparation + (EXPORTED + tasks) * alone)


def seconds_to_conclude(
    space: Space, records: Sequence[TrialRecord], pace: Pace, folds: int = 1, preparation: float = 0.0
) -> float:
    """All that follows the trials. `space`: its tasks are the folds, where there are some."""
    likely = most_confirmation_runs(space, records, folds) * pace.run(space)
    least = fewest_confirmation_runs(space, folds) * pace.run(space) + STAGES * pace.whole
    return MARGIN * max(likely, least) + seconds_after_runs(pace, len(space.tasks) // folds, preparation)
