"""What soft labels add: ConvNets on real and condensed items with hard labels and with a teacher's, on validation.

python benchmarks/soft_labels.py --dpc 1 5 10 20 --json soft_labels.json     25 minutes on two slow cores; --protocol probe: one

Items: random, herding, and the recommended setting's condensation, of the embedded dataset through `tiny`. Every row is trained
with hard labels and with those of each teacher, at the temperature that `condense/evaluation/soft_labels.py` chooses for random
items. No test data is opened.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

import torch
from judge import condensed
from provenance import provenance, run

from condense.config.models import CondensationConfig
from condense.config.published import RECOMMENDED
from condense.data.dataset import MemorySplit
from condense.embeddings.task import Task, load_task
from condense.evaluation.comparison import PROTOCOLS, Comparison, Sample, chosen_items
from condense.evaluation.dd_ranking import rank
from condense.evaluation.soft_labels import KINDS, Teacher, load_teacher, with_best_temperature
from condense.storage.store import Store

FIRST_SEED = 3_000_000_000  # of the condensations: a search's seeds are below 1,000,010,000


def sets_of(task: Task, config: CondensationConfig, seeds: int, condensations: int) -> dict[str, list[MemorySplit]]:
    """Method -> its sets; ConvNets take them in turn."""
    first = range(FIRST_SEED, FIRST_SEED + condensations)
    return {
        "random": [chosen_items(task, "random", config.dpc, seed) for seed in range(seeds)],
        "herding": [chosen_items(task, "herding", config.dpc, 0)],
        "condensed": condensed(task, config, [RECOMMENDED], first)[0],
    }


def scores(
    comparison: Comparison,
    protocol: str,
    trainings: list[tuple[MemorySplit, int]],
    teacher: Teacher | None,
    taught: bool,
) -> Sample:
    """By a protocol, with soft or hard labels. Probes and retrieval depend on their items only, not on seeds."""
    if protocol == "retrieval":
        return Sample(tuple(comparison.retrieval(comparison.embed(items), taught) or 0.0 for items, _ in trainings))
    labels = [None if teacher is None else teacher.labels(items) for items, _ in trainings]
    if protocol == "probe":
        pairs = zip(trainings, labels, strict=True)
        return Sample(tuple(comparison.probe(comparison.embed(items), soft) for (items, _), soft in pairs))
    return Sample(tuple(comparison.convnet(trainings, labels)))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Prints a table per number of items; returns {`rows`, `temperatures`, `ranking`, `full_data`, ...}."""
    store, device = Store(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    protocol, seeds = options.protocol, range(options.seeds)
    figures: dict[str, Any] = {**provenance(), "seeds": options.seeds, "protocol": protocol}
    figures |= {"rows": [], "temperatures": [], "ranking": []}
    print(f"{protocol} on validation, %, {options.seeds} seeds (mean ± std)")
    for dpc in options.dpc:
        config = CondensationConfig(dpc=dpc)
        task = load_task(config, store, device)
        comparison = Comparison(task, store, held_out="validation")
        sets = sets_of(task, config, options.seeds, options.condensations)
        columns: dict[str, Teacher | None] = {"hard": None}
        for kind in () if protocol == "retrieval" else options.teacher:
            teacher = with_best_temperature(load_teacher(task, kind, store), task, store, dpc)
            columns[f"soft, {kind}, {teacher.temperature:g}"] = teacher
            figures["temperatures"].append({"dpc": dpc, **teacher.describe()})
        if protocol == "retrieval":
            columns["soft similarities"] = None
        print(f"\n{dpc:>2} per class " + " ".join(f"{column:>18}" for column in columns))
        for name, members in sets.items():
            trainings = [(members[seed % len(members)], seed) for seed in seeds]
            cells = {c: scores(comparison, protocol, trainings, by, c != "hard") for c, by in columns.items()}
            figures["rows"].append({"dpc": dpc, "method": name, **{c: cell.as_json() for c, cell in cells.items()}})
            print(f"{name:<12} " + " ".join(f"{shown(cell):>18}" for cell in cells.values()), flush=True)
        for name, (column, by) in itertools.product(
            ("herding", "condensed") if options.ranking else (), columns.items()
        ):
            soft = None if by is None else by.labels
            found = rank(comparison, sets[name], sets["random"], seeds, soft)
            row = {"dpc": dpc, "method": name, "labels": column}
            figures["ranking"].append({**row, **{k: v.as_json() for k, v in found.items()}})
            print(f"{name}, {column}: " + ", ".join(f"{k.upper()} {shown(v)}" for k, v in found.items()), flush=True)
    if protocol == "convnet":
        full = Sample(tuple(comparison.full_convnet(seeds)))
    else:
        full = Sample(
            (comparison.probe(task.condense) if protocol == "probe" else comparison.retrieval(task.condense) or 0.0,)
        )
    figures["full_data"] = full.as_json()
    print(f"\nfull data, hard labels: {shown(full)}")
    return figures


def shown(sample: Sample) -> str:
    return f"{100 * sample.mean:.1f} ± {100 * sample.std:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="ConvNets per cell (default 5)")
    parser.add_argument("--condensations", type=int, default=2, help="seeds of the condensation (default 2)")
    parser.add_argument("--dpc", type=int, nargs="+", default=[1, 5, 10, 20], help="items per class")
    parser.add_argument("--teacher", nargs="+", choices=KINDS, default=list(KINDS), help="teachers")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="convnet", help="what is trained on the items")
    parser.add_argument(
        "--ranking", action="store_true", help="also DD-Ranking's scores, by five more ConvNets per seed"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return run(measure, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
