"""One Tune trial: replicas (tasks x paired seeds) in an engine, reported as one robust score.

The process is light: the engine does the work, the ledger keeps the record. It imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import ray
from ray import tune

from search.engine_actor import LEASE, UnknownMember
from search.robust import per_seed_means, robust_score

ATTEMPTS = 5  # engines that may die one after the other before a trial gives up


@dataclass(frozen=True)
class Plan:
    """What is the same for all trials of a search."""

    tasks: list[dict[str, Any]]  # condense.config.TaskConfig as JSON
    seeds: list[int]
    report_steps: list[int]
    k: float


class Seat:
    """A member's place in its device's engine; taken again in a new engine if the old one died."""

    def __init__(self, broker: Any, member: str, node: str, gpu: str) -> None:
        self.broker, self.member, self.node, self.gpu = broker, member, node, gpu
        self.incarnation, self.engine = ray.get(broker.get.remote(node, gpu))
        self._arguments: tuple[Any, ...] = ()
        self._state: bytes | None = None  # at step `self.step`
        self._pending: Any = None
        self.step = self._target = 0
        try:
            ray.get(self.engine.work_done.remote())
        except ray.exceptions.RayActorError:  # it died when nobody was looking
            self.renew()

    @staticmethod
    def here(broker: Any, member: str) -> Seat:
        """On this process's node, and on the GPU that Ray gave it, if any."""
        gpus = ray.get_gpu_ids()
        return Seat(broker, member, ray.get_runtime_context().get_node_id(), str(gpus[0]) if gpus else "")

    def join(
        self,
        tasks: Sequence[dict[str, Any]],
        hyperparameters: dict[str, Any],
        seeds: Sequence[int],
        total_steps: int,
        state: bytes | None = None,
    ) -> None:
        """See `EngineActor.join`."""
        self._arguments, self._state = (list(tasks), hyperparameters, list(seeds), total_steps), state
        self.step = self._join()

    def start(self, target: int) -> None:
        """Lets the engine go on to step `target`; `report` waits for it."""
        self._target = target
        self._pending = self.engine.advance.remote(self.member, target - self.step)

    def report(self) -> dict[str, Any]:
        """The report at the step that was started for; see `EngineActor.advance`.

        If the engine dies, or has forgotten this member, it joins again where its last report was.
        """
        for more in reversed(range(ATTEMPTS)):
            try:
                report: dict[str, Any] = ray.get(self._pending)
                self.step, self._state = report["step"], report["state"]
                return report
            except ray.exceptions.RayActorError:
                if not more:
                    raise
                self.renew()
            except UnknownMember:
                if not more:
                    raise
            self._again()
        raise AssertionError("unreachable")

    def _again(self) -> None:
        try:
            self._join()
        except ray.exceptions.RayActorError:
            return  # the next one's `ray.get` meets it, and counts
        finally:
            self.start(self._target)

    def _join(self) -> int:
        joined = self.engine.join.remote(self.member, *self._arguments, self._state, LEASE)
        return int(ray.get(joined))

    def renew(self) -> None:
        """After the engine's death: takes the next one. The caller joins again."""
        self.incarnation, self.engine = ray.get(self.broker.get.remote(self.node, self.gpu, self.incarnation))

    def leave(self) -> None:
        """Gives the place up, without waiting."""
        self.engine.leave.remote(self.member)


def summarize(report: dict[str, Any], plan: Plan, seconds: float) -> dict[str, float]:
    """The metrics of one report, as Tune, the ledger and MLflow get them."""
    tasks = len(plan.tasks)
    score, mean, std = robust_score(per_seed_means(report["shares"], tasks), plan.k)
    metrics = {
        "score": score,
        "score_mean": mean,
        "score_std": std,
        "accuracy": fmean(report["accuracies"]),
        "step": float(report["step"]),
        "seconds": seconds,
    }
    for name in ("loss", "loss/uni", "loss/cross", "loss/joint"):
        metrics[name] = report["curve"][name][-1]
    for kind, values in (("accuracy", report["accuracies"]), ("share", report["shares"])):
        for i, value in enumerate(values):
            task, seed = divmod(i, len(plan.seeds))
            place = f"task_{task}/seed_{seed}" if tasks > 1 else f"seed_{seed}"
            metrics[f"{kind}/{place}"] = value
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
    started = time.monotonic()
    seat = Seat.here(broker, f"trial {number}")
    try:
        seat.join(plan.tasks, hyperparameters, plan.seeds, plan.report_steps[-1], state)
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
            ray.get(ledger.save.remote(number, step, metrics, report["curve"], report["state"]))
            tune.report({**metrics, "step": step, "number": number, "replayed": False})
    except Exception as error:
        ray.get(ledger.set_fault.remote(number, f"{type(error).__name__}: {getattr(error, 'cause', None) or error}"))
        raise
    finally:
        seat.leave()
