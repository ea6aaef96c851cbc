"""What the suite says about lambda: how each task's score responds to it, and whether a setting holds on other tasks.

python benchmarks/suite_lambda.py --json suite_lambda.json              all tasks, judged by accuracy and by retrieval
python benchmarks/suite_lambda.py --tasks emoji hapt --seeds 3

For each task and judge, on validation only:

- The learning rate that suits the project's default lambdas.
- At that rate, lambda_cross, lambda_joint and sigma are moved one at a time; and terms are left out. Differences to the default,
  with intervals over seeds and items (retrieval: over seeds).
- The same random settings on all: the best on one task, chosen on half of the seeds, is carried to each other task and compared
  on the other half with what is best there, chosen alike.

Tasks with aligned towers are condensed as features, whose steps take no tower.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import functools
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from helps import finite
from provenance import provenance, run
from suite import TASKS, Cell, condensed, kept, read_spaces
from suite_scores import points, row
from telling import STARTED, say, told

from condense.config.models import Hyperparameters
from condense.config.published import recommended
from condense.embeddings.task import Task, load_task
from condense.evaluation.replica_scores import Judged, full_score, validate_items
from condense.storage.store import Store
from search.analysis.paired import Items, Outcome, difference

ROOT = Path(__file__).resolve().parent.parent
JUDGES = ("accuracy", "retrieval")
RATES = (0.03, 0.05, 0.1, 0.15, 0.3, 0.6, 1.0, 3.0)
SLICES: dict[str, tuple[float, ...]] = {
    "lambda_cross": (0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
    "lambda_joint": (0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
    "frequency_scale": (0.1, 0.25, 0.5, 1, 2, 4),
}
TERMS = {
    "uni alone": {"lambda_cross": 0, "lambda_joint": 0},
    "uni + cross": {"lambda_joint": 0},
    "uni + joint": {"lambda_cross": 0},
    "cross alone": {"lambda_uni": 0, "lambda_cross": 1, "lambda_joint": 0},
    "joint alone": {"lambda_uni": 0, "lambda_cross": 0, "lambda_joint": 1},
}
DRAWN = {  # name -> range of the random settings, on a log scale
    "lambda_cross": (0.01, 10),
    "lambda_joint": (0.001, 3),
    "frequency_scale": (0.1, 4),
    "learning_rate": (0.03, 3),
}
FIRST_SEED, FIRST_TUNING_SEED = 6_000_000_000, 6_500_000_000  # of no search, and of no cell of suite.py


def judged(
    cell: Cell, task: Task, settings: Sequence[Hyperparameters], seeds: Sequence[int], judge: str
) -> list[list[Judged]]:
    """Of each setting, over seeds, on validation."""
    replicas = condensed(cell, task, [(h, seed) for h in settings for seed in seeds])
    for replica in replicas:
        replica.metric = judge
    found = validate_items(replicas)
    return [found[i * len(seeds) : (i + 1) * len(seeds)] for i in range(len(settings))]


def mean_of(runs: Sequence[Judged]) -> float:
    values = [0.0 if one.score != one.score else one.score for one in runs]
    return fmean(values)


def outcome(runs: Sequence[Judged]) -> Outcome:
    values = [one.values for one in runs if one.values is not None]
    return Outcome([one.score for one in runs], [torch.stack(values).numpy()] if len(values) == len(runs) else None)


def response(cell: Cell, task: Task, judge: str, seeds: int) -> dict[str, Any]:
    """The best learning rate at the default lambdas, and what moving each hyperparameter away from there does."""
    tuning = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + 3)
    rates = [recommended().model_copy(update={"learning_rate": rate}) for rate in RATES]
    scores = [mean_of(runs) for runs in judged(cell, task, rates, tuning, judge)]
    centre = rates[int(np.argmax(scores))]
    moved = {f"{name} = {value:g}": {name: value} for name, values in SLICES.items() for value in values} | TERMS
    settings = [centre, *(centre.model_copy(update=change) for change in moved.values())]
    own, *others = judged(cell, task, settings, range(FIRST_SEED, FIRST_SEED + seeds), judge)
    groups = task.dataset.validation.groups
    items = Items(len(task.validation.labels), groups=None if groups is None else groups.cpu().numpy())
    return {
        "learning_rate": centre.learning_rate,
        "rates": dict(zip(map(str, RATES), scores, strict=True)),
        "full_data": full_score(task, judge),
        "default": mean_of(own),
        "moved": {
            name: {"score": mean_of(runs), "difference": difference(outcome(runs), outcome(own), [items]).as_json()}
            for name, runs in zip(moved, others, strict=True)
        },
    }


def scores_of(
    cell: Cell, task: Task, settings: Sequence[Hyperparameters], seeds: Sequence[int], judge: str
) -> dict[str, Any]:
    return {"scores": [[one.score for one in runs] for runs in judged(cell, task, settings, seeds, judge)]}


def drawn_settings(count: int) -> list[Hyperparameters]:
    rng = np.random.default_rng(0)
    rows = [
        {name: float(np.exp(rng.uniform(np.log(low), np.log(high)))) for name, (low, high) in DRAWN.items()}
        for _ in range(count)
    ]
    return [recommended().model_copy(update=values) for values in rows]


def carried(scores: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, dict[str, float]]:
    """from -> to -> points of the score lost by taking over the best setting of `from`. `scores`: task -> (settings, seeds); the
    even seeds choose, the odd ones compare, so that the diagonal is 0 and luck has no part in the others."""
    values = {name: np.nan_to_num(np.asarray(of)) for name, of in scores.items()}
    best = {name: int(of[:, ::2].mean(1).argmax()) for name, of in values.items()}
    return {a: {b: float((of[best[b], 1::2] - of[best[a], 1::2]).mean()) for b, of in values.items()} for a in values}


def good_range(name: str, found: Mapping[str, Any]) -> tuple[float, float]:
    """The widest run of the slice's values around the default, none of which is shown to be below it."""
    values, default = SLICES[name], float(getattr(recommended(), name))
    fine = [not found["moved"][f"{name} = {value:g}"]["difference"]["ci95"][1] < 0 for value in values]
    low = high = min(range(len(values)), key=lambda i: abs(values[i] - default))
    while low > 0 and fine[low - 1]:
        low -= 1
    while high < len(values) - 1 and fine[high + 1]:
        high += 1
    return values[low], values[high]


