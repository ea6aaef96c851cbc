"""What each help brings: formation, views (augmentation) and soft labels, for every method, at equal storage.

python benchmarks/helps.py --json helps.json     on validation; `--held-out test` is for the final table only

Methods: real items (random, herding, k-means), MMD with its learning rate tuned on validation, and ours with one setting for all
cells. `dpc` items per class are stored in each cell. With `formation` a stored item holds several smaller ones, of which coresets
take more, too. Views change how items are condensed, so they do not apply to coresets: under these helps a coreset has its
value without views. Soft labels, by ConvNets trained on the full data, come last, on top of the other two.

Condensation seed and ConvNet seed go together: the ConvNet of seed i is trained on set i modulo the number of sets, in every
cell. Differences are paired over these seeds. The test split, if asked for, is opened after all that is chosen or condensed.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import math
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from provenance import provenance, run
from scipy.stats import t as student
from torch import Tensor

from condense.config.models import CondensationConfig, Hyperparameters
from condense.data.dataset import MemorySplit
from condense.embeddings.task import Task, load_task
from condense.engine.engine import Engine
from condense.evaluation.comparison import Comparison, is_finite
from condense.evaluation.network_protocol import PRESETS, network_protocol
from condense.evaluation.soft_labels import Teacher, load_teacher, with_best_temperature
from condense.inputs.formation import formed, items_in_each
from condense.method.condensation import Condensation, initial_inputs
from condense.storage.store import Store

OURS = Hyperparameters()
MMD_RATES = (0.03, 0.1, 0.3, 1.0, 3.0)  # in the units of `scaling: gradient`
FORMATION, VIEWS = 2, 8
STEPS, CONDENSATIONS, START = 100, 2, "herding"
FIRST_SEED = 3_000_000_000  # of the condensations: a search's seeds are below 1,000,010,000
TUNING_SEED = 500_000  # of the ConvNets that tune MMD: other ones than those of the tables
CORESETS = ("random", "herding", "k_means")
BASELINES = (*CORESETS, "mmd")


def mmd(learning_rate: float) -> Hyperparameters:
    """MMD in the scaling of ours, so that the same rates suit all numbers of items and formations."""
    return Hyperparameters(discrepancy="mmd", lambda_cross=0.0, lambda_joint=0.0, learning_rate=learning_rate)


METHODS = (*BASELINES, "ours")


@dataclass(frozen=True)
class Help:
    """What a method may use besides its objective."""

    name: str
    formation: int = 1
    views: int = 0
    soft: bool = False

    def changes(self, h: Hyperparameters) -> Hyperparameters:
        return h.model_copy(update={"formation": self.formation, "views": self.views})

    def of_coresets(self) -> Help:
        """The same without views."""
        return next(h for h in HELPS if (h.formation, h.views, h.soft) == (self.formation, 0, False))


HELPS = (
    Help("none"),
    Help("views", views=VIEWS),
    Help("formation", FORMATION),
    Help("formation + views", FORMATION, VIEWS),
    Help("formation + views + soft labels", FORMATION, VIEWS, True),
)
# What a help adds: name -> the cell with it, the cell without it.
ADDED = {
    "views": (1, 0),
    "formation": (2, 0),
    "views, with formation": (3, 2),
    "soft labels, with both": (4, 3),
}
Cell = tuple[str, str]  # method, name of a help


@dataclass
class Budget:
    """All that is trained on at one `dpc`, chosen and condensed without a look at what it is measured on."""

    dpc: int
    sets: dict[Cell, list[MemorySplit]] = field(default_factory=dict)
    tuning: dict[str, dict[float, float]] = field(default_factory=dict)  # help -> MMD's rate -> validation accuracy
    teacher: Teacher | None = None


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:5.0f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def told(text: str, every: float = 25.0) -> Iterator[None]:
    """Says what goes on at its beginning, and again every so many seconds."""
    done = threading.Event()

    def remind() -> None:
        while not done.wait(every):
            say(f"{text} ...")

    say(text)
    thread = threading.Thread(target=remind, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def coreset(task: Task, method: str, dpc: int, seed: int, formation: int) -> MemorySplit:
    specs = task.dataset.specs
    stored = initial_inputs(task, dpc, method, torch.Generator().manual_seed(seed), formation)
    labels = torch.arange(task.dataset.num_classes).repeat_interleave(dpc * items_in_each(specs, formation))
    return MemorySplit(formed(specs, stored, formation), labels)


def condensed(task: Task, dpc: int, wanted: Sequence[tuple[Hyperparameters, int]]) -> list[MemorySplit]:
    """The formed items of each (setting, seed), on the CPU; all in one engine."""
    replicas = [Condensation(task, dpc, START, h, seed, STEPS) for h, seed in wanted]
    Engine().run(replicas, STEPS)
    return [
        MemorySplit({m: x.detach().to("cpu", copy=True) for m, x in r.formed().items()}, r.formed_labels.cpu())
        for r in replicas
    ]


def make(task: Task, store: Store, dpc: int, seeds: int, options: argparse.Namespace) -> Budget:
    """Chooses MMD's rates and the teacher's temperature on validation, and makes every set."""
    budget = Budget(dpc)
    for method in CORESETS:
        for h in HELPS:
            if h == h.of_coresets():
                draws = range(seeds if method == "random" else 1)
                budget.sets[method, h.name] = [coreset(task, method, dpc, draw, h.formation) for draw in draws]
    validation = Comparison(task, store, options.steps, "validation", PRESETS[options.protocol])
    rates: dict[int, float] = {}  # formation -> MMD's rate, also with views
    for h in (h for h in HELPS if h == h.of_coresets()):
        with told(f"{dpc} per class: tuning MMD, help: {h.name}"):
            sets = condensed(task, dpc, [(h.changes(mmd(rate)), FIRST_SEED) for rate in MMD_RATES])
            nets = validation.convnet([(items, TUNING_SEED) for items in sets])
            values = [(probe_of(validation, items) + net) / 2 for items, net in zip(sets, nets, strict=True)]
        budget.tuning[h.name] = dict(zip(MMD_RATES, values, strict=True))
        best = max(range(len(values)), key=lambda i: -1.0 if math.isnan(values[i]) else values[i])
        rates[h.formation] = MMD_RATES[best]
        budget.sets["mmd", h.name] = [sets[best]]  # MMD without views draws nothing: further seeds would be equal
    jobs: list[tuple[Cell, Hyperparameters]] = []
    for h in (h for h in HELPS if not h.soft):
        if h.views:
            jobs.append((("mmd", h.name), h.changes(mmd(rates[h.formation]))))
        jobs.append((("ours", h.name), h.changes(OURS)))
    wanted = [(setting, FIRST_SEED + i) for _, setting in jobs for i in range(CONDENSATIONS)]
    with told(f"{dpc} per class: {len(wanted)} condensations"):
        made = condensed(task, dpc, wanted)
    for i, (cell, _) in enumerate(jobs):
        budget.sets[cell] = made[i * CONDENSATIONS : (i + 1) * CONDENSATIONS]
    with told(f"{dpc} per class: the teacher"):
        budget.teacher = with_best_temperature(load_teacher(task, "convnet", store), task, store, dpc)
    return budget


def source(method: str, h: Help) -> Help:
    """The help under which a method's items for a cell were made."""
    bare = next(x for x in HELPS if (x.formation, x.views, x.soft) == (h.formation, h.views, False))
    return bare.of_coresets() if method in CORESETS else bare


