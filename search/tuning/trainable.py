"""One Tune trial: replicas (tasks x paired seeds) in an engine, reported as one robust score.

The process is light: the engine does the work, the ledger keeps the record. It does not import torch.

Steps count on from one stage of racing to the next: with `steps: 60`, a trial's report at step 120 is of its second stage,
in which further seeds took 60 steps each. The scheduler gets the reports of the first stage except its last, and the trial's
last report; the reports between go to the ledger and MLflow only.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError

from search.analysis.metrics import summarize
from search.engine.client import Client
from search.engine.left_out import NoDeviceLeft
from search.engine.state_files import StateLost, StateUnreachable, discard_ended
from search.engine.tenant_lost import TenantLost
from search.interruption import caused_by_full_disk
from search.ledger.faults import described
from search.ledger.ledger import NOT_FINITE, Report
from search.space.plan import Plan
from search.tuning.racing import stages

log = logging.getLogger(__name__)
SAME_FAULTS = 2  # attempts that end with the same exception, before a trial has failed


def run_trial(config: dict[str, Any], *, pool: Any, ledger: Any, plan: Plan) -> None:
    """The Tune trainable. `config`: number, name and all hyperparameters, from `SpaceSearcher.suggest`."""
    _Running(config, pool, ledger, plan).run()


class _Running:
    """A trial, running in its own process."""

    def __init__(self, config: dict[str, Any], pool: Any, ledger: Any, plan: Plan) -> None:
        self.number, self.name = config["number"], config["name"]
        self.hyperparameters = {key: value for key, value in config.items() if key not in ("number", "name")}
        self.pool, self.ledger, self.plan = pool, ledger, plan
        self.stages = stages(plan.racing, len(plan.seeds))
        self.node = socket.gethostname()

    def run(self) -> None:
        if self.plan.keeping is not None:
            discard_ended(self.plan.keeping, lambda numbers: ray.get(self.ledger.over.remote(numbers)))
        try:
            self.go_on(ray.get(self.ledger.load.remote(self.number)))
        except StateLost as lost:
            log.warning("trial %d starts again: %s", self.number, lost)
            ray.get(self.ledger.restart.remote(self.number))
            self.go_on(None)

    def go_on(self, known: tuple[int, list[Report], bytes] | None) -> None:
        """From what the ledger has. Raises StateLost if the state is not to be had from here."""
        step, reports, checkpoint = (0, [], None) if known is None else known
        # Continue: earlier reports are replayed to the scheduler without compute. The latest one is judged, since it may not
        # have been judged before the interruption.
        for past in reports:
            if past.step < self.plan.steps:
                self.tell(past.metrics, past.step, replayed=past is not reports[-1])
        self.earlier, self.started = reports[-1].seconds if reports else 0.0, time.monotonic()
        stage, done = divmod(step, self.plan.steps)
        if done == 0:
            checkpoint = None  # it belongs to the previous stage, which has other seeds
        metrics = next((past.metrics for past in reports if past.step == stage * self.plan.steps), None)
        if metrics is not None and len(self.stages) == 1:
            self.tell(metrics, step)
            return
        while metrics is None or metrics["race/goes_on"]:
            metrics = self.stage(stage, metrics, done, checkpoint)
            if metrics is None or len(self.stages) == 1:
                return
            stage, done, checkpoint = stage + 1, 0, None
        self.tell(metrics, round(metrics["step"]))

    def stage(
        self, stage: int, before: dict[str, float] | None, done: int, checkpoint: bytes | None
    ) -> dict[str, float] | None:
        """Runs a stage's seeds, from `checkpoint` after `done` steps. `before`: the metrics at the end of the previous stage.

        Returns the metrics at its end; None if the trial failed.
        """
        plan, tenant = self.plan, f"trial {self.number}" + (f" stage {stage}" if stage else "")
        client = Client.here(self.pool, tenant)
        seeds = [plan.seeds[i] for i in self.stages[stage]]
        try:
            own = plan.tasks, self.hyperparameters, seeds, plan.steps, checkpoint, plan.cpus, plan.secondary
            client.join(*own, keeping=plan.keeping)
            return self.advance(client, stage, before, done)
        except StateLost:  # nobody's fault
            raise
        except Exception as error:
            self.blame(error, client.step + stage * plan.steps)
            return None
        finally:
            client.leave()

    def advance(
        self, client: Client, stage: int, before: dict[str, float] | None, done: int
    ) -> dict[str, float] | None:
        """`stage`, of a client that has joined."""
        plan, metrics = self.plan, before
        left = [target for target in plan.report_steps if target > done]
        client.start(left[0])
        for target, following in zip(left, [*left[1:], None], strict=True):
            report = client.report()
            if self.diverged(report, offset=stage * plan.steps):
                return None
            if following is not None:
                # The engine does not wait for the scheduler: at worst, some steps are wasted.
                client.start(following)
            metrics = summarize(report, plan, self.seconds, before, within=following is not None)
            if plan.racing is not None:
                metrics["race/stage"] = float(stage)
            if following is None:
                metrics = self.with_judgement(metrics)
            self.save(metrics, report, offset=stage * plan.steps)
            if stage == 0 and (following is not None or len(self.stages) == 1):
                self.tell(metrics, target)
        return metrics

    def blame(self, error: Exception, step: int) -> None:
        """Records an exception. It may be the node's fault, and is raised, so that Tune tries the trial again; one that comes
        twice in a row ends the trial, as failed at `step`."""
        text, trace = described(error)
        times = ray.get(self.ledger.set_fault.remote(self.number, text, trace))
        # A lost engine, or none, a full disk, or a storage that does not answer, is not the trial's fault.
        if (
            times < SAME_FAULTS
            or isinstance(error, RayActorError | TenantLost | NoDeviceLeft | StateUnreachable)
            or caused_by_full_disk(error)
        ):
            raise error
        ray.get(self.ledger.finish.remote(self.number, "failed", None, text))
        self.tell({"score": math.nan}, step)

    def with_judgement(self, metrics: dict[str, float]) -> dict[str, float]:
        """`metrics` at the end of a stage, and whether the trial continues, judged against the trials that have all seeds by now.
        A default trial always continues. If it does not, score and mean are the estimates of `racing.judge`."""
        plan = self.plan
        if plan.racing is None:
            return metrics
        if int(metrics["seeds"]) == len(plan.seeds) or self.name is not None:
            return {**metrics, "race/goes_on": float(metrics["seeds"] < len(plan.seeds))}
        judgement = ray.get(self.ledger.judged.remote(plan, self.number, metrics))
        estimates = {"score": judgement.score, "score_mean": judgement.mean}
        if judgement.goes_on or math.isnan(judgement.score):  # no rival yet
            estimates = {}
        return {**metrics, **estimates, "race/goes_on": float(judgement.goes_on)}

    @property
    def seconds(self) -> float:
        """Seconds on the trial's own clock."""
        return self.earlier + time.monotonic() - self.started

    def diverged(self, report: dict[str, Any], offset: int) -> bool:
        """Records a loss that was not finite, and ends the trial. `offset`: steps of earlier stages."""
        fault = report["divergence"]
        if fault is None:
            return False
        step = offset + fault["step"]
        text = f"the {fault['term']} {NOT_FINITE} at step {step} (seed {fault['seed']})"
        ray.get(self.ledger.finish.remote(self.number, "failed", None, text, step))
        self.tell({"score": math.nan}, offset + report["step"])
        return True

    def save(self, metrics: dict[str, float], report: dict[str, Any], offset: int) -> None:
        """Saves a report in the ledger. `offset`: steps of earlier stages."""
        curve = {**report["curve"], "step": [offset + step for step in report["curve"]["step"]]}
        step = offset + report["step"]
        ray.get(self.ledger.save.remote(self.number, step, metrics, curve, report["checkpoint"], self.node))

    def tell(self, metrics: dict[str, float], step: int, replayed: bool = False) -> None:
        """Reports to Tune, and through it to the scheduler and the sampler."""
        tune.report({**metrics, "step": step, "number": self.number, "replayed": replayed})