def told_difference(moved: Mapping[str, Any]) -> str:
    of = moved["difference"]
    return points({**of, "ci95": None if math.isnan(of["ci95"][0]) else of["ci95"]}, True)


def tables(figures: Mapping[str, Any]) -> str:
    cells: Mapping[str, Any] = figures["responses"]
    lines = ["\n### Which lambdas\n", row(["task, judge", "rate", *SLICES, "at the default", "full data"])]
    lines.append(row(["---"] * 2 + ["---:"] * (len(SLICES) + 2)))
    for name, of in cells.items():
        ranges = [f"{low:g} to {high:g}" for low, high in (good_range(key, of) for key in SLICES)]
        scores = [f"{100 * of['default']:.1f}", f"{100 * of['full_data']:.1f}"]
        lines.append(row([name, f"{of['learning_rate']:g}", *ranges, *scores]))
    lines += ["\n### Terms: difference to all three, points\n", row(["task, judge", *TERMS])]
    lines.append(row(["---", *["---:"] * len(TERMS)]))
    lines += [row([name, *(told_difference(of["moved"][term]) for term in TERMS)]) for name, of in cells.items()]
    for key, values in SLICES.items():
        lines += [
            f"\n### {key}: difference to the default, points\n",
            row(["task, judge", *(f"{v:g}" for v in values)]),
        ]
        lines.append(row(["---", *["---:"] * len(values)]))
        default = getattr(recommended(), key)  # which differs from itself by nothing, on any items
        for name, of in cells.items():
            told_of = {v: "+0.0" if v == default else told_difference(of["moved"][f"{key} = {v:g}"]) for v in values}
            lines.append(row([name, *told_of.values()]))
    names = list(figures["transfer"])
    lines += ["\n### Carried over: points lost on the task of the column\n", row(["best on", *names])]
    lines.append(row(["---", *["---:"] * len(names)]))
    lines += [row([a, *(f"{100 * figures['transfer'][a][b]:.1f}" for b in names)]) for a in names]
    return "\n".join(lines)


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    store, device = Store(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures: dict[str, Any] = {**provenance(), "seeds": options.seeds, "responses": {}, "transfer": {}}
    settings, scores = drawn_settings(options.settings), {}
    first = FIRST_TUNING_SEED + 10
    seeds = range(first, first + options.seeds + options.seeds % 2)  # an even number: half of them choose
    for name, space in read_spaces(options).items():
        cell = Cell(name, space, options.dpc, options.output / name / f"dpc_{options.dpc}")
        with told(f"{name}: data, encoder and embeddings"):
            task = load_task(cell.config, store, device)
        for judge in JUDGES:
            key = f"{name}, {judge}"
            with told(f"{key}: response"):
                make = functools.partial(response, cell, task, judge, options.seeds)
                path = cell.folder / f"response_{judge}_{options.seeds}.json"
                figures["responses"][key] = kept(path, make)
            with told(f"{key}: {len(settings)} random settings"):
                make = functools.partial(scores_of, cell, task, settings, seeds, judge)
                path = cell.folder / f"drawn_{judge}_{len(settings)}_{len(seeds)}.json"
                scores[key] = kept(path, make)["scores"]
    figures["transfer"] = carried(scores)
    say("done")
    print(tables(figures))
    figures["seconds"] = time.monotonic() - STARTED
    found: dict[str, Any] = finite(figures)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [name for name in TASKS if name != "emoji_retrieval"]  # every task is judged both ways here
    parser.add_argument("--tasks", nargs="+", choices=names, default=names, metavar="NAME", help="which")
    parser.add_argument("--dpc", type=int, default=5, help="items per class (default 5)")
    parser.add_argument("--seeds", type=int, default=5, help="condensations per setting (default 5)")
    parser.add_argument("--settings", type=int, default=24, help="random settings that are carried over (default 24)")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "suite_lambda", help="folder of what is kept")
    parser.add_argument("--encoder", choices=("own", "tiny"), default="own", help="each space's own, or small towers")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    if min(options.dpc, options.seeds, options.settings, options.threads) < 1:
        parser.error("--dpc, --seeds, --settings and --threads must be at least 1")
    return run(benchmark, options)


if __name__ == "__main__":
    sys.exit(main())
