"""Whether settings that are good on features are good on inputs: condensing features takes no tower in a step.

python benchmarks/fidelity.py --json fidelity.json               three tasks; an hour on two cores, nearly all of it emoji
python benchmarks/fidelity.py --tasks hapt spoken_digits         minutes

The same random settings of lambda_cross, lambda_joint, sigma and the learning rate are condensed as features and as inputs, and
judged on validation by accuracy and by retrieval. Told are Spearman's correlation of the mean scores, over settings; and what is
lost on inputs by the best setting on features, by the best one on inputs that other seeds choose, and by the project's default:
all against the best mean on the seeds that compare. Intervals: bootstrap over settings. Interrupted, the same command goes on.

emoji, AV-MNIST and parity have pretrained towers. Tasks of the suite without such ones get small ones, trained with the heads.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helps import finite
from provenance import provenance, run
from scipy.stats import spearmanr
from suite import ROOT, Cell, condensed, kept, read_spaces
from suite_lambda import DRAWN, FIRST_SEED, JUDGES, drawn_settings
from suite_scores import row
from telling import STARTED, say, told

from condense.config.models import TaskConfig, validate
from condense.config.published import recommended
from condense.data import modalities_of
from condense.embeddings.task import Task, load_task
from condense.evaluation.replica_scores import validate_items
from condense.storage.store import Store

FIDELITIES = ("features", "inputs")
RESAMPLES = 2000
LOST = {
    "features": "the best on features",
    "inputs": "the best on inputs, other seeds",
    "default": "our default",
    "median": "the median setting",
}


def scores_of(cell: Cell, task: Task, settings: Sequence[Any], seeds: Sequence[int]) -> dict[str, Any]:
    """{judge: (settings, seeds)}, and the seconds of one condensation."""
    started = time.perf_counter()
    replicas = condensed(cell, task, [(h, seed) for h in settings for seed in seeds])
    seconds = (time.perf_counter() - started) / len(replicas)
    found: dict[str, Any] = {"seconds": seconds}
    for judge in JUDGES:
        for replica in replicas:
            replica.metric = judge
        scores = [0.0 if one.score != one.score else one.score for one in validate_items(replicas)]
        found[judge] = np.reshape(scores, (len(settings), len(seeds))).tolist()
    return found


def with_towers(task: dict[str, Any]) -> dict[str, Any]:
    """A task whose encoder has heads, before which there are features."""
    if task["encoder"]["name"] == "aligned":
        return task
    modalities = modalities_of(validate(TaskConfig, task, "the task").dataset)
    return {**task, "encoder": {"name": "aligned", "towers": {m: {"kind": "tiny"} for m in modalities}}}


def compared(features: np.ndarray, inputs: np.ndarray) -> dict[str, Any]:
    """Both (settings, seeds), the last setting the project's default: what the features say of the inputs."""
    drawn, default = slice(0, -1), -1
    of_features, of_inputs = features[drawn].mean(1), inputs[drawn].mean(1)
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(of_inputs), (RESAMPLES, len(of_inputs)))
    values = [spearmanr(of_features[p], of_inputs[p]).statistic for p in picks if len(set(p)) > 1]
    chosen, compared_on = inputs[drawn, ::2].mean(1), inputs[:, 1::2].mean(1)
    best = compared_on[drawn].max()
    return {
        "correlation": float(spearmanr(of_features, of_inputs).statistic),
        "ci95": np.nanquantile(values, [0.025, 0.975]).tolist(),
        "best": float(best),
        "lost": {
            "features": float(best - compared_on[int(of_features.argmax())]),
            "inputs": float(best - compared_on[int(chosen.argmax())]),
            "default": float(best - compared_on[default]),
            "median": float(best - np.median(compared_on[drawn])),
        },
    }


def table(figures: dict[str, Any]) -> str:
    lines = [
        row(["task, judge", "rank correlation", "best on inputs, %", *(f"lost by {x}" for x in LOST.values())]),
        row(["---", *["---:"] * (2 + len(LOST))]),
    ]
    for name, own in figures["tasks"].items():
        for judge in JUDGES:
            of, (low, high) = own[judge], own[judge]["ci95"]
            lost = [f"{100 * of['lost'][key]:.1f}" for key in LOST]
            lines.append(row([f"{name}, {judge}", f"{of['correlation']:.2f} [{low:.2f}, {high:.2f}]",
                              f"{100 * of['best']:.1f}", *lost]))  # fmt: skip
    lines += [
        f"\n{name}: {own['seconds']['features']:.2f} s for a condensation of features, {own['seconds']['inputs']:.1f} s of inputs"
        for name, own in figures["tasks"].items()
    ]
    return "\n".join(lines)


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    store, device = Store(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = [*drawn_settings(options.settings), recommended()]
    seeds = range(FIRST_SEED + 100, FIRST_SEED + 100 + options.seeds)
    figures: dict[str, Any] = {**provenance(), "drawn": DRAWN, "settings": options.settings, "tasks": {}}
    for name, space in read_spaces(options).items():
        found: dict[str, Any] = {}
        for fidelity in FIDELITIES:
            own = {**space, "steps": options.steps}
            own["tasks"] = [{**with_towers(space["tasks"][0]), "synthesize": fidelity}]
            cell = Cell(f"{name}, {fidelity}", own, options.dpc, options.output / name)
            with told(f"{cell.name}: data, encoder and embeddings"):
                task = load_task(cell.config, store, device)
            with told(f"{cell.name}: {len(settings)} settings x {len(seeds)} seeds"):
                make = functools.partial(scores_of, cell, task, settings, seeds)
                what = f"{fidelity}_{options.dpc}_{options.steps}_{options.settings}_{options.seeds}"
                found[fidelity] = kept(cell.folder / f"{what}.json", make)
        figures["tasks"][name] = {
            judge: compared(*(np.asarray(found[fidelity][judge]) for fidelity in FIDELITIES)) for judge in JUDGES
        }
        figures["tasks"][name]["seconds"] = {fidelity: found[fidelity]["seconds"] for fidelity in FIDELITIES}
    say("done")
    print(table(figures))
    figures["seconds"] = time.monotonic() - STARTED
    result: dict[str, Any] = finite(figures)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = ["emoji", "hapt", "spoken_digits", "av_mnist", "parity"]
    parser.add_argument("--tasks", nargs="+", choices=names, default=names[:3], metavar="NAME", help="which")
    parser.add_argument("--dpc", type=int, default=5, help="items per class (default 5)")
    parser.add_argument("--seeds", type=int, default=2, help="condensations per setting, even: half of them choose")
    parser.add_argument("--settings", type=int, default=24, help="random settings (default 24)")
    parser.add_argument("--steps", type=int, default=60, help="of each condensation (default 60)")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "fidelity", help="folder of what is kept")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.set_defaults(encoder="own")
    options = parser.parse_args()
    if min(options.dpc, options.settings, options.steps, options.threads) < 1 or options.seeds < 2 or options.seeds % 2:
        parser.error("--dpc, --settings, --steps and --threads must be at least 1, --seeds even and at least 2")
    return run(benchmark, options)


if __name__ == "__main__":
    sys.exit(main())
