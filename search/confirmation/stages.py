"""The runs on fresh seeds after the trials (`search/confirmation/reruns.py`), for the choice and for the report.

Two sets of fresh seeds, disjoint from each other and from the search's: the candidates and the published settings are compared
on the first, and the chosen one is measured against all others on the second. So luck with seeds is not reported as gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import ray

from condense.config.published import MMD_LEARNING_RATES, mmd
from search.analysis.cost import FIRST_SEEDS, LIKELY
from search.analysis.scores import mean_and_std, per_seed_means, robust_score
from search.analysis.surrogate import Surface
from search.confirmation.ceiling import log_losses
from search.confirmation.held_out import HeldOut
from search.confirmation.reruns import Reruns
from search.confirmation.selection import finite
from search.engine.client import Client, forget
from search.engine.devices import find_devices
from search.ledger.atomic_files import read_json, write_json
from search.ledger.ledger import Ledger
from search.space.model import Space, fresh_seeds
from search.space.plan import Plan


class ConfirmationStages:
    """What a search runs after its trials. Can be restarted: finished runs are kept."""

    def __init__(
        self, space: Space, ledger: Ledger, pool: Any, plan: Plan, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """`say` hears how far a stage is, if it takes long."""
        self.space, self.plan = space, plan
        devices = find_devices(space.resources)
        self.pool, self.worker = pool, devices.workers[0]
        self.client = Client(pool, "confirmation", *devices.own)  # an engine on this node, where the files are
        self.folder = ledger.output / "confirmation"
        self.reruns = Reruns(self.folder, pool, plan, devices.workers, say)
        self.choosing_seeds, self.reporting_seeds = fresh_seeds(space)

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
        """The MMD setting with the best learning rate on validation, over the first choosing seeds."""
        settings = {f"{rate:g}": mmd(rate).model_dump(mode="json") for rate in MMD_LEARNING_RATES}
        results = self.run(settings, self.choosing_seeds[:FIRST_SEEDS], "mmd_rate")
        best = max(settings, key=lambda label: finite(fmean(self.per_seed(results[label]))))
        return settings[best]

    def tuned_rates(self, surface: Surface | None, chosen: Mapping[str, Any]) -> dict[str, Any] | None:
        """The default's lambdas and sigma with the best learning rates for them, to separate the gain of the lambdas. Tries an
        even spread over the searched rates, the default's own, and those of the chosen setting: all on three choosing
        seeds, the best three on all of them. None if no learning rate is searched, or none is to be tried.
        """
        names = [name for name in self.space.search if name.startswith("learning_rate")]
        count = self.space.confirmation.tuned_rates
        if surface is None or not names or not count:
            return None
        numeric = [name for name in names if name in surface.names]  # of `choices`, those of the chosen setting
        spread = surface.spread(numeric, count) if numeric else []
        default = next(d for d in self.space.default_trials() if d.name == "default")
        own = self.space.params_of(default.hyperparameters)
        rates = [{n: own[n] for n in names}, {n: chosen[n] for n in names}]
        rates += [rates[1] | some for some in spread]
        settings = {
            f"rates {i}": default.hyperparameters.model_copy(update=some).model_dump(mode="json")
            for i, some in enumerate(rates)
        }
        first = self.run(settings, self.choosing_seeds[:FIRST_SEEDS], "rates")
        likely = sorted(settings, key=lambda label: -self.score(first[label]))[:LIKELY]
        results = self.run({label: settings[label] for label in likely}, self.choosing_seeds, "rates_all")
        return settings[max(likely, key=lambda label: self.score(results[label]))]

    def baselines(self) -> dict[str, list[dict[str, list[Any]]]]:
        """method -> of each task its accuracies on test, and which items were right ({scores, hits}), over seeds: random,
        herding, k_center, k_means, full_data."""
        path = self.folder / "baselines.json"
        known = read_json(path) or {}
        if known.get("seeds") == self.reporting_seeds and "methods" in known:  # earlier versions kept no hits
            methods: dict[str, list[dict[str, list[Any]]]] = known["methods"]
            return methods
        per_task = [
            self._ask(lambda engine, of: engine.baselines.remote(of, self.reporting_seeds), task)
            for task in self.plan.tasks
        ]
        merged = {method: [result[method] for result in per_task] for method in per_task[0]}
        write_json(path, {"seeds": self.reporting_seeds, "methods": merged})
        return merged

    def held_out(self, split: str, tasks: Sequence[Mapping[str, Any]]) -> HeldOut:
        """The items of `validation` or `test`. `tasks`: `EngineActor.describe`."""
        described = [self._ask(lambda engine, of: engine.items.remote(of, split), task) for task in self.plan.tasks]
        return HeldOut.of(described, tasks, self.space.robust, shares=split == "validation")

    def _ask(self, question: Callable[[Any, Any], Any], task: dict[str, Any]) -> Any:
        """An answer of the engine on this node; of the next one if it has ended meanwhile."""
        self.client.renew_if_dead()
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
                self.client.renew_if_dead()  # an idle engine ends after a while
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
