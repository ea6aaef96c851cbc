"""What searches with one seed per trial choose, against the recommendation of a search with several: on the same fresh seeds.

python benchmarks/single_seed.py --against results/robust_digits --output results/single_seed --json single_seed.json

`robust.py` asks what each seed of one search would have chosen among trials that were proposed by all seeds together. Here
whoever uses one seed searches with it, too, with as many replicas as the other search had (`--trials` for another number).
Each setting then runs on the seeds on which the other search reported; and, on some of them, with all searched
hyperparameters moved at random, by the same moves for all.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from provenance import provenance, run

from condense.config.models import Hyperparameters
from condense.embeddings.task import load_task
from condense.engine.engine import Engine
from condense.evaluation.replica_scores import full_score, validate
from condense.method.condensation import Condensation
from condense.storage.store import Store
from search.analysis.robustness import surface_of
from search.analysis.scores import per_seed_means
from search.analysis.statistics import paired_difference
from search.confirmation.perturbation import REPORTING, run_around
from search.ledger.ledger import Ledger
from search.space.model import Space, fresh_seeds

ROOT = Path(__file__).resolve().parents[1]
RECOMMENDED = "recommended"
NO_CONFIRMATION = {"top_k": 1, "seeds": 2, "perturbations": 0, "reported_perturbations": 0, "tuned_rates": 0}


def search(space: Space, seed: int, trials: int, output: Path) -> dict[str, Any]:
    """{score, hyperparameters} of the best trial of a search with one seed per trial; goes on with one that was begun."""
    content = space.model_dump(mode="json") | {"seeds": 1, "seed": seed, "trials": trials, "racing": None}
    content["confirmation"] |= NO_CONFIRMATION
    file = output.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    command = [sys.executable, str(ROOT / "search" / "run.py"), "--space", str(file), "--output", str(output)]
    begun = (output / "search.json").exists()
    subprocess.run([*command, "--resume"] if begun else command, check=True, stdout=sys.stderr)
    with (output / "trials.csv").open(encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["status"] == "completed" and row["name"] != "paper_default"]
    best = max(rows, key=lambda row: float(row["score"]))
    params = {name: yaml.safe_load(best[name]) for name in space.search}
    return {"score": float(best["score"]), "hyperparameters": space.hyperparameters(params).model_dump(mode="json")}


class Evaluation:
    """Runs settings with all tasks of a space in one engine, without Ray; `search.confirmation.perturbation.Evaluate`."""

    def __init__(self, space: Space) -> None:
        device, store = torch.device("cuda" if torch.cuda.is_available() else "cpu"), Store()
        self.steps, self.configs = space.steps, space.tasks
        self.tasks = [load_task(config, store, device) for config in space.tasks]
        self.full = [full_score(task, of.metric) for task, of in zip(self.tasks, space.tasks, strict=True)]

    def __call__(
        self, settings: Mapping[str, dict[str, Any]], seeds: Sequence[int], stage: str = ""
    ) -> dict[str, list[float]]:
        """label -> shares of full-data validation accuracy, task-major."""
        return {label: self._shares(Hyperparameters.model_validate(own), seeds) for label, own in settings.items()}

    def _shares(self, h: Hyperparameters, seeds: Sequence[int]) -> list[float]:
        found: list[float] = []
        for task, of, full in zip(self.tasks, self.configs, self.full, strict=True):
            replicas = [Condensation(task, of.dpc, of.initialization, h, seed, self.steps) for seed in seeds]
            Engine().run(replicas, self.steps)
            found += [score / full for score in validate(replicas)]
        return found


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Prints a table; returns what `--json` writes."""
    against: Path = options.against
    space = Space.model_validate(json.loads((against / "search.json").read_text())["space"])
    surface = surface_of(space, Ledger(against).trials())
    recommended = yaml.safe_load((against / "best.yaml").read_text())["hyperparameters"]
    trials = options.trials or space.trials * space.seeds
    options.output.mkdir(parents=True, exist_ok=True)
    # Seeds of a search are of its own block: none of these is one of the other search's.
    chosen = [
        search(space, space.seed + 1 + i, trials, options.output.absolute() / f"search_{i}")
        for i in range(options.searches)
    ]
    settings = {RECOMMENDED: recommended, **{str(i): each["hyperparameters"] for i, each in enumerate(chosen)}}
    seeds, evaluate = fresh_seeds(space)[1], Evaluation(space)
    values = {label: per_seed_means(own, len(space.tasks)) for label, own in evaluate(settings, seeds).items()}
    moved: dict[str, list[float]] = {label: [] for label in settings}
    if surface is not None:
        around = run_around(space, settings, evaluate, seeds, options.moves, REPORTING)
        moved = {label: own.values for label, own in around.items()}
    told = {str(i): each["score"] for i, each in enumerate(chosen)}
    for of in (values, moved):
        of["mean"] = [fmean(each) for each in zip(*(of[label] for label in told), strict=True)]
    told["mean"] = fmean(told.values())
    print(
        f"recommended: {_told(values[RECOMMENDED])} over {len(seeds)} fresh seeds; moved {_told(moved[RECOMMENDED])}\n"
    )
    print(f"| search of {trials} trials with one seed | there | fresh seeds | recommended is ahead by | moved | by |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    differences: list[dict[str, Any]] = []
    when_moved: list[dict[str, Any]] = []
    for label, score in told.items():
        cells = [f"{100 * score:.2f}"]
        for of, kept in ((values, differences), (moved, when_moved)):
            cells.append(_told(of[label]))
            if len(of[label]) > 1:
                apart = paired_difference(of[RECOMMENDED], of[label])
                kept.append(apart.as_json())
                cells.append(f"{100 * apart.mean:.2f} [{100 * apart.low:.2f}, {100 * apart.high:.2f}]")
            else:
                cells.append("")
        print(f"| {label} | " + " | ".join(cells) + " |")
    own = {"hyperparameters": recommended, "values": values[RECOMMENDED], "moved": moved[RECOMMENDED]}
    found = [{**each, "values": values[str(i)], "moved": moved[str(i)]} for i, each in enumerate(chosen)]
    return {
        **provenance(),
        "trials": trials,
        "seeds": seeds,
        "recommended": own,
        "searches": found,
        "differences": differences,  # per search, and of their mean
        "differences_moved": when_moved,
    }


def _told(values: Sequence[float]) -> str:
    """Their mean, in per cent."""
    return f"{100 * fmean(values):.2f}" if values else ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, required=True, metavar="FOLDER", help="a search that has ended")
    parser.add_argument("--output", type=Path, default=Path("results/single_seed"), help="folder of the searches")
    parser.add_argument("--searches", type=int, default=4, help="searches with one seed, each with another")
    parser.add_argument("--trials", type=int, metavar="N", help="trials of each; by default as many replicas as there")
    parser.add_argument("--moves", type=int, default=16, help="runs around each setting")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return run(benchmark, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
