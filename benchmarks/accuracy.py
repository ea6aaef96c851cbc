"""Accuracy of models trained on condensed sets, per method and budget: the results table and the headline claims.

python benchmarks/accuracy.py --json accuracy.json

Methods: real items (random, herding, k-center, k-means), MMD and AVDD-style with learning rates tuned here on validation, the
paper's default setting, and ours (`choose_settings.py`, by the same rule). All in the same engine, from the
same start, for the same number of steps. No search and no tuning uses these seeds.
Test data is opened once, after everything has been chosen and condensed.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from judge import condensed, judge
from provenance import provenance, run

from condense.config.files import load_config
from condense.config.models import CondensationConfig, Hyperparameters
from condense.config.published import MMD_LEARNING_RATES, PAPER_DEFAULT, avdd, mmd
from condense.data.dataset import MemorySplit
from condense.embeddings.task import Task, load_task, task_key
from condense.engine.engine import Engine
from condense.evaluation.comparison import CONVNET_STEPS, Comparison, Sample, as_json, compare, share_of
from condense.evaluation.linear_probe import train_probes
from condense.evaluation.replica_scores import probe_accuracy, validate
from condense.method.condensation import Condensation
from condense.storage.store import Store
from condense.system.errors import UserError

ROOT = Path(__file__).resolve().parent
SETTINGS = [ROOT / "settings" / f"dpc_{dpc}.yaml" for dpc in (1, 5, 10, 20)]
FIRST_SEED, FIRST_TUNING_SEED = 3_000_000_000, 2_000_000_000  # a search's seeds are below 1,000,010,000
TUNING_SEEDS = 2
VALIDATE_EVERY = 5  # steps; the speed claim is read from these curves
NAMES = {
    "random": "random items",
    "herding": "herding",
    "k_center": "k-center",
    "k_means": "k-means",
    "mmd": "MMD, learning rate tuned",
    "avdd": "AVDD-style, learning rate tuned",
    "paper_default": "the paper's default setting",
    "ours": "**ours**",
    "full_data": "full data",
}
BASELINES = ("random", "herding", "k_center", "mmd", "avdd")  # the baselines of the paper
PROTOCOLS = {"probe": "linear probe", "convnet": "ConvNet from scratch"}


@dataclass(frozen=True)
class Run:
    """One setting condensed with n seeds in one pass."""

    hyperparameters: Hyperparameters
    sets: list[MemorySplit]  # per seed, on the CPU
    accuracy: list[float]  # validation, per seed, at the end
    curve: list[dict[str, float]]  # step, seconds (validation left out), accuracy (validation, mean over seeds)


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:5.0f} s] {text}", file=sys.stderr, flush=True)


def condense(task: Task, config: CondensationConfig, hyperparameters: Hyperparameters, seeds: Sequence[int]) -> Run:
    """`hyperparameters` from the start and for the number of steps of `config`.

    Seconds are set-up plus steps times the median step time, so that a busy moment of the machine does not count.
    """
    started = time.perf_counter()
    replicas = [replica_of(task, config, hyperparameters, seed) for seed in seeds]
    setup = time.perf_counter() - started
    engine, step, times = Engine(), 0, []
    points = [(0, validate(replicas))]
    while step < config.steps:
        count = min(VALIDATE_EVERY, config.steps - step)
        started = time.perf_counter()
        engine.run(replicas, count)
        times.append((time.perf_counter() - started) / count)
        step += count
        points.append((step, validate(replicas)))
    curve = [{"step": s, "seconds": setup + s * median(times or [0.0]), "accuracy": fmean(a)} for s, a in points]
    sets = [
        MemorySplit({m: x.detach().to("cpu", copy=True) for m, x in r.inputs.items()}, r.labels.cpu()) for r in replicas
    ]
    return Run(hyperparameters, sets, points[-1][1], curve)


def replica_of(task: Task, config: CondensationConfig, hyperparameters: Hyperparameters, seed: int) -> Condensation:
    return Condensation(task, config.dpc, config.initialization, hyperparameters, seed, max(1, config.steps))


def tune(
    validation: Comparison,
    config: CondensationConfig,
    make: Callable[[float], Hyperparameters],
    rates: Sequence[float],
    seeds: Sequence[int],
) -> tuple[Hyperparameters, dict[float, float]]:
    """The setting whose learning rate is best on validation, by the rule that chose ours (`judge`), and rate -> its value.

    If the best one is at the end of the grid, the grid is extended there, so that a baseline reaches its optimum.
    """
    accuracies: dict[float, float] = {}
    missing = list(rates)
    while missing:
        sets = condensed(validation.task, config, [make(rate) for rate in missing], seeds)
        for rate, verdict in zip(missing, judge(validation, sets), strict=True):
            accuracies[rate] = verdict.value
        best = max(accuracies, key=lambda rate: accuracies[rate])
        low, high = min(accuracies), max(accuracies)
        missing = []
        if low < high and 1e-3 < best < 1e5:
            missing = [best / 3, best / 10] if best == low else [best * 3, best * 10] if best == high else []
    return make(best), dict(sorted(accuracies.items()))


def seconds_to(curve: Sequence[Mapping[str, float]], accuracy: float) -> float:
    """When a curve first reaches `accuracy`; infinity if it never does."""
    return next((point["seconds"] for point in curve if point["accuracy"] >= accuracy), math.inf)


def speed_claim(ours: Run, other: Run) -> dict[str, float | None]:
    """Time of `other` to its best mean validation accuracy over our time to the same; 0 if we never reach it."""
    best = max(point["accuracy"] for point in other.curve)
    theirs, own = seconds_to(other.curve, best), seconds_to(ours.curve, best)
    return {
        "accuracy": best,
        "avdd_seconds": theirs,
        "ours_seconds": own if math.isfinite(own) else None,
        "ratio": theirs / own if math.isfinite(own) else 0.0,
    }


def headlines(
    results: Mapping[int, Mapping[str, Mapping[str, Sample]]], runs: Mapping[int, Mapping[str, Run]]
) -> dict[str, Any]:
    """The paper's three claims, measured: `share_of_full`, `lead`, `speed`."""
    share: dict[str, Any] = {}
    lead: dict[str, Any] = {}
    for dpc, of_method in results.items():
        for protocol in PROTOCOLS:
            if not of_method["ours"][protocol].values:
                continue
            mean = {method: sample[protocol].mean for method, sample in of_method.items()}
            best = max(BASELINES, key=lambda method: mean[method] if math.isfinite(mean[method]) else -1.0)
            share.setdefault(protocol, {})[f"dpc_{dpc}"] = share_of(mean["ours"], mean["full_data"])
            lead.setdefault(protocol, {})[f"dpc_{dpc}"] = {"points": 100 * (mean["ours"] - mean[best]), "over": best}
    speed = {f"dpc_{dpc}": speed_claim(of_method["ours"], of_method["avdd"]) for dpc, of_method in runs.items()}
    return {"share_of_full": share, "lead": lead, "speed": speed}


