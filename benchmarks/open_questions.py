"""The questions that the paper leaves open: a third modality, other unified spaces, larger data.

python benchmarks/open_questions.py --json open.json       needs data/{av_mnist,av_mnist_words,av_mnist_large,emoji} and towers/

- modalities: AV-MNIST's pairs with and without the digit's word as a text. Judged on the picture and the sound alone, since the
  word gives the class away.
- spaces: the same data through aligned towers (condensed as features), small towers trained on its pairs, and random ones.
- size: 3,000 pairs and 60,000. Seconds and memory of a process of its own, from an empty cache to the condensed sets.

Every setting is condensed with seeds that no choice has seen, and judged on test. MMD's learning rate is tuned on validation. The
datasets: `python -m condense data av_mnist --to data/av_mnist_words --words`, and `--to data/av_mnist_large --pairs 70000`.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from provenance import provenance, run
from suite import FIRST_SEED, ROOT, Cell, condensed, read_spaces, tune
from suite_scores import over_seeds
from telling import STARTED, say, told

from condense.config.published import MMD_LEARNING_RATES, mmd, paper_default, recommended
from condense.data.dataset import MemorySplit
from condense.embeddings.embeddings import Embedded, embed_split
from condense.embeddings.task import Task, load_task, load_test
from condense.evaluation.comparison import chosen_items
from condense.evaluation.replica_scores import probe_accuracy
from condense.evaluation.retrieval_metric import retrieval_scores
from condense.storage.store import Store
from condense.system.errors import UserError

QUESTIONS = ("modalities", "spaces", "size")
ENCODERS = {
    "aligned towers": None,
    "tiny": {"name": "tiny"},
    "random towers": {"name": "tiny", "pretraining": "none"},
}
TITLES = {"herding": "herding", "mmd": "MMD, rate tuned", "paper_default": "paper's default", "default": "our default"}


def only(embedded: Embedded, modalities: Sequence[str]) -> Embedded:
    """Of some modalities."""
    present = {m: mask for m, mask in embedded.present.items() if m in modalities}
    return dataclasses.replace(embedded, embeddings={m: embedded.embeddings[m] for m in modalities}, present=present)


def judged(cell: Cell, store: Store, seeds: int, modalities: Sequence[str] | None = None) -> dict[str, Any]:
    """method -> {probe, retrieval}, in %, over seeds on test; and the milliseconds of a step of one condensation.

    `modalities`: what is judged by; all of them by default."""
    with told(f"{cell.name}: data, encoder and embeddings"):
        task = load_task(cell.config, store, torch.device("cpu"))
    with told(f"{cell.name}: tuning MMD's learning rate"):
        rate = tune(cell, task, mmd, MMD_LEARNING_RATES)["learning_rate"]
    settings = {"mmd": mmd(rate), "paper_default": paper_default(), "default": recommended()}
    wanted = [(h, FIRST_SEED + seed) for h in settings.values() for seed in range(seeds)]
    with told(f"{cell.name}: {len(wanted)} condensations"):
        started = time.perf_counter()
        replicas = condensed(cell, task, wanted)
        step = (time.perf_counter() - started) / len(wanted) / cell.steps
    sets: dict[str, list[MemorySplit]] = {"herding": [chosen_items(task, "herding", cell.dpc, 0)]}
    for i, name in enumerate(settings):
        own = replicas[i * seeds : (i + 1) * seeds]
        sets[name] = [MemorySplit({m: x.detach() for m, x in r.formed().items()}, r.formed_labels) for r in own]
    test, by = load_test(task, store), tuple(modalities or task.modalities)
    embedded = {name: [embed_split(task.encoder, items, task.device) for items in of] for name, of in sets.items()}
    embedded["full_data"] = [task.condense]
    scores = {name: scores_of([only(one, by) for one in of], only(test, by), task) for name, of in embedded.items()}
    return {"learning_rate_mmd": rate, "step_ms": 1000 * step, "methods": scores}


def scores_of(sets: Sequence[Embedded], test: Embedded, task: Task) -> dict[str, Any]:
    classes = task.dataset.num_classes
    return {
        "probe": over_seeds([100 * probe_accuracy(one, test, classes) for one in sets]),
        "retrieval": over_seeds([100 * score for score in retrieval_scores(list(sets), test, classes)]),
    }


def cell_of(options: argparse.Namespace, name: str, title: str, **changes: Any) -> Cell:
    """A task of the suite. `changes`: of its space's first task, another encoder or other data."""
    space = read_spaces(argparse.Namespace(tasks=[name], encoder="own"))[name]
    task = {**space["tasks"][0], **changes}
    return Cell(f"{name}, {title}", {**space, "tasks": [task]}, options.dpc, Path())


def manifest(folder: str) -> dict[str, Any]:
    path = ROOT / "data" / folder / "manifest.csv"
    if not path.exists():
        raise UserError(f"{path} is missing: see `python benchmarks/open_questions.py --help`")
    return {"name": "manifest", "path": str(path)}


