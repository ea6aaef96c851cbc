"""After the trials: confirm on fresh seeds, choose, open test once, write what the user gets.

Two sets of fresh seeds, disjoint from each other and from the search's: the top k are compared on the first, and the
chosen one is measured against the defaults on the second. So the reported numbers had no part in any choice.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import ray

from condense.baseline_settings import MMD_LEARNING_RATES, mmd
from search.ledger import Ledger, TrialRecord
from search.robust import per_seed_means, robust_score
from search.seat import Seat
from search.space import Space, confirmation_seeds
from search.trainable import Plan

MMD_SEEDS = 3


class Closing:
    """Runs settings on fresh seeds in the engine of the driver's node. Results are kept on disk as they come in."""

    def __init__(self, space: Space, ledger: Ledger, broker: Any, plan: Plan, say: Callable[[str], None]) -> None:
        self.space, self.ledger, self.plan, self.say = space, ledger, plan, say
        self.node = ray.get_runtime_context().get_node_id()
        gpus = (
            [str(i) for i in range(int(ray.cluster_resources().get("GPU", 0)))]
            if space.resources.gpus_per_trial
            else []
        )
        self.seat = Seat(broker, "closing", self.node, gpus[0] if gpus else "")
        self.folder = ledger.output / "confirmation"
        self.folder.mkdir(exist_ok=True)
        count = space.confirmation.seeds
        fresh = confirmation_seeds(space, 2 * count)
        self.choosing_seeds, self.reporting_seeds = fresh[:count], fresh[count:]

    def run(
        self, settings: Mapping[str, dict[str, Any]], seeds: Sequence[int], stage: str, test: bool
    ) -> dict[str, Any]:
        """label -> {accuracies, shares, test (if asked)} of each setting on `seeds`, all in one pack.

        A setting whose loss is not finite gets NaN.
        """
        results = {
            label: self._kept(stage, label, hyperparameters, seeds, test) for label, hyperparameters in settings.items()
        }
        missing = [label for label, result in results.items() if result is None]
        engine = self.seat.engine
        steps = self.space.steps
        for label in missing:
            ray.get(engine.join.remote(f"{stage} {label}", self.plan.tasks, settings[label], list(seeds), steps, None))
        reports = ray.get([engine.advance.remote(f"{stage} {label}", steps) for label in missing])
        for label, report in zip(missing, reports, strict=True):
            result: dict[str, Any] = {"seeds": list(seeds), "hyperparameters": settings[label]}
            if report["divergence"] is not None:
                nothing = [math.nan] * len(report["shares"])
                result.update(accuracies=nothing, shares=nothing, test=nothing, divergence=report["divergence"])
            else:
                result.update(accuracies=report["accuracies"], shares=report["shares"])
                if test:
                    result["test"] = ray.get(engine.finals.remote(f"{stage} {label}"))["accuracies"]
            _write_json(self.folder / f"{stage}_{label}.json", result)
            results[label] = result
            if not test:
                ray.get(engine.leave.remote(f"{stage} {label}"))
        return results

    def _kept(
        self, stage: str, label: str, hyperparameters: dict[str, Any], seeds: Sequence[int], test: bool
    ) -> dict[str, Any] | None:
        path = self.folder / f"{stage}_{label}.json"
        try:
            result: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        same = result.get("hyperparameters") == hyperparameters and result.get("seeds") == list(seeds)
        return result if same and ("test" in result or not test) else None

    def per_seed(self, result: Mapping[str, Any], key: str = "shares") -> list[float]:
        return per_seed_means(result[key], len(self.space.tasks))

    def choose(self, trials: Sequence[TrialRecord]) -> tuple[TrialRecord, dict[str, Any]]:
        """The trial to recommend, and its results on the choosing seeds: the best robust score there of the top k."""
        settings = {f"trial_{t.number:05d}": t.config for t in trials}
        results = self.run(settings, self.choosing_seeds, "choosing", test=False)

        def score(trial: TrialRecord) -> float:
            value = robust_score(self.per_seed(results[f"trial_{trial.number:05d}"]), self.space.robust.k)[0]
            return value if math.isfinite(value) else -math.inf

        chosen = max(trials, key=score)
        return chosen, results[f"trial_{chosen.number:05d}"]

    def tuned_mmd(self) -> dict[str, Any]:
        """MMD's setting with the learning rate that is best on validation, over the choosing seeds."""
        settings = {f"{rate:g}": mmd(rate).model_dump(mode="json") for rate in MMD_LEARNING_RATES}
        results = self.run(settings, self.choosing_seeds[:MMD_SEEDS], "mmd_rate", test=False)
        best = max(settings, key=lambda label: _finite(fmean(self.per_seed(results[label]))))
        return settings[best]

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
        _write_json(path, merged)
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
        ray.get(self.seat.engine.leave.remote(name))


def summary(values: Sequence[float]) -> dict[str, Any]:
    """{mean, std, n, values}."""
    return {
        "mean": fmean(values),
        "std": stdev(values) if len(values) > 1 else 0.0,
        "n": len(values),
        "values": list(values),
    }


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2))
    os.replace(temporary, path)
