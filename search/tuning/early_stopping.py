"""Early stopping: a space's Tune scheduler, and how a new one is brought up to date after an interruption."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from search.ledger.ledger import PastReport
from search.space.model import Space


class ReplayedASHA(ASHAScheduler):
    """ASHA that judges no report twice.

    After an interruption a trial reports its earlier values again (`replayed`, all but the last). The rungs record them, but
    the trial has passed these rungs: later reports of other trials are no reason to stop it there.
    """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if result.get("replayed") else decision


@dataclass(frozen=True)
class _PastTrial:
    """What a scheduler needs to know about an ended trial."""

    trial_id: str


def build_scheduler(space: Space) -> TrialScheduler:
    """ASHA on `score` over `step`, or no early stopping.

    Its metric and mode are set, so Tune's `TuneConfig` must leave them out.
    """
    if space.scheduler.name == "none":
        return FIFOScheduler()
    return ReplayedASHA(
        time_attr="step",
        metric="score",
        mode="max",
        max_t=space.steps,
        grace_period=space.grace_steps,
        reduction_factor=space.scheduler.reduction_factor,
    )


def prefill(scheduler: TrialScheduler, history: Iterable[PastReport], steps: int) -> None:
    """Replays the trials of `Ledger.history` to a new scheduler, with the calls that Tune would have made.

    Its rungs are then those of a scheduler that ran from the beginning. Interrupted trials are not in the history: they
    report again under a new id when they continue. From `steps` on, the end of the first racing stage, a scheduler gets
    only a trial's last report (`search.tuning.trainable`).
    """
    trials: dict[int, Any] = {}  # stand-ins for Tune's Trial; schedulers use only its id here
    for past in history:
        if past.report.step >= steps and past.ended is None:
            continue
        result = {**past.report.metrics, "step": past.report.step}
        if past.number not in trials:
            trials[past.number] = _PastTrial(f"past_{past.number:05d}")
            scheduler.on_trial_add(cast(Any, None), trials[past.number])
        decision = scheduler.on_trial_result(cast(Any, None), trials[past.number], result)
        if past.ended is None:
            continue  # it went on, whatever is decided without the reports of trials that are still under way
        # Tune completes a stopped trial too, but not one that raised an error.
        if past.ended in ("completed", "pruned") or decision == TrialScheduler.STOP:
            scheduler.on_trial_complete(cast(Any, None), trials[past.number], result)
        else:
            scheduler.on_trial_error(cast(Any, None), trials[past.number])
