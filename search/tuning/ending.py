"""What ends the trials before as many as were asked for have ended: the time, no progress, or somebody who asks for it.

Two moments: no trial begins any more; and those that still run are stopped. What they have reached is kept, so that `--resume`
goes on with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune import Stopper

from search.analysis.deadline import Deadline, Ended, Pace, in_words, seconds_to_conclude
from search.analysis.patience import trials_without_progress
from search.analysis.ranking import can_conclude
from search.ledger.ledger import Ledger, TrialRecord
from search.ledger.requests import CONCLUDE, is_to_stop, take
from search.space.model import Space
from search.space.plan import Plan, with_tasks

SECONDS_BETWEEN_LOOKS = 1.0
LOOKING = 0.05  # of the time at most


class Ending(Stopper):
    """Asked by Tune after each of its steps. `ended` is why no trial begins any more; None as long as trials do."""

    def __init__(
        self,
        space: Space,
        ledger: Ledger,
        plan: Plan,
        deadline: Deadline,
        preparation: float,
        say: Callable[[str], None],
        running: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`preparation`: seconds that data, encoder and embeddings took. `running`: how many trials run."""
        self.space, self.ledger, self.plan, self.deadline, self.say = space, ledger, plan, deadline, say
        self.preparation, self.running, self.clock = preparation, running, clock
        self.ended: Ended | None = None
        self.stops = False  # also those that run
        self.seconds_for_trials: float | None = None  # that are left; None: no limit, or nothing has been seen
        self._counted = with_tasks(space, plan.tasks)
        self._can_conclude = False
        self._since, self._look_at = time.time(), clock()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as for `SearchCallback`

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a single trial is stopped: if --stop-trial asked for it."""
        return "number" in result and is_to_stop(self.ledger.output, int(result["number"]))

    def stop_all(self) -> bool:
        """Whether all that runs is stopped now."""
        began = self.clock()
        if not self.stops and began >= self._look_at:
            self.look()
            self._look_at = began + max(SECONDS_BETWEEN_LOOKS, (self.clock() - began) / LOOKING)
        return self.stops

    def look(self) -> None:
        """At requests, the clock, and what has ended."""
        records = self.ledger.trials()
        self._can_conclude = self._can_conclude or can_conclude(self.space, records)
        if CONCLUDE in take(self.ledger.output):
            if self._can_conclude:
                self._end(Ended("asked", "--conclude asked for it"), stops=True)
                return
            self.say("--conclude: no trial has ended that could be recommended: the search goes on")
        self._look_at_time(records)
        patience = self.space.budget.patience
        if self.ended is None and patience is not None and trials_without_progress(records) >= patience:
            text = f"{patience} in a row were not better than the best by more than its standard error"
            self._end(Ended("patience", text))

    def _look_at_time(self, records: list[TrialRecord]) -> None:
        if self.deadline.hours is None:
            return
        left = self.deadline.seconds_left
        if left <= 0:
            self._end(Ended("time", f"the {self.deadline} budget is over"), stops=True)
            return
        pace = Pace.of(self._counted, records, self._since, self.running())
        if pace is None or not self._can_conclude:
            return
        needed = seconds_to_conclude(self._counted, records, pace, self.plan.folds, self.preparation)
        self.seconds_for_trials = left - needed
        if self.seconds_for_trials <= pace.trial:
            told = f"the {self.deadline} budget leaves {in_words(min(left, needed))} for confirmation and report"
            told += f", which may take {in_words(needed)}" if needed > 1.1 * left else ""
            self._end(Ended("time", told), stops=self.seconds_for_trials <= 0)

    def _end(self, ended: Ended, stops: bool = False) -> None:
        if self.ended is None:
            self.ended = ended
            self.say(f"no more trials: {ended.text}")
        self.stops = stops
