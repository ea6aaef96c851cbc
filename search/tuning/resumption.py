"""What a search goes on with: its sampler, scheduler and display, as if it had never been interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ray.tune.schedulers import TrialScheduler

from search.analysis.failure_signatures import ended_metrics
from search.ledger.ledger import Ledger
from search.space.model import Space
from search.tracking.tracker import MlflowTracker
from search.tuning.callbacks import trial_tags
from search.tuning.display import Display
from search.tuning.early_stopping import build_scheduler, prefill
from search.tuning.searcher import SpaceSearcher


@dataclass(frozen=True)
class Ready:
    """What Tune and its callback get."""

    searcher: SpaceSearcher
    scheduler: TrialScheduler
    display: Display


def up_to_date(
    space: Space,
    ledger: Ledger,
    tracker: MlflowTracker,
    say: Callable[[str], None] | None = None,
    is_over: Callable[[], bool] | None = None,
) -> Ready:
    """Reads the ledger, which `Ledger.open` opened, tells `tracker` what MLflow lacks, and the others of all that has ended.

    `is_over`: whether no more trials are to begin.
    """
    past = ledger.trials()
    tracker.reconcile(past, tags=trial_tags, metrics=ended_metrics)
    searcher = SpaceSearcher(space, ledger, is_over)
    display = Display(space, past, say=say)
    if searcher.begins_anew:
        known, ended = searcher.observations()
        display.say(
            f"other ranges or objectives than before: {known} of {ended} trials so far are observations, those inside"
        )
    scheduler = build_scheduler(space)
    prefill(scheduler, ledger.history(), space.steps)
    return Ready(searcher, scheduler, display)
