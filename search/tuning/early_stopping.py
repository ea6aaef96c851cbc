"""Early stopping: a space's Tune scheduler, and how a new one is brought up to date after an interruption."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

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


class AsynchronousHyperband(ReplayedASHA):
    """Ray's own: ASHA in several brackets, with ever later first rungs. Ray draws a trial's bracket anew in every process; here
    its number decides, so that it stays the same. Trials are never paused, as Ray's HyperBandScheduler would: its brackets
    wait to be full, while paused trials take the places of `max_concurrent`."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        sizes = np.array([len(bracket._rungs) for bracket in self._brackets])
        likely = np.exp(sizes - sizes.max())  # as in Ray
        number = trial.config["number"]
        drawn = np.random.default_rng(number).choice(len(sizes), p=likely / likely.sum())
        self._trial_info[trial.trial_id] = self._brackets[drawn]


class ReplayedMedian(MedianStoppingRule):
    """Likewise for the median stopping rule (Golovin et al. 2017). Never pauses a trial."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self._stopped_trials.discard(trial)  # judged, but it went on
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if result.get("replayed") else decision

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        return str(TrialScheduler.CONTINUE)


class _PastTrial:
    """What a scheduler needs to know about an ended trial."""

    def __init__(self, number: int) -> None:
        self.trial_id, self.config = f"past_{number:05d}", {"number": number}


def build_scheduler(space: Space) -> TrialScheduler:
    """By `score` over `step`, or no early stopping.

    Its metric and mode are set, so Tune's `TuneConfig` must leave them out.
    """
    by: dict[str, Any] = {"time_attr": "step", "metric": "score", "mode": "max", "grace_period": space.grace_steps}
    factor = space.scheduler.reduction_factor
    match space.scheduler.name:
        case "none":
            return FIFOScheduler()
        case "median":
            return ReplayedMedian(**by)
        case "asha":
            return ReplayedASHA(**by, max_t=space.steps, reduction_factor=factor)
        case "hyperband":
            brackets = int(math.log(space.steps / space.grace_steps) / math.log(factor) + 1e-9) + 1
            return AsynchronousHyperband(**by, max_t=space.steps, reduction_factor=factor, brackets=brackets)


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
            trials[past.number] = _PastTrial(past.number)
            scheduler.on_trial_add(cast(Any, None), trials[past.number])
        decision = scheduler.on_trial_result(cast(Any, None), trials[past.number], result)
        if past.ended is None:
            continue  # it went on, whatever is decided without the reports of trials that are still under way
        # Tune completes a stopped trial too, but not one that raised an error.
        if past.ended in ("completed", "pruned") or decision == TrialScheduler.STOP:
            scheduler.on_trial_complete(cast(Any, None), trials[past.number], result)
        else:
            scheduler.on_trial_error(cast(Any, None), trials[past.number])
