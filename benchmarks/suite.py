"""The suite of real tasks: every method on every task, on test, and what the search recommends there.

python benchmarks/suite.py --output results/suite --quick                 10 minutes on two cores: 5 per class, short searches
python benchmarks/suite.py --output results/suite --json suite.json       everything; hours, it says how far it is

Each task is a space in spaces/. Its data is made by `python -m condense data NAME --to data/NAME`. Per task and number of items
per class: coresets (random, herding, k-center, k-means medoids); MMD and AVDD-style matching with learning rates tuned here on
validation by the task's own metric; the paper's default; this project's default; and what a search of the space recommends. All
start from the same items, take the same number of steps, and are condensed with seeds that no choice has seen.

Every stage is kept under --output, so that the same command goes on after an interruption. A task's test split is opened when
all that is chosen or condensed for the task is there.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from provenance import provenance, run
from safetensors.torch import load_file, save_file
from suite_scores import METHODS, measure, table
from telling import STARTED, say, told
from torch import Tensor

from condense.config.files import make_paths_absolute
from condense.config.models import CondensationConfig, Hyperparameters, TaskConfig, read_yaml, validate
from condense.config.published import MMD_LEARNING_RATES, avdd, mmd, paper_default, recommended
from condense.data.dataset import MemorySplit
from condense.embeddings.task import Task, load_task
from condense.engine.engine import Engine
from condense.evaluation.comparison import Comparison, chosen_items
from condense.evaluation.network_protocol import PRESETS
from condense.evaluation.replica_scores import validate as validation_scores
from condense.method.condensation import Condensation
from condense.storage.store import Store, replacing
from condense.system.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
TASKS = {  # name -> space
    "emoji": "emoji",
    "emoji_retrieval": "emoji_retrieval",
    "av_mnist": "av_mnist",
    "parity": "parity",
    "hapt": "hapt",
    "spoken_digits": "quickstart",
}
CORESETS = {"random": "random", "herding": "herding", "k_center": "k_center", "medoids": "k_means"}
FIRST_SEED, FIRST_TUNING_SEED = 5_000_000_000, 5_500_000_000  # a search's seeds are below 1,000,010,000
TUNING_SEEDS = 3
PACK = 24  # condensations in one pass


@dataclass(frozen=True)
class Cell:
    """One task at one number of items per class."""

    name: str
    space: dict[str, Any]  # as in its YAML, with absolute paths
    dpc: int
    folder: Path  # of what is kept

    @property
    def config(self) -> TaskConfig:
        content = {**self.space["tasks"][0], "dpc": self.dpc}
        return validate(TaskConfig, content, f"the space of {self.name}")

    @property
    def steps(self) -> int:
        return int(self.space["steps"])


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The JSON in `path`, made and written there if it is missing."""
    if not path.exists():
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def condensed(cell: Cell, task: Task, wanted: Sequence[tuple[Hyperparameters, int]]) -> list[Condensation]:
    """Each (setting, seed), condensed; some at a time in one engine."""
    found: list[Condensation] = []
    for first in range(0, len(wanted), PACK):
        pack = [
            Condensation(task, cell.dpc, cell.config.initialization, h, seed, cell.steps)
            for h, seed in wanted[first : first + PACK]
        ]
        for replica in pack:
            replica.metric = cell.config.metric
        Engine().run(pack, cell.steps)
        found += pack
    return found


def tune(cell: Cell, task: Task, make: Callable[[float], Hyperparameters], rates: Sequence[float]) -> dict[str, Any]:
    """`make`'s learning rate that is best on validation. A grid whose best rate is its last one is extended there."""
    found: dict[float, float] = {}
    missing = list(rates)
    while missing:
        seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + TUNING_SEEDS)
        replicas = condensed(cell, task, [(make(rate), seed) for rate in missing for seed in seeds])
        scores = [0.0 if score != score else score for score in validation_scores(replicas)]
        for i, rate in enumerate(missing):
            found[rate] = fmean(scores[i * TUNING_SEEDS : (i + 1) * TUNING_SEEDS])
        best = max(found, key=lambda rate: found[rate])
        low, high, missing = min(found), max(found), []
        if 1e-4 < best < 1e6:
            missing = [best / 3, best / 10] if best == low else [best * 3, best * 10] if best == high else []
    return {"learning_rate": best, "grid": {f"{rate:g}": found[rate] for rate in sorted(found)}}