def item_hits(comparison: Comparison, sets: Sequence[MemorySplit]) -> torch.Tensor:
    """(n,): for each test item, the share of the sets whose linear probe classifies it correctly."""
    test, classes = comparison.test, comparison.task.dataset.num_classes
    right = []
    for items in sets:
        try:
            embedded = comparison.embed(items)
        except FloatingPointError:  # its loss was not finite: it gets nothing right
            right.append(torch.zeros_like(test.labels, dtype=torch.bool))
            continue
        probes = train_probes(embedded.features[None], embedded.labels[None], None, classes)
        right.append((test.features.float() @ probes.weight[0, 0] + probes.bias[0, 0]).argmax(1) == test.labels)
    return torch.stack(right).float().mean(0)


def over_items(ours: torch.Tensor, other: torch.Tensor) -> dict[str, Any]:
    """Mean difference and its 95 % interval, as if the test items had been drawn independently (normal approximation)."""
    apart = (ours - other).double()
    half = 1.96 * float(apart.std()) / math.sqrt(len(apart))
    return {"mean": float(apart.mean()), "ci95": [float(apart.mean()) - half, float(apart.mean()) + half]}


def cell(sample: Sample) -> str:
    """Mean ± std in %."""
    if not sample.values:
        return ""
    return f"{100 * sample.mean:.1f}" + (f" ± {100 * sample.std:.1f}" if len(sample.values) > 1 else "")


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def results_table(
    results: Mapping[int, Mapping[str, Mapping[str, Sample]]], protocol: str, against_mmd: Mapping[int, dict[str, Any]]
) -> str:
    """A row per method, a column per budget; the best mean of each column is bold. `against_mmd`: budget -> `over_items`."""
    lines = [
        row([PROTOCOLS[protocol], *(f"{dpc} per class" for dpc in results)]),
        row(["---", *["---:"] * len(results)]),
    ]
    best = {}
    for dpc, of_method in results.items():
        means = {m: s[protocol].mean for m, s in of_method.items() if m != "full_data"}
        best[dpc] = max(means, key=lambda m: means[m] if math.isfinite(means[m]) else -1.0)
    for method, name in NAMES.items():
        cells = [cell(of_method[method][protocol]) for of_method in results.values()]
        cells = [f"**{text}**" if best[dpc] == method else text for dpc, text in zip(results, cells, strict=True)]
        lines.append(row([name, *cells]))
        if method == "ours":
            shares = [share_of(s["ours"][protocol].mean, s["full_data"][protocol].mean) for s in results.values()]
            lines.append(row(["ours, as a share of full data", *(f"{100 * (x or 0):.1f} %" for x in shares)]))
            if against_mmd:
                told = [
                    f"{100 * x['mean']:+.1f} [{100 * x['ci95'][0]:.1f}, {100 * x['ci95'][1]:.1f}]"
                    for x in against_mmd.values()
                ]
                lines.append(row(["ours minus MMD, 95 % over test items", *told]).replace("-", "−"))
    return "\n".join(lines)


