"""What searches with one seed per trial choose, against the recommendation of a search with several: on the same fresh seeds.

python benchmarks/single_seed.py --against results/robust_digits --output results/single_seed --json single_seed.json

`robust.py` asks what each seed of one search would have chosen among trials that were proposed by all seeds together. Here
whoever uses one seed searches with it, too, with as many replicas as the other search had (`--trials` for another number).
Each setting then runs on the seeds on which the other search reported.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from provenance import provenance, run

from condense.condensation import Condensation
from condense.config import Hyperparameters
from condense.engine import Engine
from condense.store import Store
from condense.tasks import load_task
from condense.validation import full_score, validate
from search.intervals import paired_difference
from search.space import Space, fresh_seeds

ROOT = Path(__file__).resolve().parents[1]
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


def shares(space: Space, settings: Sequence[dict[str, Any]], seeds: Sequence[int]) -> list[list[float]]:
    """Of each setting per seed: the share of full-data validation accuracy, mean over tasks; all in one engine."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store, found = Store(), []
    for config in space.tasks:
        task = load_task(config, store, device)
        full = full_score(task, config.metric)
        of_task = []
        for setting in settings:
            h = Hyperparameters.model_validate(setting)
            replicas = [Condensation(task, config.dpc, config.initialization, h, seed, space.steps) for seed in seeds]
            Engine().run(replicas, space.steps)
            of_task.append([score / full for score in validate(replicas)])
        found.append(of_task)
    return [[fmean(of) for of in zip(*own, strict=True)] for own in zip(*found, strict=True)]


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Prints a table; returns what `--json` writes."""
    against: Path = options.against
    space = Space.model_validate(json.loads((against / "search.json").read_text())["space"])
    recommended = yaml.safe_load((against / "best.yaml").read_text())["hyperparameters"]
    trials = options.trials or space.trials * space.seeds
    options.output.mkdir(parents=True, exist_ok=True)
    # Seeds of a search are of its own block: none of these is one of the other search's.
    chosen = [
        search(space, space.seed + 1 + i, trials, options.output.absolute() / f"search_{i}")
        for i in range(options.searches)
    ]
    seeds = fresh_seeds(space)[1]
    own, *others = shares(space, [recommended, *(each["hyperparameters"] for each in chosen)], seeds)
    print(f"recommended: {100 * fmean(own):.2f} over {len(seeds)} fresh seeds\n")
    print(
        f"| search of {trials} trials with one seed | score in the search | on fresh seeds | recommended is ahead by |"
    )
    print("| --- | ---: | ---: | ---: |")
    differences = []
    mean = [fmean(of) for of in zip(*others, strict=True)]
    for i, values in enumerate([*others, mean]):
        apart = paired_difference(own, values)
        differences.append(apart.as_json())
        name, told = (f"{i}", chosen[i]["score"]) if i < len(chosen) else ("mean", fmean(c["score"] for c in chosen))
        low, high = 100 * apart.low, 100 * apart.high
        print(
            f"| {name} | {100 * told:.2f} | {100 * fmean(values):.2f} | {100 * apart.mean:.2f} [{low:.2f}, {high:.2f}] |"
        )
    return {
        **provenance(),
        "trials": trials,
        "seeds": seeds,
        "recommended": {"hyperparameters": recommended, "values": own},
        "searches": [{**each, "values": values} for each, values in zip(chosen, others, strict=True)],
        "differences": differences,  # per search, and of their mean
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, required=True, metavar="FOLDER", help="a search that has ended")
    parser.add_argument("--output", type=Path, default=Path("results/single_seed"), help="folder of the searches")
    parser.add_argument("--searches", type=int, default=4, help="searches with one seed, each with another")
    parser.add_argument("--trials", type=int, metavar="N", help="trials of each; by default as many replicas as there")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return run(benchmark, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
