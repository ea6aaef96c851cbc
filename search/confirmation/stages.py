"""The runs on fresh seeds after the trials (`search/confirmation/reruns.py`), for the choice and for the report.

Two sets of fresh seeds, disjoint from each other and from the search's: the candidates and the published settings are compared
on the first, and the chosen one is measured against all others on the second. So luck with seeds is not reported as gain.

All runs count against a budget. What is read from disk counts, too: so a confirmation that was killed takes the same way again.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

import ray

from condense.config.published import MMD_LEARNING_RATES, mmd
from search.analysis.coordinates import Coordinates
from search.analysis.cost import FIRST_SEEDS, LIKELY, LIKELY_MMD, confirmation_budget, reserved_runs
from search.analysis.deadline import MARGIN
from search.analysis.scores import mean_and_std, per_seed_means, robust_score
from search.analysis.sequential import FIRST_LOOK, looks
from search.confirmation.ceiling import log_losses
from search.confirmation.held_out import HeldOut
from search.confirmation.reporting import ReportingPlan, plan_report
from search.confirmation.reruns import Reruns
from search.confirmation.selection import finite
from search.engine.client import Client, forget
from search.engine.devices import find_devices
from search.ledger.atomic_files import read_json, write_json
from search.ledger.ledger import Ledger
from search.space.model import Space, fresh_seeds
from search.space.plan import Plan

FEWEST_MEASURED = 4  # runs, before their pace counts


class ConfirmationStages:
    """What a search runs after its trials. Can be restarted: finished runs are kept."""

    def __init__(
        self,
        space: Space,
        ledger: Ledger,
        pool: Any,
        plan: Plan,
        say: Callable[[str], None] = lambda _: None,
        seconds_left: Callable[[], float] = lambda: math.inf,
        run_seconds: float = 0.0,
    ) -> None:
        """`say` hears how far a stage is, if it takes long. `seconds_left`: for all runs. `run_seconds`: what one takes, by what
        is known before any."""
        self.seconds_left, self._run_seconds = seconds_left, run_seconds
        self.space, self.plan, self.ledger = space, plan, ledger
        devices = find_devices(space.resources)
        self.pool, self.worker = pool, devices.workers[0]
        self.client = Client(
            pool, "confirmation", *devices.own, stays=True
        )  # an engine on this node, where the files are
        self.folder = ledger.output / "confirmation"
        self.reruns = Reruns(self.folder, pool, plan, devices.workers, say)
        self.choosing_seeds, self.reporting_seeds = fresh_seeds(space)

    @functools.cached_property
    def budget(self) -> int:
        """How many runs there may be."""
        return confirmation_budget(self.space, self.ledger.trials(), self.plan.folds)

    @property
    def left(self) -> int:
        """How many more there may be, by the budget and by the time."""
        return min(self.budget - len(self.reruns.asked), self.left_in_time)

    @property
    def left_in_time(self) -> int:
        """For how many there is time, at the pace of those that have run."""
        measured = self.reruns.done >= FEWEST_MEASURED
        seconds = self.reruns.seconds / self.reruns.done if measured else self._run_seconds
        left = self.seconds_left()
        return sys.maxsize if math.isinf(left) or seconds <= 0 else int(max(0.0, left) / (MARGIN * seconds))

    @property
    def limited_by(self) -> Literal["budget", "time"]:
        """What there may be fewer runs for."""
        return "time" if self.left_in_time < self.budget - len(self.reruns.asked) else "budget"

    def affords(self, runs: int) -> bool:
        """`search.confirmation.selection.Affords`."""
        return runs <= self.left - reserved_runs(self.space, self.plan.folds)

    def plan_report(
        self, settings: Mapping[str, dict[str, Any]], singles: Mapping[str, dict[str, Any]], wanted: int, movable: int
    ) -> ReportingPlan:
        """`search.confirmation.reporting.plan_report`; `reporting_seeds` are then those that `settings` are compared on."""
        space, seeds, more = self.space, self.reporting_seeds, self.reruns.more
        first = looks(space.confirmation.seeds)[0] if len(space.tasks) > self.plan.folds else 0
        planned = plan_report(
            space,
            self.left - first * len(space.tasks),  # for `search.analysis.transfer`
            wanted,
            movable,
            lambda count: more(settings.values(), seeds[:count]),
            lambda count: more([own for own in singles.values() if own not in settings.values()], seeds[:count]),
        )
        self.reporting_seeds = seeds[: planned.seeds]
        return planned

    def shares(
        self, settings: Mapping[str, dict[str, Any]], seeds: Sequence[int], stage: str
    ) -> dict[str, list[float]]:
        """`search.confirmation.selection.Evaluate`."""
        return {label: result["shares"] for label, result in self.run(settings, seeds, stage).items()}

    def run(
        self, settings: Mapping[str, dict[str, Any]], seeds: Sequence[int], stage: str, test: bool = False
    ) -> dict[str, dict[str, Any]]:
        """`Reruns.run`."""
        return self.reruns.run(settings, seeds, stage, test)

    def log_losses(self, settings: Mapping[str, dict[str, Any]]) -> dict[str, float]:
        """`search.confirmation.selection.LogLosses`, on the choosing seeds."""
        runs = {label: self.reruns.kept(own) for label, own in settings.items()}
        return log_losses(runs, self.choosing_seeds, self.plan.judged)

    def per_seed(self, result: Mapping[str, Any], key: str = "shares") -> list[float]:
        """A result's values per seed, averaged over tasks."""
        return per_seed_means(result[key], len(self.space.tasks))

    def score(self, result: Mapping[str, Any]) -> float:
        """The robust score of a result; minus infinity if a loss was not finite."""
        return finite(robust_score(result["shares"], len(self.space.tasks), self.space.robust)[0])

    def tuned_mmd(self) -> dict[str, Any]:
        """The MMD setting with the best learning rate on validation: all on one choosing seed, the best two on three."""
        settings = {f"{rate:g}": mmd(rate).model_dump(mode="json") for rate in MMD_LEARNING_RATES}
        return self._best(settings, self.choosing_seeds[:FIRST_SEEDS], LIKELY_MMD, "mmd_rate", self._mean)

    def tuned_rates(self, coordinates: Coordinates, chosen: Mapping[str, Any]) -> dict[str, Any] | None:
        """The default's lambdas and sigma with the best learning rates for them, to separate the gain of the lambdas. Tries an
        even spread over the searched rates, the default's own, and those of the chosen setting: all on one choosing
        seed, the best three on a few. None if no learning rate is searched, or none is to be tried.
        """
        names = [name for name in self.space.search if name.startswith("learning_rate")]
        count = self.space.confirmation.tuned_rates
        if not coordinates.names or not names or not count:
            return None
        numeric = [name for name in names if name in coordinates.names]  # of `choices`, those of the chosen setting
        spread = coordinates.spread(numeric, count) if numeric else []
        default = next(d for d in self.space.default_trials() if d.name == "default")
        own = self.space.params_of(default.hyperparameters)
        rates = [{n: known[n] for n in names if known.get(n) is not None} for known in (own, chosen)]
        rates += [rates[1] | {n: value for n, value in some.items() if n in own} for some in spread]
        kept = [some for some in rates if self.space.keeps_constraints(own | some)]
        settings = {
            f"rates {i}": default.hyperparameters.model_copy(update=some).model_dump(mode="json")
            for i, some in enumerate(kept or rates[:1])
        }
        return self._best(settings, self.choosing_seeds[:FIRST_LOOK], LIKELY, "rates", self.score)

    def _mean(self, result: Mapping[str, Any]) -> float:
        return finite(fmean(self.per_seed(result)))

    def _best(
        self,
        settings: Mapping[str, dict[str, Any]],
        seeds: Sequence[int],
        likely: int,
        stage: str,
        value: Callable[[Mapping[str, Any]], float],
    ) -> dict[str, Any]:
        """All on the first of `seeds`, so many of them on all."""
        first = self.run(settings, seeds[:1], stage)
        again = sorted(settings, key=lambda label: -value(first[label]))[:likely]
        results = self.run({label: settings[label] for label in again}, seeds, stage)
        return settings[max(again, key=lambda label: value(results[label]))]

    def baselines(self, seeds: Sequence[int]) -> dict[str, list[dict[str, list[Any]]]]:
        """method -> of each task its accuracies on test, and which items were right ({scores, hits}), over seeds: random,
        herding, k_center, k_means, full_data; `majority` where all tasks have it."""
        path = self.folder / "baselines.json"
        known = read_json(path) or {}
        if known.get("seeds") == list(seeds) and "methods" in known:  # earlier versions kept no hits
            methods: dict[str, list[dict[str, list[Any]]]] = known["methods"]
            return methods
        per_task = [
            self._ask(lambda engine, of: engine.baselines.remote(of, list(seeds)), task) for task in self.plan.tasks
        ]
        common = [method for method in per_task[0] if all(method in result for result in per_task)]
        merged = {method: [result[method] for result in per_task] for method in common}
        write_json(path, {"seeds": list(seeds), "methods": merged})
        return merged

    def held_out(self, split: str, tasks: Sequence[Mapping[str, Any]]) -> HeldOut:
        """The items of `validation` or `test`. `tasks`: `EngineActor.describe`."""
        described = [self._ask(lambda engine, of: engine.items.remote(of, split), task) for task in self.plan.tasks]
        return HeldOut.of(described, tasks, self.space.robust, shares=split == "validation")

    def _ask(self, question: Callable[[Any, Any], Any], task: dict[str, Any]) -> Any:
        """An answer of the engine on this node; of the next one if it has ended meanwhile."""
        self.client.renew_if_unfit()
        try:
            return ray.get(question(self.client.engine, task))
        except ray.exceptions.RayActorError:  # it ended between the question whether it lives and this one
            self.client.renew()
            return ray.get(question(self.client.engine, task))

    def shown(
        self, label: str, task: dict[str, Any], hyperparameters: dict[str, Any], seed: int, stops: Sequence[int]
    ) -> Iterator[tuple[int, str]]:
        """One replica for exports: (step, tenant) at each of `stops`, in order.

        It is condensed where trials run, and shown on this node: `tenant` is in this node's engine, at that step.
        """
        name, steps = f"export {label}", self.space.steps
        runner = Client(self.pool, f"condense {label}", *self.worker)
        try:
            runner.join([task], hyperparameters, [seed], steps)
            for step in stops:
                checkpoint = None
                if step:
                    runner.start(step)
                    checkpoint = runner.report()["checkpoint"]
                self.client.renew_if_unfit()  # an idle engine ends after a while
                ray.get(self.client.engine.join.remote(name, [task], hyperparameters, [seed], steps, checkpoint))
                yield step, name
        finally:
            runner.leave()
            forget([runner])
            ray.wait([self.client.engine.leave.remote(name)])  # the next one shown may have the same name


def summary(values: Sequence[float]) -> dict[str, Any]:
    """{mean, std, n, values}."""
    mean, std = mean_and_std(values)
    return {"mean": mean, "std": std, "n": len(values), "values": list(values)}
