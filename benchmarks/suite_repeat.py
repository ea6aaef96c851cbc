"""What a search recommends, again and again: on each of the suite's tasks, searches with other seeds, judged on test.

python benchmarks/suite_repeat.py --output results/suite --json repeat.json      five searches of each of six tasks; about an hour

The recommended setting of every search, the paper's default and MMD (its learning rate tuned as in `suite.py`, of which finished
parts are used) are condensed with the same fresh seeds, and judged on test by the task's metric. Differences are paired by seed
and by item; their 95 % intervals are over seeds, and new items or groups (`search/analysis/paired.py`). Those of a task's mean
over its searches do not hold how searches differ, which the column beside them shows. Interrupted, the same command goes on; a
task's test split is opened when its searches have ended.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import functools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from provenance import provenance, run
from suite import FIRST_SEED, ROOT, TASKS, Cell, condensed, kept, read_spaces, search, tune
from suite_scores import points, row
from telling import STARTED, say, told

from condense.config.models import Hyperparameters, validate
from condense.config.published import MMD_LEARNING_RATES, mmd, paper_default
from condense.embeddings.task import Task, load_task, load_test
from condense.evaluation.replica_scores import Judged, held_out_items
from condense.storage.store import Store
from search.analysis.paired import Items, Outcome, difference

RIVALS = {"paper_default": "the paper's default", "mmd": "MMD, rate tuned"}


def outcome(runs: Sequence[Judged]) -> Outcome:
    """Of one setting over seeds; a set that is not finite gets nothing right."""
    count = next((len(one.values) for one in runs if one.values is not None), 0)
    values = [np.zeros(count) if one.values is None else one.values.double().numpy() for one in runs]
    return Outcome([0.0 if one.score != one.score else one.score for one in runs], [np.stack(values)])


def mean_outcome(of: Sequence[Outcome]) -> Outcome:
    """Of several settings, as if they were one."""
    scores = np.mean([own.scores for own in of], axis=0).tolist()
    hits = [own.hits for own in of if own.hits is not None]
    return Outcome(scores, [np.mean(of_task, axis=0) for of_task in zip(*hits, strict=True)])


def together(of: Sequence[Outcome]) -> Outcome:
    """Of a task each, as one of all tasks."""
    return Outcome(
        [value for own in of for value in own.scores], [hits for own in of if own.hits is not None for hits in own.hits]
    )


def judged(
    cell: Cell, task: Task, store: Store, settings: dict[str, Hyperparameters], seeds: int
) -> tuple[dict[str, Outcome], Items]:
    """label -> a setting's runs on test, equal settings once; and what the items are."""
    unique = {h.model_dump_json(): h for h in settings.values()}
    wanted = [(h, FIRST_SEED + seed) for h in unique.values() for seed in range(seeds)]
    with told(f"{cell.name}: {len(wanted)} condensations"):
        replicas = condensed(cell, task, wanted)
    test = load_test(task, store)
    found = held_out_items(replicas, [test] * len(replicas))
    runs = {key: outcome(found[i * seeds : (i + 1) * seeds]) for i, key in enumerate(unique)}
    groups = task.dataset.open_test().groups
    items = Items(len(test.labels), 1.0, None if groups is None else groups.cpu().numpy(), task.dataset.fingerprint)
    return {label: runs[h.model_dump_json()] for label, h in settings.items()}, items