def of_modalities(options: argparse.Namespace) -> dict[str, Any]:
    """A space of two modalities, and one of three with the same pairs."""
    store = Store()
    two = cell_of(options, "av_mnist", "picture and sound")
    towers = {
        **two.space["tasks"][0]["encoder"]["towers"],
        "text": {"kind": "transformers", "model": str(ROOT / "towers" / "minilm"), "max_tokens": 16},
    }
    encoder = {**two.space["tasks"][0]["encoder"], "towers": towers}
    words = manifest("av_mnist_words")
    three = cell_of(options, "av_mnist", "picture, sound and word", dataset=words, encoder=encoder)
    by = ("vision", "audio")
    return {cell.name: judged(cell, store, options.seeds, by) for cell in (two, three)}


def of_spaces(options: argparse.Namespace) -> dict[str, Any]:
    """emoji and AV-MNIST, through each kind of encoder."""
    store, found = Store(), {}
    for name in ("emoji", "av_mnist"):
        for title, encoder in ENCODERS.items():
            changes: dict[str, Any] = {}
            if encoder is not None:
                channels = 3 if name == "emoji" else 1
                changes = {"encoder": {**encoder, "image_channels": channels}, "synthesize": "inputs"}
            cell = cell_of(options, name, title, **changes)
            found[cell.name] = judged(cell, store, options.seeds)
    return found


def of_size(options: argparse.Namespace) -> dict[str, Any]:
    """Each in a process of its own with an empty cache, since a process's peak of memory never falls."""
    found = {}
    for folder in ("av_mnist", "av_mnist_large"):
        manifest(folder)
        with tempfile.TemporaryDirectory() as temporary, told(f"{folder}, in a process of its own"):
            path = Path(temporary) / "size.json"
            chosen = ["--one-size", folder, "--json", str(path), "--dpc", str(options.dpc)]
            chosen += ["--seeds", str(options.seeds), "--threads", str(options.threads)]
            subprocess.run([sys.executable, __file__, *chosen], check=True)
            found[folder] = json.loads(path.read_text(encoding="utf-8"))
    return found


def one_size(options: argparse.Namespace) -> dict[str, Any]:
    tiny = {"encoder": {"name": "tiny"}, "synthesize": "inputs"}
    cell = cell_of(options, "av_mnist", "tiny", dataset=manifest(options.one_size), **tiny)
    with tempfile.TemporaryDirectory() as cache:
        store, started = Store(Path(cache)), time.perf_counter()
        with told("data, encoder and embeddings, from an empty cache"):
            task = load_task(cell.config, store, torch.device("cpu"))
        ready = time.perf_counter() - started
        own = judged(cell, store, options.seeds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"items": len(task.condense.labels), "seconds_to_first_step": ready, "peak_memory_gb": peak, **own}


def table(title: str, of: dict[str, Any]) -> str:
    names = list(TITLES)
    lines = [f"| {title} | full data | " + " | ".join(TITLES[name] for name in names) + " | ms per step |"]
    lines.append("| --- " + "| ---: " * (len(names) + 2) + "|")
    for key, own in of.items():
        for judge in ("probe", "retrieval"):
            cells = [_shown(own["methods"][name][judge]) for name in ("full_data", *names)]
            lines.append(f"| {key}, {judge} | " + " | ".join(cells) + f" | {own['step_ms']:.1f} |")
    return "\n".join(lines)


def _shown(value: dict[str, Any]) -> str:
    interval = value["ci95"]
    return (
        f"{value['mean']:.1f}" if interval is None else f"{value['mean']:.1f} ± {(interval[1] - interval[0]) / 2:.1f}"
    )


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    if options.one_size is not None:
        return one_size(options)
    figures: dict[str, Any] = {**provenance(), "dpc": options.dpc, "seeds": options.seeds}
    ask = {"modalities": of_modalities, "spaces": of_spaces, "size": of_size}
    for question in options.questions:
        say(question)
        figures[question] = ask[question](options)
        print(table(f"{question}: test, %, {options.dpc} per class", figures[question]), flush=True)
        if question == "size":
            for name, own in figures[question].items():
                seconds, peak = own["seconds_to_first_step"], own["peak_memory_gb"]
                print(
                    f"{name}: {own['items']:,} items, first step after {seconds:.0f} s, peak {peak:.2f} GB", flush=True
                )
        if options.json is not None:  # an interrupted run has what is done
            options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    figures["seconds"] = time.monotonic() - STARTED
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", nargs="+", choices=QUESTIONS, default=list(QUESTIONS), metavar="NAME")
    parser.add_argument("--dpc", type=int, default=5, help="items per class")
    parser.add_argument("--seeds", type=int, default=3, help="condensations of each setting")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--one-size", metavar="FOLDER", help="only this dataset, in data/")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    if min(options.dpc, options.seeds, options.threads) < 1:
        parser.error("--dpc, --seeds and --threads must be at least 1")
    return run(benchmark, options)


if __name__ == "__main__":
    sys.exit(main())
