"""What a person sees while trials run: a bar on a terminal and in a notebook; a line now and then in a log file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import TextIO

from condense.system.live_line import LiveLine
from search.ledger.ledger import TrialRecord
from search.space.model import Space

RENEWED, PLAIN, WAITING = 1.0, 10.0, 30.0  # seconds between two: where lines are renewed, elsewhere, and without news


class Display:
    """Trials done and running, how they ended, the best so far, time left."""

    def __init__(
        self,
        space: Space,
        past: list[TrialRecord],
        stream: TextIO | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`past`: trials of before this process, where a search goes on. `stream`: by default stdout. `say` gets plain lines
        instead of it."""
        self.space = space
        self._say = say
        self.news = LiveLine(stream or sys.stdout)
        self.ended_records = {r.number: r for r in past if r.status != "unfinished"}
        self.at_start = len(self.ended_records)
        self.seconds_for_trials: Callable[[], float | None] = lambda: None  # that a limit of the whole search leaves
        self.running: set[int] = set()
        self.best: TrialRecord | None = None
        for record in past:
            self._consider(record)
        self.since = self.last_change = time.monotonic()  # the latter: of what runs
        self.shown = -math.inf

    def started(self, record: TrialRecord) -> None:
        self.running.add(record.number)
        self.last_change = time.monotonic()
        self.show()

    def reported(self, record: TrialRecord) -> None:
        self._consider(record)
        self.show()

    def ended(self, record: TrialRecord) -> None:
        self.running.discard(record.number)
        self.last_change = time.monotonic()
        self.ended_records[record.number] = record
        if record.status == "failed":
            self.say(f"trial {record.number} failed: {record.error}")
        self.show(now=len(self.ended_records) == self.space.trials)

    def say(self, text: str) -> None:
        """A line of its own."""
        (self._say or self.news.say)(text)

    def show(self, now: bool = False) -> None:
        """To be called as often as there is news."""
        self._show(0.0 if now else RENEWED if self._is_renewed else PLAIN)

    def wait(self) -> None:
        """To be called in between: time goes by on a terminal, and a log file tells that the search is alive."""
        if self.shown > -math.inf or time.monotonic() - self.since >= WAITING:  # at first others have something to say
            self._show(RENEWED if self._is_renewed else WAITING)

    def close(self) -> None:
        """Leaves the last line in place of the bar."""
        self.news.close(self.line(time.monotonic() - self.since))

    def line(self, seconds: float) -> str:
        """All of it, after so many seconds."""
        parts = [f"trials {len(self.ended_records)}/{self.space.trials}", *self._how_they_went(), *self._left(seconds)]
        return f"[{_minutes(seconds)}] " + ", ".join(parts)

    def rows(self, seconds: float) -> tuple[str, str]:
        """All of it, after so many seconds: beside the bar, and below."""
        parts = [f"trials {len(self.ended_records)}/{self.space.trials}", _minutes(seconds), *self._left(seconds)]
        return ", ".join(parts), ", ".join(self._how_they_went())

    @property
    def _is_renewed(self) -> bool:
        return self._say is None and self.news.is_renewed

    def _show(self, after: float) -> None:
        clock = time.monotonic()
        if clock - self.shown < after:
            return
        self.shown = clock
        seconds = clock - self.since
        if self._say is not None:
            self._say(self.line(seconds))
        else:
            self.news.show(self.line(seconds), len(self.ended_records), self.space.trials, self.rows(seconds))

    def _how_they_went(self) -> list[str]:
        kinds = [r.status for r in self.ended_records.values()]
        running = f"{len(self.running)} running"
        if self._is_held_up:
            running += " (none can start: no node has room for one)"
        parts = [running, f"{kinds.count('pruned')} stopped early"]
        if "failed" in kinds:
            parts.append(f"{kinds.count('failed')} failed")
        if self.best is not None and self.best.score is not None:
            parts.append(f"best {self.best.score:.3f} ({self.best.name or f'trial {self.best.number}'})")
        return parts

    @property
    def _is_held_up(self) -> bool:
        left = len(self.ended_records) < self.space.trials
        return left and not self.running and time.monotonic() - self.last_change >= WAITING

    def _left(self, seconds: float) -> list[str]:
        """At the pace of the trials that have ended here, or until there is no more time for trials."""
        done = len(self.ended_records)
        here = done - self.at_start
        if here <= 0 or done >= self.space.trials:
            return []
        left, most = seconds / here * (self.space.trials - done), self.seconds_for_trials()
        if most is not None and most < left:
            return [f"about {_minutes(max(0.0, most))} left for trials"]
        return [f"about {_minutes(left)} left"]

    def _consider(self, record: TrialRecord) -> None:
        if record.steps < self.space.steps or record.score is None or record.name == "paper_default":  # no candidate
            return
        if self.best is None or self.best.score is None or record.score > self.best.score:
            self.best = record


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