def headlines_table(found: Mapping[str, Any]) -> str:
    """The claims, the paper's figures (other data, another encoder) and ours."""
    lines = [row(["claim", "paper", *PROTOCOLS.values()]), row(["---"] * 4)]

    def cells(values: Mapping[str, Mapping[str, Any]], text: Callable[[Mapping[str, Any]], str]) -> list[str]:
        return [text(values[protocol]) if protocol in values else "" for protocol in PROTOCOLS]

    def largest(leads: Mapping[str, Any]) -> str:
        key = max(leads, key=lambda k: leads[k]["points"])
        over = NAMES[leads[key]["over"]].split(",")[0]
        return f"{leads[key]['points']:+.1f} points (at {key.removeprefix('dpc_')} per class, over {over})"

    key = max(found["speed"], key=lambda name: int(name.removeprefix("dpc_")))
    budget = key.removeprefix("dpc_")
    shares = cells(found["share_of_full"], lambda share: f"{100 * (share[key] or 0):.1f} %")
    lines.append(row([f"share of full-data accuracy at {budget} per class", "98 % (at 20)", *shares]))
    lines.append(row(["largest lead over the best baseline", "8.2 points", *cells(found["lead"], largest)]))
    ratios = [
        f"{name.removeprefix('dpc_')}: {claim['ratio']:.1f} x"
        if claim["ratio"]
        else f"{name.removeprefix('dpc_')}: never"
        for name, claim in found["speed"].items()
    ]
    lines.append(
        row(
            ["condensation time, AVDD-style over ours, to the same validation accuracy", "> 4 x", ", ".join(ratios), ""]
        )
    )
    return "\n".join(lines)


