"""One Tune trial: replicas (tasks x paired seeds) in an engine, reported as one robust score.

The process is light: the engine does the work, the ledger keeps the record. It imports no torch.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import ray
from ray import tune

from search.robust import per_seed_means, robust_score
from search.seat import Seat


@dataclass(frozen=True)
class Plan:
    """What is the same for all trials of a search."""

    tasks: list[dict[str, Any]]  # condense.config.TaskConfig as JSON
    seeds: list[int]
    report_steps: list[int]
    k: float
    cpus: float | None  # what a trial has been granted, if the user has said how much


def summarize(report: dict[str, Any], plan: Plan, seconds: float) -> dict[str, float]:
    """The metrics of one report, as Tune, the ledger and MLflow get them."""
    tasks = len(plan.tasks)
    score, mean, std = robust_score(per_seed_means(report["shares"], tasks), plan.k)
    metrics = {
        "score": score,
        "score_mean": mean,
        "score_std": std,
        "step": float(report["step"]),
        "seconds": seconds,
    }
    for name in ("loss", "loss/uni", "loss/cross", "loss/joint"):
        metrics[name] = report["curve"][name][-1]
    judged = [task.get("metric", "accuracy") for task in plan.tasks]
    if len(set(judged)) == 1:
        metrics[judged[0]] = fmean(report["accuracies"])
    for i, (value, share) in enumerate(zip(report["accuracies"], report["shares"], strict=True)):
        task, seed = divmod(i, len(plan.seeds))
        place = f"task_{task}/seed_{seed}" if tasks > 1 else f"seed_{seed}"
        metrics[f"{judged[task]}/{place}"] = value
        metrics[f"share/{place}"] = share
    return metrics


def run_trial(config: dict[str, Any], *, broker: Any, ledger: Any, plan: Plan) -> None:
    """The Tune trainable. `config`: number, name and all hyperparameters, from `SpaceSearcher.suggest`."""
    number = config["number"]
    hyperparameters = {key: value for key, value in config.items() if key not in ("number", "name")}
    known = ray.get(ledger.load.remote(number))
    step, state, before = 0, None, 0.0
    if known is not None:  # go on; what was reported already is told to the scheduler again, without compute
        step, reports, state = known
        before = reports[-1].seconds
        for past in reports:
            tune.report({**past.metrics, "step": past.step, "number": number, "replayed": True})
    left = [target for target in plan.report_steps if target > step]
    if not left:
        return
    started, node = time.monotonic(), socket.gethostname()
    seat = Seat.here(broker, f"trial {number}")
    try:
        seat.join(plan.tasks, hyperparameters, plan.seeds, plan.report_steps[-1], state, plan.cpus)
        seat.start(left[0])
        for step, following in zip(left, [*left[1:], None], strict=True):
            report = seat.report()
            if report["divergence"] is not None:
                fault = report["divergence"]
                text = f"the {fault['term']} loss was not finite at step {fault['step']} (seed {fault['seed']})"
                ray.get(ledger.finish.remote(number, "failed", None, text, fault["step"]))
                tune.report({"score": float("nan"), "step": step, "number": number, "replayed": False})
                return
            if following is not None:  # the engine need not wait for the scheduler: at worst, some steps are in vain
                seat.start(following)
            metrics = summarize(report, plan, before + time.monotonic() - started)
            ray.get(ledger.save.remote(number, step, metrics, report["curve"], report["state"], node))
            tune.report({**metrics, "step": step, "number": number, "replayed": False})
    except Exception as error:
        ray.get(ledger.set_fault.remote(number, f"{type(error).__name__}: {getattr(error, 'cause', None) or error}"))
        raise
    finally:
        seat.leave()
