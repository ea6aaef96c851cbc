"""After the trials: settings are run on fresh seeds, in the engine of the driver's node. Results are kept on disk as they come.

Two sets of fresh seeds, disjoint from each other and from the search's: the candidates are compared on the first, and the
chosen one is measured against the defaults on the second. So the reported numbers had no part in any choice.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import ray

from condense.baseline_settings import MMD_LEARNING_RATES, mmd
from search.choosing import finite
from search.ledger import Ledger
from search.robust import mean_and_std, per_seed_means, robust_score
from search.seat import Seat
from search.space import Space, fresh_seeds
from search.surface import Surface
from search.trainable import Plan

FIRST_SEEDS = 3  # for a first look at settings of which only the best are run on all choosing seeds
LIKELY = 3  # how many these are
Say = Callable[[str], None]

LEASE = 86_400.0
"""Seconds that a setting may be silent: it waits with its result until those on slower devices have theirs."""


class Closing:
    """Runs settings on fresh seeds: each once, also if the process is killed and comes back."""

    def __init__(self, space: Space, ledger: Ledger, broker: Any, plan: Plan, say: Say) -> None:
        self.space, self.ledger, self.plan, self.say = space, ledger, plan, say
        self.broker = broker
        self.devices = devices(ray.nodes(), ray.get_runtime_context().get_node_id(), space.resources.gpus_per_trial > 0)
        # Exports are written from this node: its own engine makes them.
        self.seat = Seat(broker, "closing", *self.devices[0])
        self.folder = ledger.output / "confirmation"
        self.folder.mkdir(exist_ok=True)
        self.choosing_seeds, self.reporting_seeds = fresh_seeds(space)

    def shares(
        self, settings: Mapping[str, dict[str, Any]], seeds: Sequence[int], stage: str
    ) -> dict[str, list[float]]:
        """`search.choosing.Evaluate`."""
        return {label: result["shares"] for label, result in self.run(settings, seeds, stage).items()}

    def run(
        self, settings: Mapping[str, dict[str, Any]], seeds: Sequence[int], stage: str, test: bool = False
    ) -> dict[str, dict[str, Any]]:
        """label -> {accuracies, shares, test (if asked)} of each setting on `seeds`, task-major.

        Spread over all devices of the cluster; those of a device are one pack. A setting whose loss is not finite gets NaN.
        """
        results = {
            label: self._kept(stage, label, hyperparameters, seeds, test) for label, hyperparameters in settings.items()
        }
        missing = [label for label, result in results.items() if result is None]
        places = zip(missing, itertools.cycle(self.devices), strict=False)
        seats = {label: Seat(self.broker, f"{stage} {label}", *device) for label, device in places}
        for label, seat in seats.items():
            seat.join(self.plan.tasks, settings[label], list(seeds), self.space.steps, lease=LEASE)
        for seat in seats.values():
            seat.start(self.space.steps)
        for label, seat in seats.items():
            report = seat.report()
            result: dict[str, Any] = {"seeds": list(seeds), "hyperparameters": settings[label], "node": seat.node}
            if report["divergence"] is not None:
                nothing = [math.nan] * len(report["shares"])
                result.update(accuracies=nothing, shares=nothing, test=nothing, divergence=report["divergence"])
            else:
                result.update(accuracies=report["accuracies"], shares=report["shares"])
                if test:
                    result["test"] = ray.get(seat.engine.finals.remote(seat.member))["accuracies"]
            write_json(self._file(stage, label, hyperparameters=settings[label]), result)
            results[label] = result
            seat.leave()
        return {label: result for label, result in results.items() if result is not None}

    def _file(self, stage: str, label: str, hyperparameters: dict[str, Any]) -> Path:
        content = json.dumps(hyperparameters, sort_keys=True).encode()
        name = f"{stage}_{label}".replace(" ", "_")
        return self.folder / f"{name}_{hashlib.sha256(content).hexdigest()[:8]}.json"

    def _kept(
        self, stage: str, label: str, hyperparameters: dict[str, Any], seeds: Sequence[int], test: bool
    ) -> dict[str, Any] | None:
        try:
            result: dict[str, Any] = json.loads(self._file(stage, label, hyperparameters).read_text())
        except (OSError, ValueError):
            return None
        same = result.get("hyperparameters") == hyperparameters and result.get("seeds") == list(seeds)
        return result if same and ("test" in result or not test) else None

    def per_seed(self, result: Mapping[str, Any], key: str = "shares") -> list[float]:
        """A result's values by seed, averaged over tasks."""
        return per_seed_means(result[key], len(self.space.tasks))

    def score(self, result: Mapping[str, Any]) -> float:
        """Its robust score; minus infinity where a loss was not finite."""
        return finite(robust_score(result["shares"], len(self.space.tasks), self.space.robust)[0])

    def tuned_mmd(self) -> dict[str, Any]:
        """MMD's setting with the learning rate that is best on validation, over the choosing seeds."""
        settings = {f"{rate:g}": mmd(rate).model_dump(mode="json") for rate in MMD_LEARNING_RATES}
        results = self.run(settings, self.choosing_seeds[:FIRST_SEEDS], "mmd_rate")
        best = max(settings, key=lambda label: finite(fmean(self.per_seed(results[label]))))
        return settings[best]

    def tuned_rates(self, surface: Surface | None, chosen: Mapping[str, Any]) -> dict[str, Any] | None:
        """The default's lambdas and sigma with the best learning rates found for them, so that what the lambdas gain is told
        apart. Tried: an even spread over the searched rates, the default's own, and those of the chosen setting; all on three
        choosing seeds, the best three on all of them. None where no learning rate is searched, or none is to be tried.
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

    def baselines(self) -> dict[str, list[float]]:
        """method -> test accuracies per seed, averaged over tasks: random, herding, k_center, full_data."""
        path = self.folder / "baselines.json"
        try:
            known: dict[str, list[float]] = json.loads(path.read_text())
            return known
        except (OSError, ValueError):
            pass
        per_task = [ray.get(self.seat.engine.baselines.remote(task, self.reporting_seeds)) for task in self.plan.tasks]
        merged = {
            method: [fmean(values) for values in zip(*(result[method] for result in per_task), strict=True)]
            for method in per_task[0]
        }
        write_json(path, merged)
        return merged

    def member(
        self, label: str, hyperparameters: dict[str, Any], state: bytes | None = None, seed: int | None = None
    ) -> str:
        """Joins (or re-joins) one setting with one seed for exports, advanced to the end; returns the member's name."""
        name = f"export {label}"
        seeds = [self.reporting_seeds[0] if seed is None else seed]
        at = ray.get(
            self.seat.engine.join.remote(name, self.plan.tasks[:1], hyperparameters, seeds, self.space.steps, state)
        )
        if at < self.space.steps:
            ray.get(self.seat.engine.advance.remote(name, self.space.steps - at))
        return name

    def leave(self, name: str) -> None:
        """Drops a member."""
        ray.get(self.seat.engine.leave.remote(name))


def devices(nodes: Sequence[Mapping[str, Any]], own: str, gpus: bool) -> list[tuple[str, str]]:
    """(node id, GPU id or "") of every device that settings can run on, this node's first; `nodes`: `ray.nodes()`."""
    found = []
    for node in sorted(nodes, key=lambda node: (node["NodeID"] != own, node["NodeID"])):
        if node["Alive"]:
            count = int(node["Resources"].get("GPU", 0)) if gpus else 0
            ids = [str(i) for i in range(count)]
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            if node["NodeID"] == own and visible and len(visible.split(",")) == count:  # Ray's names for them here
                ids = visible.split(",")
            found += [(node["NodeID"], i) for i in ids]
            # A head without a GPU writes the exports, and has to take part; other nodes without one are for other work.
            if not count and (not gpus or node["NodeID"] == own):
                found.append((node["NodeID"], ""))
    return found


def summary(values: Sequence[float]) -> dict[str, Any]:
    """{mean, std, n, values}."""
    mean, std = mean_and_std(values)
    return {"mean": mean, "std": std, "n": len(values), "values": list(values)}


def write_json(path: Path, content: Any) -> None:
    """In one step: a file that is there is whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2))
    os.replace(temporary, path)
