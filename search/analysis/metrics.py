"""A trial's metrics, made from an engine's report for Tune, the ledger and MLflow, and read back."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from search.analysis.failure_signatures import diagnostic_means
from search.analysis.scores import per_task, robust_score
from search.space.plan import Plan


def summarize(
    report: dict[str, Any],
    plan: Plan,
    seconds: float,
    before: dict[str, float] | None = None,
    within: bool = False,
) -> dict[str, float]:
    """The metrics of one report, as Tune, the ledger and MLflow get them.

    `before`: metrics of the previous racing stage, whose seeds count too. `within` a further stage, whose seeds are not
    finished, the score and the number of seeds remain those of the previous stage.
    """
    tasks = len(plan.tasks)
    here = len(report["shares"]) // tasks
    earlier = before or {"seeds": 0.0, "step": 0.0, "replica_steps": 0.0}
    progress = {
        "step": earlier["step"] + report["step"],
        "seconds": seconds,
        "replica_steps": earlier["replica_steps"] + report["step"] * here * tasks,
        **{name: report["curve"][name][-1] for name in ("loss", "loss/uni", "loss/cross", "loss/joint")},
    }
    if before is not None and within:
        return {**before, **progress}
    shares, values = list(report["shares"]), list(report["accuracies"])
    if before is not None:
        shares = _joined(replica_values(before, plan, "share"), shares, tasks)
        values = _joined(replica_values(before, plan, "judged"), values, tasks)
    score, mean, std = robust_score(shares, tasks, plan.robust)
    seeds = int(earlier["seeds"]) + here
    metrics = {"score": score, "score_mean": mean, "score_std": std, "seeds": float(seeds), **progress}
    if len(set(plan.judged)) == 1:
        metrics[plan.judged[0]] = fmean(values)
    metrics |= _log_loss(report, plan, before, earlier["seeds"] / seeds)
    for i, own in enumerate(per_task(shares, tasks)):
        if plan.places[i]:
            metrics[f"share/{plan.places[i]}"] = fmean(own)
    for name, found in report.get("secondary", {}).items():
        metrics[f"objective/{name}"] = robust_score(found, tasks, plan.robust)[0]
    for key, found in (("judged", values), ("share", shares)):
        metrics |= dict(zip(_names(plan, key, seeds), found, strict=True))
    return metrics | diagnostic_means(report.get("diagnostics", ()), before or {}, earlier["seeds"] / seeds)


def _log_loss(
    report: dict[str, Any], plan: Plan, before: dict[str, float] | None, weight_before: float
) -> dict[str, float]:
    """The mean log-loss score (`log_loss`) where a probe has one in every task and an accuracy is what counts; earlier versions
    kept none."""
    found = report.get("log_loss") or [None]
    known = before is None or "log_loss" in before
    if "log_loss" in plan.judged or None in found or not known:
        return {}
    earlier = 0.0 if before is None else before["log_loss"]
    return {"log_loss": weight_before * earlier + (1 - weight_before) * fmean(found)}


def replica_values(metrics: dict[str, float], plan: Plan, key: str = "share") -> list[float]:
    """The replicas' values, task-major, that `summarize` put into `metrics`: `share`, or the metric they are `judged` by."""
    return [metrics[name] for name in _names(plan, key, int(metrics.get("seeds", len(plan.seeds))))]


def _names(plan: Plan, key: str, seeds: int) -> list[str]:
    """Task-major."""
    return [
        f"{judged if key == 'judged' else key}/{place}{'/' if place else ''}seed_{seed}"
        for place, judged in zip(plan.places, plan.judged, strict=True)
        for seed in range(seeds)
    ]


def _joined(before: Sequence[float], more: Sequence[float], tasks: int) -> list[float]:
    """Task-major values of earlier seeds, followed by those of further seeds."""
    both = zip(per_task(before, tasks), per_task(more, tasks), strict=True)
    return [value for own, further in both for value in (*own, *further)]
