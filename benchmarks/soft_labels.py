"""What soft labels add: ConvNets on real and condensed items with hard labels and with a teacher's, on validation.

python benchmarks/soft_labels.py --dpc 10 --json soft_labels.json

Items: random, herding, and the recommended setting's condensation, of the embedded dataset through `tiny`. Every row is trained
with hard labels and with those of each teacher, at the temperature that `condense/evaluation/soft_labels.py` chooses for random
items. No test data is opened.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from judge import condensed
from provenance import provenance, run

from condense.config.models import CondensationConfig
from condense.config.published import RECOMMENDED
from condense.data.dataset import MemorySplit, Split
from condense.embeddings.task import Task, load_task
from condense.evaluation.comparison import SOFT, Comparison, Sample, chosen_items
from condense.evaluation.soft_labels import KINDS, load_teacher, with_best_temperature
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


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Prints a table; returns {`rows`, `temperatures`, `full_data`, ...}."""
    store, device = Store(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures: dict[str, Any] = {**provenance(), "seeds": options.seeds, "rows": [], "temperatures": []}
    print(f"ConvNet accuracy on validation, %, {options.seeds} seeds (mean ± std)")
    for dpc in options.dpc:
        config = CondensationConfig(dpc=dpc)
        task = load_task(config, store, device)
        comparison = Comparison(task, store, held_out="validation")
        sets = sets_of(task, config, options.seeds, options.condensations)
        teachers = {}
        for kind in options.teacher:
            teachers[kind] = with_best_temperature(load_teacher(task, kind, store), task, store, dpc)
            figures["temperatures"].append({"dpc": dpc, **teachers[kind].describe()})
        print(f"\n{dpc} per class; temperatures: " + ", ".join(f"{k} {t.temperature:g}" for k, t in teachers.items()))
        print(f"{'':<10} {'hard':>12} " + " ".join(f"{SOFT.strip() + ' ' + k:>15}" for k in teachers))
        for name, members in sets.items():
            trainings: list[tuple[Split, int]] = [(members[s % len(members)], s) for s in range(options.seeds)]
            cells = {"hard": Sample(tuple(comparison.convnet(trainings)))}
            for kind, teacher in teachers.items():
                labels = [teacher.labels(items) for items, _ in trainings]
                cells[kind] = Sample(tuple(comparison.convnet(trainings, labels)))
            figures["rows"].append({"dpc": dpc, "method": name, **{k: v.as_json() for k, v in cells.items()}})
            shown = [f"{100 * v.mean:.1f} ± {100 * v.std:.1f}" for v in cells.values()]
            print(f"{name:<10} {shown[0]:>12} " + " ".join(f"{cell:>15}" for cell in shown[1:]), flush=True)
    full = Sample(tuple(comparison.full_convnet(range(options.seeds))))
    figures["full_data"] = full.as_json()
    print(f"\nfull data, hard labels: {100 * full.mean:.1f} ± {100 * full.std:.1f}")
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="ConvNets per cell (default 5)")
    parser.add_argument("--condensations", type=int, default=2, help="seeds of the condensation (default 2)")
    parser.add_argument("--dpc", type=int, nargs="+", default=[1, 5, 10, 20], help="items per class")
    parser.add_argument("--teacher", nargs="+", choices=KINDS, default=list(KINDS), help="teachers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return run(measure, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