def figures_of(searches: Sequence[Outcome], rivals: dict[str, Outcome], items: Sequence[Items]) -> dict[str, Any]:
    """Of each rival: the mean recommendation's difference to it, and every search's. A recommendation that is the rival itself,
    `searches` then have its very outcome, differs by 0 on any data."""
    mean = mean_outcome(searches)

    def compared(one: Outcome, other: Outcome, same: bool) -> dict[str, Any]:
        if same:
            return {"mean": 0.0, "ci95": [0.0, 0.0], "n": len(other.scores), "same_setting": True}
        return difference(one, other, items).as_json()

    return {
        "recommended": fmean(mean.scores),
        **{
            name: {
                "score": fmean(own.scores),
                "difference": compared(mean, own, all(one is own for one in searches)),
                "searches": [compared(one, own, one is own) for one in searches],
            }
            for name, own in rivals.items()
        },
    }


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    store, device = Store(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spaces = read_spaces(options)
    figures: dict[str, Any] = {**provenance(), "repetitions": options.repetitions, "seeds": options.seeds, "tasks": {}}
    means: list[Outcome] = []
    rivals: dict[str, list[Outcome]] = {name: [] for name in RIVALS}
    all_items: list[Items] = []
    for number, (name, space) in enumerate(spaces.items(), 1):
        cell = Cell(name, space, options.dpc, options.output / name / f"dpc_{options.dpc}")
        say(f"task {number} of {len(spaces)}: {name}")
        found = []
        for seed in range(1, options.repetitions + 1):
            with told(f"{name}: search {seed} of {options.repetitions}"):
                own = functools.partial(search, cell, options.trials, seed)
                found.append(kept(cell.folder / f"recommended_{seed}.json", own))
        with told(f"{name}: data, encoder and embeddings"):
            task = load_task(cell.config, store, device)
        with told(f"{name}: tuning MMD's learning rate"):
            rate = kept(cell.folder / "mmd.json", lambda c=cell, t=task: tune(c, t, mmd, MMD_LEARNING_RATES))  # type: ignore[misc]
        settings = {"paper_default": paper_default(), "mmd": mmd(rate["learning_rate"])}
        for seed, own in enumerate(found, 1):
            settings[f"search {seed}"] = validate(Hyperparameters, own["hyperparameters"], f"recommended_{seed}.json")
        runs, items = judged(cell, task, store, settings, options.seeds)
        searches = [runs[f"search {seed}"] for seed in range(1, options.repetitions + 1)]
        of_rivals = {rival: runs[rival] for rival in RIVALS}
        verdicts = [own["report"]["verdict"]["published"] if kept_default(own) else "own" for own in found]
        figures["tasks"][name] = {
            "metric": cell.config.metric,
            "verdicts": verdicts,
            **figures_of(searches, of_rivals, [items]),
        }
        means.append(mean_outcome(searches))
        all_items.append(items)
        for rival, own_runs in of_rivals.items():
            rivals[rival].append(own_runs)
        figures["average"] = figures_of(
            [together(means)], {rival: together(of) for rival, of in rivals.items()}, all_items
        )
        if options.json is not None:  # an interrupted run has what is done
            options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(table(figures), flush=True)
    figures["seconds"] = time.monotonic() - STARTED
    return figures


def kept_default(found: dict[str, Any]) -> bool:
    return bool(found["report"]["verdict"]["keep_default"])


def table(figures: dict[str, Any]) -> str:
    """A row per task: what was recommended how often, and differences on test."""
    lines = [
        f"Test, in points; {figures['repetitions']} searches of each task, {figures['seeds']} seeds of each setting; in brackets "
        "the 95 % interval of the mean over searches, behind it the lowest and the highest search.\n",
        row(["task", "recommended", *(f"minus {title}" for title in RIVALS.values())]),
        row(["---", "---", *["---:"] * len(RIVALS)]),
    ]
    for name, of in figures["tasks"].items():
        which = ", ".join(f"{of['verdicts'].count(v)} x {v}" for v in dict.fromkeys(of["verdicts"]))
        lines.append(row([name, which, *(told_difference(of[rival]) for rival in RIVALS)]))
    lines.append(row(["mean", "", *(points(figures["average"][rival]["difference"], True) for rival in RIVALS)]))
    return "\n".join(lines)


def told_difference(found: dict[str, Any]) -> str:
    if found["difference"].get("same_setting"):
        return "the same setting"
    each = [100 * own["mean"] for own in found["searches"]]
    return f"{points(found['difference'], True)} ({min(each):+.1f} to {max(each):+.1f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS), metavar="NAME", help="which")
    parser.add_argument("--dpc", type=int, default=5, help="items per class (default 5)")
    parser.add_argument("--repetitions", type=int, default=5, help="searches of each task (default 5)")
    parser.add_argument("--seeds", type=int, default=10, help="condensations of each setting (default 10)")
    parser.add_argument("--trials", type=int, help="of each search (default: the space's)")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "suite", help="folder of what is kept")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    options.encoder = "own"
    if min(options.dpc, options.repetitions, options.seeds - 1, options.threads, options.trials or 1) < 1:
        parser.error("all numbers must be at least 1, --seeds at least 2")
    return run(benchmark, options)


if __name__ == "__main__":
    sys.exit(main())