def read_settings(paths: Sequence[Path], quick: bool) -> dict[int, CondensationConfig]:
    """dpc -> setting. Raises UserError unless all are of one dataset and encoder, and of different dpc."""
    overrides = ["dpc=1", "steps=10"] if quick else []
    configs = [load_config(path, overrides) for path in (paths[:1] if quick else paths)]
    for path, config in zip(paths, configs, strict=False):
        if task_key(config) != task_key(configs[0]):
            raise UserError(f"{path}: must have the dataset and encoder of {paths[0]}")
    found = {config.dpc: config for config in configs}
    if len(found) < len(configs):
        raise UserError("--settings: each file must have another dpc")
    return dict(sorted(found.items()))


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, printed; returns what `--json` writes."""
    configs = read_settings(options.settings, options.quick)
    seeds = [FIRST_SEED + i for i in range(options.seeds)]
    tuning_seeds = [FIRST_TUNING_SEED + i for i in range(1 if options.quick else TUNING_SEEDS)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store = Store()
    say("reading data and encoder")
    tasks = {dpc: load_task(config, store, device) for dpc, config in list(configs.items())[-1:]}
    task = next(iter(tasks.values()))  # of the largest dpc: checks that every class has as many items
    validation = Comparison(task, store, 10 if options.quick else CONVNET_STEPS, held_out="validation")
    runs: dict[int, dict[str, Run]] = {}
    tuned: dict[int, dict[str, dict[float, float]]] = {}
    for dpc, config in configs.items():
        chosen = {}
        tuned[dpc] = {}
        # The published scaling is of mean losses, ours of sums over items: the same grid, in its units.
        per_item = [rate * task.dataset.num_classes * dpc for rate in MMD_LEARNING_RATES]
        for name, make, rates in (("mmd", mmd, MMD_LEARNING_RATES), ("avdd", avdd, per_item)):
            chosen[name], tuned[dpc][name] = tune(validation, config, make, rates, tuning_seeds)
            say(f"{dpc} per class: {name} tuned, learning rate {chosen[name].learning_rate:g}")
        chosen |= {"paper_default": PAPER_DEFAULT, "ours": config.hyperparameters}
        runs[dpc] = {name: condense(task, config, setting, seeds) for name, setting in chosen.items()}
        shown = ", ".join(f"{name} {100 * fmean(run.accuracy):.1f} %" for name, run in runs[dpc].items())
        say(f"{dpc} per class, validation: {shown}")

    comparison = Comparison(task, store)  # opens test: nothing is chosen after this line
    convnet_seeds = [] if options.quick or options.no_convnet else range(options.seeds)
    results, against_mmd = {}, {}
    for dpc, of_method in runs.items():
        sets = {name: run.sets for name, run in of_method.items()}
        results[dpc] = compare(
            comparison, sets, dpc, convnet_seeds, draws=options.seeds, protocols=("probe", "convnet")
        )
        hits = {name: item_hits(comparison, sets[name]) for name in ("ours", "mmd")}
        against_mmd[dpc] = over_items(hits["ours"], hits["mmd"])
        say(f"{dpc} per class: evaluated on test")
    found = headlines(results, runs)
    items = f"{len(comparison.test.labels)} test items"
    print(f"Test accuracy in %, mean ± std over {options.seeds} seeds ({items}; {task.dataset.name}).\n")
    for protocol in PROTOCOLS:
        if results[dpc]["ours"][protocol].values:
            print(results_table(results, protocol, against_mmd if protocol == "probe" else {}) + "\n")
    print(headlines_table(found))
    return {
        **provenance(),
        "dataset": task.dataset.name,
        "seeds": seeds,
        "settings": {f"dpc_{dpc}": config.model_dump(mode="json") for dpc, config in configs.items()},
        "full_validation_accuracy": probe_accuracy(task.condense, task.validation, task.dataset.num_classes),
        "tuned": {
            f"dpc_{dpc}": {
                name: [{"learning_rate": r, "accuracy": a} for r, a in of.items()] for name, of in by.items()
            }
            for dpc, by in tuned.items()
        },
        "runs": {
            f"dpc_{dpc}": {
                name: {
                    "hyperparameters": run.hyperparameters.model_dump(mode="json"),
                    "validation": Sample(tuple(run.accuracy)).as_json(),
                    "curve": [{k: v if math.isfinite(v) else None for k, v in p.items()} for p in run.curve],
                }
                for name, run in of_method.items()
            }
            for dpc, of_method in runs.items()
        },
        "results": {f"dpc_{dpc}": as_json(of_method) for dpc, of_method in results.items()},
        "against_mmd_over_test_items": {f"dpc_{dpc}": of for dpc, of in against_mmd.items()},
        "headlines": found,
        "seconds": time.monotonic() - STARTED,
    }


def parser_of(description: str | None, seeds: int = 5) -> argparse.ArgumentParser:
    """What benchmarks on our settings take; the first line of `description` is told."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument(
        "--settings", type=Path, nargs="+", default=SETTINGS, metavar="YAML", help="our setting per budget (its `dpc`)"
    )
    parser.add_argument("--seeds", type=int, default=seeds, help="condensations of each method")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--quick", action="store_true", help="a smoke run: 1 per class, 10 steps, no ConvNet")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--no-convnet", action="store_true", help="linear probes only")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds = 2
    if options.seeds < 1 or options.threads < 1:
        parser.error("--seeds and --threads must be at least 1")
    return run(benchmark, options)


STARTED = time.monotonic()
if __name__ == "__main__":
    sys.exit(main())
