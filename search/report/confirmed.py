"""From the runs on the reporting seeds to the confirmation in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from search.analysis.ranking import best_by_single_seed, best_trial, best_trials
from search.analysis.scores import mean_and_std, per_seed_means, per_task, robust_score
from search.analysis.statistics import paired_difference
from search.confirmation.selection import Choice
from search.confirmation.stages import summary
from search.ledger.ledger import TrialRecord
from search.report.model import Confirmation
from search.space.model import Space
from search.space.plan import Plan

SINGLE_SEED = "best_single_seed"


def metric_of(space: Space) -> str:
    """What the tasks are judged by; `score` if not all by the same."""
    metrics = {task.metric for task in space.tasks}
    return metrics.pop() if len(metrics) == 1 else "score"


def confirmed_settings(
    space: Space, plan: Plan, records: Sequence[TrialRecord], choice: Choice, results: Mapping[str, dict[str, Any]]
) -> Confirmation:
    """Scores on the reporting seeds, and paired differences of the recommended setting to each other one.

    `results`: label -> {`hyperparameters`, `shares`, task-major}, with a label `best_single_seed/N` for each trial N that a
    seed of the search alone would have chosen.
    """
    tasks = len(space.tasks)
    best, single = best_trial(records), [r.number for r in best_by_single_seed(records, plan)]
    trials = {"recommended": choice.chosen.trial, "best": None if best is None else best.number}
    # A row of the report is one run per fresh seed, or their mean over the trials that single seeds would have chosen.
    rows = {label: [result] for label, result in results.items() if not label.startswith(SINGLE_SEED)}
    if single:
        rows[SINGLE_SEED] = [results[f"{SINGLE_SEED}/{number}"] for number in single]
    shares = {label: [fmean(of) for of in zip(*(r["shares"] for r in row), strict=True)] for label, row in rows.items()}
    per_seed = {label: per_seed_means(values, tasks) for label, values in shares.items()}
    found: dict[str, Any] = {}
    for label, row in rows.items():
        score = fmean(robust_score(result["shares"], tasks, space.robust)[0] for result in row)
        found[label] = {**summary(per_seed[label]), "score": score, "trial": trials.get(label)}
        if tasks > 1:
            found[label]["tasks"] = [_spread(own) for own in per_task(shares[label], tasks)]
    if single:
        found[SINGLE_SEED]["trials"] = single

    def gain(label: str) -> dict[str, Any]:
        return paired_difference(per_seed["recommended"], per_seed[label]).as_json()

    own = results["recommended"]["hyperparameters"]
    found["mmd"]["difference"] = gain("mmd")
    found["difference"] = {**gain("default"), "against": "default"}  # 0 where that is recommended
    found["differences"] = {
        label: gain(label)
        for label, row in rows.items()
        if label not in ("recommended", "mmd") and any(result["hyperparameters"] != own for result in row)
    }
    searched = best or best_trials(records, 1)[0]
    found["shrinkage"] = searched.metrics["score_mean"] - found["best"]["mean"]
    return Confirmation.model_validate(found)


def _spread(values: Sequence[float]) -> dict[str, Any]:
    mean, std = mean_and_std(values)
    return {"mean": mean, "std": std, "n": len(values)}
