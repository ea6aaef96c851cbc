"""Whether folds rank settings better than one validation split, at equal cost: by the rank correlation with test.

python benchmarks/folds.py --space hapt --json folds.json

Random settings of a space. Each is judged by validation on the single split, with many seeds, and on three folds, with fewer
seeds; and by test, on the single split with other seeds, which is what a search recommends for. It chooses nothing, so it may
open test. Regret: what the setting that validation likes best lacks on test, against the best one there.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance
from scipy.stats import spearmanr

from condense.config.models import Fold, Hyperparameters, TaskConfig
from condense.embeddings.task import Task, load_task, load_test
from condense.engine.engine import Engine
from condense.evaluation.replica_scores import full_score, held_out_scores, validate
from condense.method.condensation import Condensation
from condense.storage.store import Store
from search.space.files import load_space
from search.space.model import Space, is_integer

FOLDS, BOOT = 3, 2000
CPU = torch.device("cpu")


def drawn(space: Space, count: int) -> list[Hyperparameters]:
    """Random settings: uniform, or log-uniform, in the ranges of `space.search`."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        params: dict[str, Any] = {}
        for name, of in space.search.items():
            if of.choices is not None:
                params[name] = of.choices[int(rng.integers(len(of.choices)))]
                continue
            assert of.low is not None and of.high is not None
            value = (
                math.exp(rng.uniform(math.log(of.low), math.log(of.high))) if of.log else rng.uniform(of.low, of.high)
            )
            params[name] = round(value) if is_integer(name) else value
        found.append(space.hyperparameters(params))
    return found


def run(task: Task, config: TaskConfig, settings: list[Hyperparameters], seeds: range, steps: int, test: bool) -> Any:
    """(settings, seeds): validation as a share of full data's, or accuracy on test."""
    engine, rows = Engine(), []
    for at in range(0, len(settings), 4):
        own = [
            Condensation(task, config.dpc, config.initialization, h, seed, total_steps=steps)
            for h in settings[at : at + 4]
            for seed in seeds
        ]
        for replica in own:
            replica.metric = config.metric
        engine.run(own, steps)
        if test:
            held = load_test(task, Store())
            scores = held_out_scores(own, [held] * len(own))
        else:
            full = full_score(task, config.metric)
            scores = [score / full for score in validate(own)]
        rows += np.asarray(scores).reshape(-1, len(seeds)).tolist()
        for replica in own:
            engine.forget(replica)
    return np.asarray(rows)


def compared(single: np.ndarray, folds: np.ndarray, test: np.ndarray, seeds: int) -> dict[str, Any]:
    """Rank correlation and regret of both ways with `seeds` seeds on each fold, averaged over disjoint draws of seeds.

    `single` (settings, seeds), `folds` (folds, settings, seeds), `test` (settings, seeds). The difference has an interval over
    settings (bootstrap).
    """
    truth, draws = test.mean(1), folds.shape[2] // seeds
    ways = {
        "single": [single[:, i * FOLDS * seeds : (i + 1) * FOLDS * seeds].mean(1) for i in range(draws)],
        "folds": [folds[:, :, i * seeds : (i + 1) * seeds].mean((0, 2)) for i in range(draws)],
    }
    rng = np.random.default_rng(0)

    def rank(rows: np.ndarray, values: list[np.ndarray]) -> float:
        return float(np.mean([spearmanr(own[rows], truth[rows]).statistic for own in values]))

    def regret(rows: np.ndarray, values: list[np.ndarray]) -> float:
        return float(np.mean([truth[rows].max() - truth[rows][own[rows].argmax()] for own in values]))

    everything = np.arange(len(truth))
    found: dict[str, Any] = {
        name: {"rank": rank(everything, own), "regret": regret(everything, own)} for name, own in ways.items()
    }
    for name, of in (("rank", rank), ("regret", regret)):
        apart = []
        for _ in range(BOOT):
            rows = rng.integers(0, len(truth), len(truth))
            apart.append(of(rows, ways["folds"]) - of(rows, ways["single"]))
        found[f"{name}: folds - single"] = [
            found["folds"][name] - found["single"][name],
            *np.nanquantile(apart, [0.025, 0.975]),
        ]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="hapt")
    parser.add_argument("--settings", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3, help="on each fold")
    parser.add_argument("--test-seeds", type=int, default=6)
    parser.add_argument("--by", choices=["group", "class"], default="group")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    space = load_space(options.space, options.set)
    config, settings = space.tasks[0], drawn(space, options.settings)
    task = load_task(config, Store(), CPU)
    single = run(task, config, settings, range(FOLDS * options.seeds), space.steps, test=False)
    test = run(task, config, settings, range(1000, 1000 + options.test_seeds), space.steps, test=True)
    folds, sizes = [], []
    for index in range(FOLDS):
        own = config.model_copy(update={"fold": Fold(index=index, of=FOLDS, by=options.by)})
        loaded = load_task(own, Store(), CPU)
        sizes.append(len(loaded.validation.labels))
        folds.append(run(loaded, own, settings, range(options.seeds), space.steps, test=False))
    whole = np.stack(folds)
    kept = np.isfinite(single).all(1) & np.isfinite(test).all(1) & np.isfinite(whole).all((0, 2))
    result = {
        "space": options.space,
        "by": options.by,
        "settings": int(kept.sum()),
        "validation items": {"single": len(task.validation.labels), "folds": sizes},
        "test items": len(task.dataset.open_test()),
        "spread of test": [float(test[kept].mean(1).min()), float(test[kept].mean(1).max())],
        **{
            f"{FOLDS * n} replicas": compared(single[kept], whole[:, kept], test[kept], n)
            for n in sorted({1, options.seeds})
        },
    }
    print(json.dumps(result, indent=1))
    if options.json:
        raw = {"single": single.tolist(), "folds": whole.tolist(), "test": test.tolist()}
        options.json.write_text(json.dumps({**result, **raw, **provenance()}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
