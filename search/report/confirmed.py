"""From the runs on the reporting seeds to the confirmation in the report, on validation and on test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from condense.config.models import Hyperparameters
from search.analysis.paired import Outcome, difference
from search.analysis.ranking import best_by_single_seed, best_trial, best_trials
from search.analysis.scores import mean_and_std, per_seed_means, per_task, robust_score
from search.confirmation.held_out import HeldOut
from search.confirmation.perturbation import applied
from search.confirmation.selection import Choice
from search.confirmation.stages import summary
from search.ledger.ledger import TrialRecord
from search.report.model import Confirmation
from search.space.model import Space
from search.space.plan import Plan

SINGLE_SEED = "best_single_seed"
TESTED = ("recommended", "challenger", "default", "paper_default", "tuned_rates")  # settings on test, besides MMD


def metric_of(space: Space) -> str:
    """What the tasks are judged by; `score` if not all by the same."""
    metrics = {task.metric for task in space.tasks}
    return metrics.pop() if len(metrics) == 1 else "score"


def confirmed_settings(
    space: Space,
    plan: Plan,
    records: Sequence[TrialRecord],
    choice: Choice,
    results: Mapping[str, dict[str, Any]],
    held_out: HeldOut,
    budget: int,
) -> Confirmation:
    """Scores on the reporting seeds, and paired differences of the recommended setting to each other one.

    `results`: label -> `Reruns.run`, with a label `best_single_seed/N` for each trial N that a seed of the search alone would
    have chosen, on fewer seeds maybe. `held_out`: the validation items. `budget`: in replica-steps.

    An interval is simultaneous over all settings that were tried where one of the two was chosen as the best of them on the same
    items.
    """
    tasks = len(space.tasks)
    best = best_trial(records)
    chosen_by_seed = [
        r.number for r in best_by_single_seed(records, plan)
    ]  # several seeds may have chosen the same trial
    single = chosen_by_seed if any(label.startswith(SINGLE_SEED) for label in results) else []
    trials = {"recommended": choice.chosen.trial, "best": None if best is None else best.number}
    if choice.challenger is not None:
        trials["challenger"] = choice.challenger.trial
    # A row of the report is one run per fresh seed, or their mean over the trials that single seeds would have chosen.
    rows = {label: [result] for label, result in results.items() if not label.startswith(SINGLE_SEED)}
    if single:
        rows[SINGLE_SEED] = [results[f"{SINGLE_SEED}/{number}"] for number in single]
    outcomes = {label: _mean_of([held_out.on_validation(result) for result in row]) for label, row in rows.items()}
    own, found = results["recommended"]["hyperparameters"], dict[str, Any]()
    differences = {}
    for label, row in rows.items():
        shares = outcomes[label].scores
        score = fmean(robust_score(result["shares"], tasks, space.robust)[0] for result in row)
        found[label] = {**summary(per_seed_means(shares, tasks)), "score": score, "trial": trials.get(label)}
        if all(None not in result.get("log_loss", [None]) for result in row):
            found[label]["log_loss"] = fmean(value for result in row for value in result["log_loss"])
        if tasks > plan.folds:
            of_each = per_task(shares, tasks // plan.folds)
            found[label]["tasks"] = [_spread(per_seed_means(own, plan.folds)) for own in of_each]
        is_picked = not choice.keeps_published or label in ("challenger", "best", SINGLE_SEED)
        compared = choice.compared if is_picked else 1
        on_same = held_out.on_validation(first_seeds(results["recommended"], len(row[0]["seeds"]), tasks))
        gain = difference(on_same, outcomes[label], held_out.items, compared).as_json()
        if label == "default":
            found["difference"] = {**gain, "against": "default"}  # 0 where that is recommended
        if label != "recommended":
            found[label]["difference"] = gain
            if any(result["hyperparameters"] != own for result in row):
                differences[label] = gain
    if single:
        found[SINGLE_SEED]["trials"] = single
    searched = best or best_trials(records, 1)[0]
    found |= {"differences": differences, "shrinkage": searched.metrics["score_mean"] - found["best"]["mean"]}
    found |= {"stopped": choice.stopped, "budget": budget}
    return Confirmation.model_validate(found)


def on_test(
    results: Mapping[str, dict[str, Any]], baselines: Mapping[str, Sequence[Mapping[str, Any]]], held_out: HeldOut
) -> dict[str, dict[str, Any]]:
    """setting or baseline -> {mean, std, n, values, ci95, difference, balanced}, the settings first, full data last.

    `difference`: minus the paper's default, and minus the best baseline (itself aside), paired by seed and item. `held_out`: the
    test items.
    """
    tasks = len(held_out.items)
    mmd = results["mmd"]["hyperparameters"]
    outcomes = {label: held_out.on_test(results[label]) for label in TESTED if label in results}
    same = {label for label in outcomes if results[label]["hyperparameters"] == mmd}
    outcomes |= {method: held_out.of_baseline(own) for method, own in baselines.items() if method != "full_data"}
    outcomes["mmd"] = held_out.on_test(results["mmd"])
    outcomes["full_data"] = held_out.of_baseline(baselines["full_data"])
    found = {label: summary(per_seed_means(own.scores, tasks)) for label, own in outcomes.items()}
    choices = [label for label in ("mmd", *baselines) if label != "full_data" and math.isfinite(found[label]["mean"])]
    for label, own in outcomes.items():
        score = held_out.score(own)
        found[label]["ci95"] = [max(0.0, score.low), min(1.0, score.high)] if math.isfinite(score.low) else None
        if (balanced := held_out.balanced(own)) is not None:
            found[label]["balanced"] = balanced
        apart = {} if label == "paper_default" else {"paper_default": "paper_default"}
        others = [key for key in choices if key != label and not (key == "mmd" and label in same)]
        if others:
            apart["best_baseline"] = found[label]["baseline"] = max(others, key=lambda key: found[key]["mean"])
        found[label]["difference"] = {to: held_out.apart(own, outcomes[other]).as_json() for to, other in apart.items()}
    return found


def judgement(space: Space, choice: Choice, limit: str | None, confirmed: Confirmation) -> dict[str, Any]:
    """`search.report.model.Judgement`, without its text. `limit`: where the trials' scores are, if at their ceiling or floor."""
    own = applied(Hyperparameters.model_validate(choice.chosen.config), space.fixed)
    own = {name: value for name, value in own.items() if value is not None}
    covers = [entry.covers for entry in confirmed.differences.values() if entry.mean is not None]
    challenger = choice.challenger
    return {
        "text": "",
        "keep_default": choice.keeps_published,
        "saturated": limit is not None and choice.keeps_published,
        "covers": min(covers, key=len) if covers else [],
        "limit": limit,
        "published": None if choice.published is None else choice.published.label,
        "challenger": None if challenger is None else challenger.label,
        "trial": None if challenger is None else challenger.trial,
        "difference": None if choice.difference is None else choice.difference.as_json(),
        "compared": choice.compared,
        "unlike_fixed": {name: own[name] for name, fixed in space.fixed.items() if own.get(name, fixed) != fixed},
    }


def first_seeds(result: Mapping[str, Any], count: int, tasks: int) -> dict[str, Any]:
    """`search.confirmation.reruns.Reruns.run` of a setting, as if it had run on the first `count` of its seeds only."""
    parts = {name: result[name] for name in ("shares", "hits")}
    cut = {name: [value for own in per_task(of, tasks) for value in own[:count]] for name, of in parts.items()}
    return {**result, **cut, "seeds": list(result["seeds"][:count])}


def _mean_of(runs: Sequence[Outcome]) -> Outcome:
    """Of several settings on the same seeds, as if they were one."""
    scores = [fmean(of) for of in zip(*(run.scores for run in runs), strict=True)]
    hits = [run.hits for run in runs if run.hits is not None]
    if len(hits) < len(runs):
        return Outcome(scores)
    return Outcome(scores, [np.mean(np.stack(of), axis=0) for of in zip(*hits, strict=True)])


def _spread(values: Sequence[float]) -> dict[str, Any]:
    mean, std = mean_and_std(values)
    return {"mean": mean, "std": std, "n": len(values)}