def search(cell: Cell, trials: int | None, seed: int | None = None) -> dict[str, Any]:
    """Runs the search of the cell's space in its own process; returns what it recommends, and its report's figures.

    `seed`: in place of the space's; such searches are kept beside each other.
    """
    which = "" if seed is None else f"_{seed}"
    folder, path = cell.folder / f"search{which}", cell.folder / f"space{which}.yaml"
    content = {**cell.space, "tasks": [{**cell.space["tasks"][0], "dpc": cell.dpc}], "name": f"{cell.name}_{cell.dpc}"}
    if seed is not None:
        content |= {"seed": seed, "name": f"{content['name']}_seed_{seed}"}
    if trials is not None:
        content["trials"] = trials
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    command = [sys.executable, str(ROOT / "search" / "run.py"), "--space", str(path), "--output", str(folder)]
    log = cell.folder / f"search{which}.log"
    with log.open("a", encoding="utf-8") as output:
        resume = ["--resume"] if folder.exists() else []
        status = subprocess.run([*command, *resume], stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if status != 0:
        raise UserError(f"{cell.name}, {cell.dpc} per class: the search ended with status {status}: see {log}")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    best = validate(CondensationConfig, read_yaml(folder / "best.yaml"), str(folder / "best.yaml"))
    keys = ("recommended", "confirmation", "robust_region", "importance", "test", "cost", "trials", "verdict")
    return {
        "hyperparameters": best.hyperparameters.model_dump(mode="json"),
        "report": {key: report[key] for key in keys if key in report},
    }


def choose(cell: Cell, task: Task, trials: int | None) -> dict[str, dict[str, Any]]:
    """method -> its setting, and how it was chosen: by validation alone."""
    at = f"{cell.name}, {cell.dpc} per class"
    with told(f"{at}: tuning MMD's learning rate"):
        of_mmd = kept(cell.folder / "mmd.json", lambda: tune(cell, task, mmd, MMD_LEARNING_RATES))
    per_item = [rate * task.dataset.num_classes * cell.dpc for rate in MMD_LEARNING_RATES]
    with told(f"{at}: tuning AVDD's learning rate"):
        of_avdd = kept(cell.folder / "avdd.json", lambda: tune(cell, task, avdd, per_item))
    with told(f"{at}: the search"):
        own = kept(cell.folder / "recommended.json", lambda: search(cell, trials))
    settings = {
        "mmd": mmd(of_mmd["learning_rate"]),
        "avdd": avdd(of_avdd["learning_rate"]),
        "paper_default": paper_default(),
        "default": recommended(),
        "recommended": validate(Hyperparameters, own["hyperparameters"], "recommended.json"),
    }
    found = {name: {"hyperparameters": h.model_dump(mode="json")} for name, h in settings.items()}
    found["mmd"] |= of_mmd
    found["avdd"] |= of_avdd
    found["recommended"] |= {"search": own["report"]}
    return found


def sets_of(
    cell: Cell, task: Task, choices: Mapping[str, Mapping[str, Any]], seeds: int
) -> dict[str, list[MemorySplit]]:
    """method -> a set per seed, or one where seeds change nothing; condensed ones are kept."""
    path = cell.folder / f"sets_{seeds}.safetensors"
    names = list(choices)
    if not path.exists():
        wanted = [
            (validate(Hyperparameters, choices[name]["hyperparameters"], name), FIRST_SEED + seed)
            for name in names
            for seed in range(seeds)
        ]
        with told(f"{cell.name}, {cell.dpc} per class: {len(wanted)} condensations"):
            tensors: dict[str, Tensor] = {}
            for k, r in enumerate(condensed(cell, task, wanted)):
                of_set = f"{names[k // seeds]}/{k % seeds}"
                tensors |= {f"{of_set}/{m}": x.detach().cpu().contiguous() for m, x in r.formed().items()}
                tensors[f"{of_set}/label"] = r.formed_labels.cpu().contiguous()
        with replacing(path) as temporary:
            save_file(tensors, temporary)
    tensors = load_file(path)

    def loaded(name: str) -> MemorySplit:
        own = {key.removeprefix(f"{name}/"): x for key, x in tensors.items() if key.startswith(f"{name}/")}
        return MemorySplit({m: own[m] for m in task.modalities}, own["label"])

    found = {
        method: [chosen_items(task, chosen, cell.dpc, seed) for seed in range(seeds if method == "random" else 1)]
        for method, chosen in CORESETS.items()
    }
    return found | {name: [loaded(f"{name}/{seed}") for seed in range(seeds)] for name in names}


def read_spaces(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Task -> its space. Raises UserError if the data of one is missing, before any work begins."""
    found: dict[str, dict[str, Any]] = {}
    for name in options.tasks:
        path = ROOT / "spaces" / f"{TASKS[name]}.yaml"
        space = read_yaml(path)
        for task in space["tasks"]:
            make_paths_absolute(task, path.parent)
            if options.encoder == "tiny" and task["encoder"]["name"] != "tiny":
                task["encoder"] = {"name": "tiny", "image_channels": 3 if name.startswith("emoji") else 1}
                task["synthesize"] = "inputs"  # small towers have no heads
            data = task["dataset"].get("path")
            if data is not None and not Path(data).exists():
                raise UserError(f"{name}: {data} is missing: the top of {path} says how to make it")
        found[name] = space
    return found


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    store, device = Store(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spaces = read_spaces(options)
    figures: dict[str, Any] = {
        **provenance(),
        "encoder": options.encoder,
        "seeds": options.seeds,
        "convnet": PRESETS[options.convnet].label,
        "tasks": {},
        "details": {},
    }
    for number, (name, space) in enumerate(spaces.items(), 1):
        cells = [Cell(name, space, dpc, options.output / name / f"dpc_{dpc}") for dpc in options.dpc]
        say(f"task {number} of {len(spaces)}: {name}")
        with told(f"{name}: data, encoder and embeddings"):
            largest = max(cells, key=lambda cell: cell.dpc)
            task = load_task(largest.config, store, device)
        choices = {cell.dpc: choose(cell, task, options.trials) for cell in cells}
        sets = {cell.dpc: sets_of(cell, task, choices[cell.dpc], options.seeds) for cell in cells}
        comparison = Comparison(task, store, protocol=PRESETS[options.convnet])  # opens test
        figures["tasks"][name], figures["details"][name] = {}, {}
        for cell in cells:
            with told(f"{name}, {cell.dpc} per class: measuring on test"):
                path = cell.folder / f"test_2_{options.seeds}_{options.convnet_seeds}_{options.convnet}.json"
                make = functools.partial(measure, comparison, sets[cell.dpc], options.convnet_seeds)
                found = kept(path, make)
            figures["tasks"][name][str(cell.dpc)] = found["methods"]
            figures["details"][name][str(cell.dpc)] = {**found, "settings": choices[cell.dpc]}
        if options.json is not None:  # an interrupted run has what is done
            options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        print(table(name, figures["details"][name]), flush=True)
    figures["seconds"] = time.monotonic() - STARTED
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS), metavar="NAME", help="which")
    parser.add_argument("--dpc", type=int, nargs="+", help="items per class (default 1 5 10; --quick: 5)")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "suite", help="folder of what is kept")
    parser.add_argument("--seeds", type=int, help="condensations of each method (default 5; --quick: 3)")
    parser.add_argument("--convnet-seeds", type=int, help="ConvNets of each method (default 5; --quick: 0)")
    parser.add_argument("--convnet", choices=tuple(PRESETS), default="fast", help="how they are trained")
    parser.add_argument("--trials", type=int, help="of each search (default: the space's; --quick: 16)")
    parser.add_argument(
        "--encoder", choices=("own", "tiny"), default="own", help="each space's own, or small towers (default own)"
    )
    parser.add_argument("--quick", action="store_true", help="what fits into ten minutes on two cores")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    quick = {"dpc": [5], "seeds": 3, "convnet_seeds": 0, "trials": 16}
    full = {"dpc": [1, 5, 10], "seeds": 5, "convnet_seeds": 5}
    for key, value in (quick if options.quick else full).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    if min(*options.dpc, options.seeds, options.threads, options.trials or 1) < 1 or options.convnet_seeds < 0:
        parser.error("--dpc, --seeds, --trials and --threads must be at least 1, --convnet-seeds at least 0")
    return run(benchmark, options)


if __name__ == "__main__":
    assert set(METHODS) >= set(CORESETS)
    sys.exit(main())
