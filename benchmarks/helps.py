"""What each help brings: formation, views (augmentation), a bank and soft labels, for every method, at equal storage.

python benchmarks/helps.py --json helps.json                  on validation; `--held-out test` is for the final table only
python benchmarks/helps.py --config task.yaml --dpc 1 5       another dataset, through tiny encoders
python benchmarks/helps.py --protocol dc --dpc 1 --helps none "formation + views + bank"      some cells only

Methods: real items (random, herding, k-means), MMD with its learning rate tuned on validation, and ours with one setting for all
cells. `dpc` items per class are stored in each cell. With `formation` a stored item holds several smaller ones, of which coresets
take more, too. Views and banks change how items are condensed, so they do not apply to coresets: under these helps a coreset has
its value without them. The bank: the encoder itself, one more that is pretrained alike, and two random ones. Soft labels, by
ConvNets trained on the full data, come last, on top of formation and views.

MMD's rates are chosen by a probe and ConvNets of `fast`, whatever `--protocol` is.

Judges: ConvNets from scratch, a linear probe on the encoder that items are matched in, and one on an encoder that no method saw.

Condensation seed and ConvNet seed go together: the ConvNet of seed i is trained on set i modulo the number of sets, in every
cell. Differences are paired over these seeds. The test split, if asked for, is opened after all that is chosen or condensed.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from helps_tables import CORESETS, HELPS, JUDGES, METHODS, VIEWS, Cell, Chosen, Help, report, shown, source
from provenance import provenance, run
from telling import STARTED, say, told
from torch import Tensor

from condense.config.files import load_config
from condense.config.models import CondensationConfig, Hyperparameters, TinyEncoder
from condense.data.dataset import MemorySplit
from condense.embeddings.task import Task, load_task
from condense.engine.engine import Engine
from condense.evaluation.comparison import Comparison, is_finite
from condense.evaluation.network_protocol import PRESETS, network_protocol
from condense.evaluation.soft_labels import Teacher, load_teacher, with_best_temperature
from condense.inputs.formation import formed, items_in_each
from condense.method.condensation import Condensation, initial_inputs
from condense.storage.store import Store
from condense.system.errors import UserError

OURS = Hyperparameters()
MMD_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # in the units of `scaling: gradient`
STEPS, CONDENSATIONS, START = 100, 2, "herding"
FIRST_SEED = 3_000_000_000  # of the condensations: a search's seeds are below 1,000,010,000
TUNING_SEED = 500_000  # of the ConvNets that tune MMD: other ones than those of the tables
OUTSIDE = 9  # seed of the encoder that no method sees


def bank(encoder: TinyEncoder) -> list[TinyEncoder]:
    """The encoder itself, one more that is pretrained alike, and two random ones."""
    others = [("contrastive", 1), ("none", 2), ("none", 3)]
    return [encoder, *(encoder.model_copy(update={"pretraining": how, "seed": seed}) for how, seed in others)]


@dataclass(frozen=True)
class Tasks:
    """One dataset: through its encoder, through a bank, and through an encoder that only judges."""

    plain: Task
    bank: Task
    outside: Task

    def of(self, h: Help) -> Task:
        return self.bank if h.bank else self.plain


def load_tasks(config: CondensationConfig, store: Store, device: torch.device) -> Tasks:
    if not isinstance(config.encoder, TinyEncoder):
        raise UserError(f"encoder: must be tiny, of which the bank is made, but is {config.encoder.name}")
    outside = config.encoder.model_copy(update={"seed": OUTSIDE})
    tasks = [
        load_task(config.model_copy(update=change), store, device)
        for change in ({}, {"encoders": bank(config.encoder)}, {"encoder": outside})
    ]
    return Tasks(*tasks)


def mmd(learning_rate: float) -> Hyperparameters:
    """MMD in the scaling of ours, so that the same rates suit all numbers of items and formations."""
    return Hyperparameters(discrepancy="mmd", lambda_cross=0.0, lambda_joint=0.0, learning_rate=learning_rate)


@dataclass
class Budget:
    """All that is trained on at one `dpc`, chosen and condensed without a look at what it is measured on."""

    dpc: int
    sets: dict[Cell, list[MemorySplit]] = field(default_factory=dict)
    tuning: dict[str, dict[float, float]] = field(default_factory=dict)  # help -> MMD's rate -> validation accuracy
    teacher: Teacher | None = None


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


def make(tasks: Tasks, store: Store, dpc: int, chosen: Chosen, options: argparse.Namespace) -> Budget:
    """Chooses MMD's rates and the teacher's temperature on validation, and makes every set that a chosen cell needs."""
    budget, task = Budget(dpc), tasks.plain
    stored = [h for h in HELPS if h.stored]
    for method in CORESETS:
        for h in (h for h in stored if (method, h.name) in chosen.sources):
            draws = range(options.seeds if method == "random" else 1)
            budget.sets[method, h.name] = [coreset(task, method, dpc, draw, h.formation) for draw in draws]
    short = options.steps if options.protocol == "fast" else None
    validation = Comparison(task, store, short, "validation", PRESETS["fast"])
    rates: dict[int, float] = {}  # formation -> MMD's rate, also with views and a bank
    formations = {h.formation for h in chosen.helps if "mmd" in chosen.methods}
    for h in (h for h in stored if h.formation in formations):
        with told(f"{dpc} per class: tuning MMD, help: {h.name}"):
            sets = condensed(task, dpc, [(h.changes(mmd(rate)), FIRST_SEED) for rate in MMD_RATES])
            nets = validation.convnet([(items, TUNING_SEED) for items in sets])
            values = [(probe_of(validation, items) + net) / 2 for items, net in zip(sets, nets, strict=True)]
        budget.tuning[h.name] = dict(zip(MMD_RATES, values, strict=True))
        best = max(range(len(values)), key=lambda i: -1.0 if math.isnan(values[i]) else values[i])
        rates[h.formation] = MMD_RATES[best]
        budget.sets["mmd", h.name] = [sets[best]]  # MMD without views draws nothing: further seeds would be equal
    for h in (h for h in HELPS if not h.soft):
        missing = [m for m in ("mmd", "ours") if (m, h.name) in chosen.sources and (m, h.name) not in budget.sets]
        jobs = {m: OURS if m == "ours" else mmd(rates[h.formation]) for m in missing}
        if not jobs:
            continue
        wanted = [(h.changes(setting), FIRST_SEED + i) for setting in jobs.values() for i in range(CONDENSATIONS)]
        with told(f"{dpc} per class: {len(wanted)} condensations, help: {h.name}"):
            made = condensed(tasks.of(h), dpc, wanted)
        for i, method in enumerate(jobs):
            budget.sets[method, h.name] = made[i * CONDENSATIONS : (i + 1) * CONDENSATIONS]
    if any(h.soft for h in chosen.helps):
        with told(f"{dpc} per class: the teacher"):
            budget.teacher = with_best_temperature(load_teacher(task, "convnet", store), task, store, dpc)
    return budget


def probe_of(comparison: Comparison, items: MemorySplit, targets: Tensor | None = None) -> float:
    return comparison.probe(comparison.embed(items), targets) if is_finite(items) else math.nan


def measure(
    judge: Comparison, outside: Comparison, budget: Budget, chosen: Chosen, seeds: int
) -> dict[str, dict[Cell, list[float]]]:
    """Per judge and cell: a value per seed of a ConvNet, or per set. Coresets' views and banks repeat what is without."""
    found: dict[str, dict[Cell, list[float]]] = {name: {} for name in JUDGES}
    trained: list[Cell] = []
    trainings: list[tuple[MemorySplit, int]] = []
    targets: list[Tensor | None] = []
    own = {(m, h.name): (m, source(m, h).name) for m in chosen.methods for h in chosen.helps if h.soft}
    for cell, origin in {**{cell: cell for cell in sorted(chosen.sources)}, **own}.items():
        sets, teacher = budget.sets[origin], budget.teacher if cell in own else None
        soft = [None if teacher is None or not is_finite(items) else teacher.labels(items) for items in sets]
        for name, comparison in (("probe", judge), ("outside", outside)):
            found[name][cell] = [probe_of(comparison, items, y) for items, y in zip(sets, soft, strict=True)]
        trained.append(cell)
        trainings += [(sets[seed % len(sets)], seed) for seed in range(seeds)]
        targets += [soft[seed % len(sets)] for seed in range(seeds)]
    values: list[float] = []
    for i, cell in enumerate(trained):
        here = slice(i * seeds, (i + 1) * seeds)
        with told(f"{budget.dpc} per class: ConvNets of {cell[0]}, help: {cell[1]} ({i + 1} of {len(trained)})"):
            values += judge.convnet(trainings[here], targets[here])
        found["convnet"][cell] = values[here]
    for of in found.values():
        for method in chosen.methods:
            for h in chosen.helps:
                of.setdefault((method, h.name), of[method, source(method, h).name])
    return found


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    store, device = Store(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = CondensationConfig() if options.config is None else load_config(options.config)
    tasks = load_tasks(config.model_copy(update={"dpc": max(options.dpc)}), store, device)
    protocol = network_protocol(options.protocol, steps=options.steps)
    chosen = Chosen.named(options.methods, options.helps)
    with told(f"{VIEWS} views"):
        for task in (tasks.plain, *tasks.bank.bank):
            task.views.first(VIEWS)
    budgets: Iterable[Budget] = (make(tasks, store, dpc, chosen, options) for dpc in options.dpc)
    if options.held_out == "test":
        budgets = list(budgets)  # test is opened below: nothing is chosen after that
    print(
        f"{tasks.plain.dataset.name}. {protocol.label}, and linear probes, on {options.held_out}, in %. ConvNet: mean ± half of "
        f"its 95 % interval over {options.seeds} runs (Student's t), each with its own network seed, and random with items of "
        f"its own; MMD and ours take {CONDENSATIONS} condensation seeds in turn. It covers networks' start, batches and "
        "augmentation and what seeds of sets change; not the choice of held-out items, nor dataset and encoder. Probe: mean "
        "(lowest–highest set)."
    )
    figures: dict[str, Any] = {**provenance(), "dataset": tasks.plain.dataset.name, "held_out": options.held_out}
    figures |= {"protocol": protocol.label, "seeds": options.seeds, "ours": OURS.model_dump(mode="json"), "budgets": {}}
    for budget in budgets:
        judge, outside = (
            Comparison(task, store, options.steps, options.held_out, PRESETS[options.protocol])
            for task in (tasks.plain, tasks.outside)
        )
        tuned = {n: {f"{rate:g}": v for rate, v in of.items()} for n, of in budget.tuning.items()}
        found = report(budget.dpc, measure(judge, outside, budget, chosen, options.seeds), chosen)
        figures["budgets"][str(budget.dpc)] = {**found, "mmd": tuned}
        best = "; ".join(f"{n}: {max(of, key=lambda r: of[r]):g}" for n, of in budget.tuning.items())
        say(f"{budget.dpc} per class: done" + (f". MMD's rates: {best}" if best else ""))
        if budget.teacher is not None:
            figures["budgets"][str(budget.dpc)]["teacher"] = budget.teacher.describe()
            say(f"{budget.dpc} per class: the teacher's temperature {budget.teacher.temperature}")
        if options.json is not None:  # an interrupted run keeps what is done
            options.json.write_text(json.dumps(finite(figures), indent=1), encoding="utf-8")
    if options.protocol == "fast" and options.steps is None:  # 1,000 epochs of `dc` would take hours
        with told("ConvNets on the full data"):
            full = judge.full_convnet(range(options.seeds))
        probe = judge.probe(tasks.plain.condense)
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
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="dataset and encoder (tiny); default: the embedded one"
    )
    parser.add_argument("--dpc", type=int, nargs="+", default=[1, 5, 10, 20], help="items stored per class")
    parser.add_argument("--seeds", type=int, default=5, help="ConvNets per cell (default 5)")
    parser.add_argument("--protocol", choices=tuple(PRESETS), default="fast", help="of the ConvNets")
    parser.add_argument("--steps", type=int, help="of a ConvNet's training, in place of the protocol's")
    names = [h.name for h in HELPS]
    parser.add_argument(
        "--helps", nargs="+", choices=names, default=names, metavar="HELP", help=f"of {', '.join(names)}"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD", help=f"of {', '.join(METHODS)}"
    )
    parser.add_argument("--held-out", choices=("validation", "test"), default="validation", help="what is measured on")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    if min(*options.dpc, options.seeds, options.threads, options.steps or 1) < 1:
        parser.error("--dpc, --seeds, --threads and --steps must be at least 1")
    return run(benchmark, options)


if __name__ == "__main__":
    sys.exit(main())
