"""One Tune trial: replicas (tasks x paired seeds) in an engine, reported as one robust score.

The process is light: the engine does the work, the ledger keeps the record. It imports no torch.

Steps count on from one stage of racing to the next: with `steps: 60`, a trial's report at step 120 is of its second stage,
in which further seeds took 60 steps each. The scheduler hears of the first stage's reports up to its last but one, and of
the trial's last: what is in between is for the ledger and MLflow.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import ray
from ray import tune

from search.ledger import NOT_FINITE
from search.racing import Runner, judge, stages
from search.robust import per_seed_means, per_task, robust_score
from search.seat import Seat
from search.signatures import diagnostic_means
from search.space import Racing, Robust


@dataclass(frozen=True)
class Plan:
    """What is the same for all trials of a search."""

    tasks: list[dict[str, Any]]  # condense.config.TaskConfig as JSON
    seeds: list[int]
    report_steps: list[int]
    robust: Robust
    cpus: float | None  # what a trial has been granted, if the user has said how much
    racing: Racing | None = None
    secondary: tuple[str, ...] = ()  # objectives beside the score

    @property
    def steps(self) -> int:
        """Of a replica."""
        return self.report_steps[-1]

    @property
    def judged(self) -> list[str]:
        """Each task's metric."""
        return [task.get("metric", "accuracy") for task in self.tasks]


def summarize(
    report: dict[str, Any],
    plan: Plan,
    seconds: float,
    before: dict[str, float] | None = None,
    within: bool = False,
) -> dict[str, float]:
    """The metrics of one report, as Tune, the ledger and MLflow get them.

    `before`: the metrics of the stage before, whose seeds count too; `within` a further stage, whose seeds are not through
    yet, nothing else counts: the score and the number of seeds are still those of the stage before.
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
    for i, own in enumerate(per_task(shares, tasks)):
        if tasks > 1:
            metrics[f"share/task_{i}"] = fmean(own)
    for name, found in report.get("secondary", {}).items():
        metrics[f"objective/{name}"] = robust_score(found, tasks, plan.robust)[0]
    for key, found in (("judged", values), ("share", shares)):
        metrics |= dict(zip(_names(plan, key, seeds), found, strict=True))
    return metrics | diagnostic_means(report.get("diagnostics", ()), before or {}, earlier["seeds"] / seeds)


def replica_values(metrics: dict[str, float], plan: Plan, key: str = "share") -> list[float]:
    """The replicas' values, task-major, that `summarize` has put into `metrics`: `share`, or what they are `judged` by."""
    return [metrics[name] for name in _names(plan, key, int(metrics.get("seeds", len(plan.seeds))))]


def _names(plan: Plan, key: str, seeds: int) -> list[str]:
    """Task-major."""
    several = len(plan.tasks) > 1
    return [
        f"{judged if key == 'judged' else key}/{f'task_{task}/' if several else ''}seed_{seed}"
        for task, judged in enumerate(plan.judged)
        for seed in range(seeds)
    ]


def _joined(before: Sequence[float], more: Sequence[float], tasks: int) -> list[float]:
    """Task-major values of further seeds after those of earlier ones."""
    both = zip(per_task(before, tasks), per_task(more, tasks), strict=True)
    return [value for own, further in both for value in (*own, *further)]


def run_trial(config: dict[str, Any], *, broker: Any, ledger: Any, plan: Plan) -> None:
    """The Tune trainable. `config`: number, name and all hyperparameters, from `SpaceSearcher.suggest`."""
    _Running(config, broker, ledger, plan).run()