def probe_of(comparison: Comparison, items: MemorySplit, targets: Tensor | None = None) -> float:
    return comparison.probe(comparison.embed(items), targets) if is_finite(items) else math.nan


def measure(comparison: Comparison, budget: Budget, seeds: int) -> dict[str, dict[Cell, list[float]]]:
    """`probe`: a value per set; `convnet`: a value per seed. Views of coresets repeat what they are without."""
    assert budget.teacher is not None
    probes: dict[Cell, list[float]] = {}
    nets: dict[Cell, list[float]] = {}
    trained: list[Cell] = []
    trainings: list[tuple[MemorySplit, int]] = []
    targets: list[Tensor | None] = []
    for method in METHODS:
        for h in HELPS:
            cell, origin = (method, h.name), source(method, h)
            if not h.soft and h != origin:
                continue
            sets = budget.sets[method, origin.name]
            soft = [budget.teacher.labels(items) if h.soft and is_finite(items) else None for items in sets]
            probes[cell] = [probe_of(comparison, items, y) for items, y in zip(sets, soft, strict=True)]
            trained.append(cell)
            trainings += [(sets[seed % len(sets)], seed) for seed in range(seeds)]
            targets += [soft[seed % len(sets)] for seed in range(seeds)]
    with told(f"{budget.dpc} per class: {len(trainings)} ConvNets"):
        values = comparison.convnet(trainings, targets)
    for i, cell in enumerate(trained):
        nets[cell] = values[i * seeds : (i + 1) * seeds]
    for of in (probes, nets):
        for method in CORESETS:
            for h in HELPS:
                of.setdefault((method, h.name), of[method, source(method, h).name])
    return {"probe": probes, "convnet": nets}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval (Student's t); the latter is NaN for a single value."""
    n = len(values)
    half = float(student.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n) if n > 1 else math.nan
    return fmean(values), half


def shown(values: Sequence[float], sign: bool = False) -> str:
    """Mean ± half of the interval, in points."""
    mean, half = interval(values)
    text = f"{100 * mean:+.1f}" if sign else f"{100 * mean:.1f}"
    return text if math.isnan(half) else f"{text} ± {100 * half:.1f}"


def spread(values: Sequence[float]) -> str:
    """A probe's cell: mean, and lowest to highest set, in %."""
    low, high = (f"{100 * value:.1f}" for value in (min(values), max(values)))
    return f"{100 * fmean(values):.1f}" + ("" if low == high else f" ({low}–{high})")


def minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def best_of(values: Mapping[Cell, Sequence[float]], methods: Iterable[str], help_name: str) -> str:
    """The method with the highest mean. It is chosen by what it is compared by, which favours it over ours."""
    means = {method: fmean(values[method, help_name]) for method in methods}
    return max(means, key=lambda method: -1.0 if math.isnan(means[method]) else means[method])


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([row(head), row(["---", *["---:"] * (len(head) - 1)]), *map(row, rows)])


def report(budget: Budget, found: Mapping[str, Mapping[Cell, list[float]]]) -> dict[str, Any]:
    """Prints a budget's tables; returns its figures."""
    nets, probes, names = found["convnet"], found["probe"], [h.name for h in HELPS]
    print(f"\n### {budget.dpc} stored per class\n")
    print(table(["ConvNet", *names], ([m, *(shown(nets[m, n]) for n in names)] for m in METHODS)) + "\n")
    print(table(["linear probe", *names], ([m, *(spread(probes[m, n]) for n in names)] for m in METHODS)) + "\n")
    leads: dict[str, Any] = {}
    rows = []
    for n in names:
        bare, same = best_of(nets, BASELINES, "none"), best_of(nets, BASELINES, n)
        core = best_of(nets, CORESETS, n)
        over = {"best without help": (bare, "none"), "best": (same, n), "best coreset": (core, n), "mmd": ("mmd", n)}
        apart = {k: (cell[0], minus(nets["ours", n], nets[cell])) for k, cell in over.items()}
        probe_over = {"best without help": best_of(probes, BASELINES, "none"), "best": best_of(probes, BASELINES, n)}
        of_probe = {
            k: (b, fmean(probes["ours", n]) - fmean(probes[b, "none" if k != "best" else n]))
            for k, b in probe_over.items()
        }
        told_nets = [f"{shown(d, True)} ({b})" for b, d in apart.values()]
        rows.append([n, *told_nets, *(f"{100 * d:+.1f} ({b})" for b, d in of_probe.values())])
        leads[n] = {
            "convnet": {
                k: {"over": b, "mean": interval(d)[0], "half_ci95": interval(d)[1]} for k, (b, d) in apart.items()
            },
            "probe": {k: {"over": b, "mean": d} for k, (b, d) in of_probe.items()},
        }
    head = ["ours minus", "best baseline without help", "best, same help", "best coreset, same help", "MMD, same help"]
    print(table([*head, "probe: best without help", "probe: best, same help"], rows) + "\n")
    added = {m: {name: minus(nets[m, names[i]], nets[m, names[j]]) for name, (i, j) in ADDED.items()} for m in METHODS}
    lines = ([m, *("" if m in CORESETS and k.startswith("views") else shown(d, True) for k, d in of.items())]
             for m, of in added.items())  # fmt: skip
    print(table(["a help adds, ConvNet", *ADDED], lines), flush=True)
    return {
        "tuning_of_mmd": {n: {f"{rate:g}": v for rate, v in of.items()} for n, of in budget.tuning.items()},
        "teacher": None if budget.teacher is None else budget.teacher.describe(),
        "cells": [
            {"method": m, "help": n, "convnet": nets[m, n], "probe": probes[m, n]} for m in METHODS for n in names
        ],
        "leads": leads,
    }


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    store, device = Store(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = load_task(CondensationConfig(dpc=max(options.dpc)), store, device)
    protocol = network_protocol(options.protocol, steps=options.steps)
    with told(f"{VIEWS} views"):
        task.views.first(VIEWS)
    budgets: Iterable[Budget] = (make(task, store, dpc, options.seeds, options) for dpc in options.dpc)
    if options.held_out == "test":
        budgets = list(budgets)  # test is opened below: nothing is chosen after that
    print(
        f"{protocol.label}, and linear probe, on {options.held_out}, in %. ConvNet: mean ± half of its 95 % interval over "
        f"{options.seeds} runs (Student's t), each with its own network seed, and random with items of its own; MMD and ours "
        f"take {CONDENSATIONS} condensation seeds in turn. It covers networks' start, batches and augmentation and what seeds "
        "of sets change; not the choice of held-out items, nor dataset and encoder. Probe: mean (lowest–highest set)."
    )
    figures: dict[str, Any] = {**provenance(), "held_out": options.held_out, "protocol": protocol.label}
    figures |= {"seeds": options.seeds, "ours": OURS.model_dump(mode="json"), "budgets": {}}
    for budget in budgets:
        comparison = Comparison(task, store, options.steps, options.held_out, PRESETS[options.protocol])
        found = measure(comparison, budget, options.seeds)
        figures["budgets"][str(budget.dpc)] = report(budget, found)
        tuned = "; ".join(f"{n}: {max(of, key=lambda r: of[r]):g}" for n, of in budget.tuning.items())
        say(
            f"{budget.dpc} per class: done. MMD's rates: {tuned}; temperature {getattr(budget.teacher, 'temperature', 0)}"
        )
    if options.protocol == "fast" and options.steps is None:  # 1,000 epochs of `dc` would take hours
        with told("ConvNets on the full data"):
            full = comparison.full_convnet(range(options.seeds))
        probe = comparison.probe(task.condense)
        figures["full_data"] = {"convnet": full, "probe": probe}
        print(f"\nFull data, hard labels: ConvNet {shown(full)}, probe {100 * probe:.1f}.")
    figures["seconds"] = time.monotonic() - STARTED
    return finite(figures)


def finite(value: Any) -> Any:
    """JSON-able: None for what is not finite."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dpc", type=int, nargs="+", default=[1, 5, 10, 20], help="items stored per class")
    parser.add_argument("--seeds", type=int, default=5, help="ConvNets per cell (default 5)")
    parser.add_argument("--protocol", choices=tuple(PRESETS), default="fast", help="of the ConvNets")
    parser.add_argument("--steps", type=int, help="of a ConvNet's training, in place of the protocol's")
    parser.add_argument("--held-out", choices=("validation", "test"), default="validation", help="what is measured on")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    if min(*options.dpc, options.seeds, options.threads, options.steps or 1) < 1:
        parser.error("--dpc, --seeds, --threads and --steps must be at least 1")
    return run(benchmark, options)


STARTED = time.monotonic()
if __name__ == "__main__":
    sys.exit(main())