class _Running:
    """A trial in its process."""

    def __init__(self, config: dict[str, Any], broker: Any, ledger: Any, plan: Plan) -> None:
        self.number, self.name = config["number"], config["name"]
        self.hyperparameters = {key: value for key, value in config.items() if key not in ("number", "name")}
        self.broker, self.ledger, self.plan = broker, ledger, plan
        self.stages = stages(plan.racing, len(plan.seeds))
        self.node = socket.gethostname()

    def run(self) -> None:
        known = ray.get(self.ledger.load.remote(self.number))
        step, reports, state = (0, [], None) if known is None else known
        # Go on; what was reported already is told to the scheduler again, without compute. Where the trial stands, it is judged:
        # whether it was, is not known.
        for past in reports:
            if past.step < self.plan.steps:
                self.tell(past.metrics, past.step, replayed=past is not reports[-1])
        self.earlier, self.started = reports[-1].seconds if reports else 0.0, time.monotonic()
        stage, done = divmod(step, self.plan.steps)
        if done == 0:
            state = None  # of the stage before, whose seeds are others
        metrics = next((past.metrics for past in reports if past.step == stage * self.plan.steps), None)
        if metrics is not None and len(self.stages) == 1:
            self.tell(metrics, step)
            return
        while metrics is None or metrics["race/goes_on"]:
            metrics = self.stage(stage, metrics, done, state)
            if metrics is None or len(self.stages) == 1:
                return
            stage, done, state = stage + 1, 0, None
        self.tell(metrics, round(metrics["step"]))

    def stage(
        self, stage: int, before: dict[str, float] | None, done: int, state: bytes | None
    ) -> dict[str, float] | None:
        """Runs a stage's seeds, from `state` after `done` steps. `before`: the metrics at the end of the stage before it.

        Returns the metrics at its end; None if the trial has failed there.
        """
        plan, metrics = self.plan, before
        left = [target for target in plan.report_steps if target > done]
        with self.seat(stage, state) as seat:
            seat.start(left[0])
            for target, following in zip(left, [*left[1:], None], strict=True):
                report = seat.report()
                if self.diverged(report, offset=stage * plan.steps):
                    return None
                if following is not None:
                    # The engine need not wait for the scheduler: at worst, some steps are in vain.
                    seat.start(following)
                metrics = summarize(report, plan, self.seconds, before, within=following is not None)
                if plan.racing is not None:
                    metrics["race/stage"] = float(stage)
                if following is None:
                    metrics = self.with_judgement(metrics)
                self.save(metrics, report, offset=stage * plan.steps)
                if stage == 0 and (following is not None or len(self.stages) == 1):
                    self.tell(metrics, target)
        return metrics

    @contextlib.contextmanager
    def seat(self, stage: int, state: bytes | None = None) -> Iterator[Seat]:
        """A place in the engine for a stage's replicas, given up at the end; an exception is noted in the ledger."""
        plan, member = self.plan, f"trial {self.number}" + (f" stage {stage}" if stage else "")
        seat = Seat.here(self.broker, member)
        seeds = [plan.seeds[i] for i in self.stages[stage]]
        try:
            seat.join(plan.tasks, self.hyperparameters, seeds, plan.steps, state, plan.cpus, plan.secondary)
            yield seat
        except Exception as error:
            text = f"{type(error).__name__}: {getattr(error, 'cause', None) or error}"
            ray.get(self.ledger.set_fault.remote(self.number, text))
            raise
        finally:
            seat.leave()

    def with_judgement(self, metrics: dict[str, float]) -> dict[str, float]:
        """`metrics` at the end of a stage, with whether the trial goes on: against those that have all seeds by now. A default
        trial goes on in any case. The score and the mean of one that does not are the estimates of `racing.judge`."""
        plan = self.plan
        if plan.racing is None:
            return metrics
        if int(metrics["seeds"]) == len(plan.seeds) or self.name is not None:
            return {**metrics, "race/goes_on": float(metrics["seeds"] < len(plan.seeds))}
        ended = [r for r in ray.get(self.ledger.trials.remote()) if r.status == "completed" and r.score is not None]
        rivals = [
            Runner(r.score, per_seed_means(replica_values(r.metrics, plan), len(plan.tasks)))
            for r in ended
            if int(r.metrics["seeds"]) == len(plan.seeds) and r.name != "paper_default"  # which cannot be recommended
        ]
        own = per_seed_means(replica_values(metrics, plan), len(plan.tasks))
        judgement = judge(own, rivals, plan.racing.tolerance)
        estimates = {} if judgement.goes_on else {"score": judgement.score, "score_mean": judgement.mean}
        return {**metrics, **estimates, "race/goes_on": float(judgement.goes_on)}

    @property
    def seconds(self) -> float:
        """The trial's own clock."""
        return self.earlier + time.monotonic() - self.started

    def diverged(self, report: dict[str, Any], offset: int) -> bool:
        """Records a loss that was not finite, and ends the trial. `offset`: steps of the stages before."""
        fault = report["divergence"]
        if fault is None:
            return False
        step = offset + fault["step"]
        text = f"the {fault['term']} {NOT_FINITE} at step {step} (seed {fault['seed']})"
        ray.get(self.ledger.finish.remote(self.number, "failed", None, text, step))
        self.tell({"score": math.nan}, offset + report["step"])
        return True

    def save(self, metrics: dict[str, float], report: dict[str, Any], offset: int) -> None:
        """In the ledger. `offset`: steps of the stages before."""
        curve = {**report["curve"], "step": [offset + step for step in report["curve"]["step"]]}
        step = offset + report["step"]
        ray.get(self.ledger.save.remote(self.number, step, metrics, curve, report["state"], self.node))

    def tell(self, metrics: dict[str, float], step: int, replayed: bool = False) -> None:
        """Tune, and through it the scheduler and the sampler."""
        tune.report({**metrics, "step": step, "number": self.number, "replayed": replayed})
