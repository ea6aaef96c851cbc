"""Do weights and learning rates mean the same for every encoder and dpc? `scaling: gradient` beside `normalized`.

python benchmarks/lambda_transfer.py --json lambda_transfer.json

- gradient_ratio: the pull of cross and joint over uni's in the loss of the first step, all weights 1, by D/dpc. Measured
  without the engine's own code, in float64; `gradient_ratio_normalized`, `gradient_ratio_relative`: the same there.
- transfer: one grid of settings is run on every task. For each pair of tasks, how much worse than the target's best the
  source's best setting is (regret, in points of validation accuracy), and how often it is within 1 point of it.

`--quick`: the ratios only. The test split stays shut.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import copy
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance, run
from safetensors.torch import save_file
from torch import Tensor

from condense.config.models import Hyperparameters, SpokenDigits, TaskConfig, TensorsDataset, TinyEncoder
from condense.embeddings.task import Task, load_task
from condense.engine.engine import Engine
from condense.evaluation.replica_scores import validate
from condense.method.condensation import Condensation
from condense.storage.store import Store

FIRST_SEED = 4_700_000_000  # used by no other benchmark
STEPS = 60
CROSS = (0.1, 1.0)
JOINT = (0.03, 0.3, 3.0)
RATES = {"gradient": (0.006, 0.03, 0.15, 0.8, 4.0, 20.0), "normalized": (0.03, 0.15, 0.8, 4.0, 20.0, 100.0)}
FREQUENCIES = {"frequency_scale": 0.5, "num_frequencies": 128, "frequency_pool": 512}  # of the grid; half the default
DPC = (1, 5, 20)
TASKS = (("digits", 64, DPC), ("digits", 1024, DPC), ("halves", 64, (1, 20)), ("halves", 1024, (1, 5)))
NARROW = {"width": 8}  # of the 1024-d towers of the grid: half the time of a step
GOOD = 0.01  # of the best score
RESAMPLES = 2000
TALK = 15.0  # seconds between progress lines


class Talk:
    """Progress lines, not too many."""

    def __init__(self) -> None:
        self.started = self.last = time.monotonic()

    def __call__(self, text: str, *, now: bool = False) -> None:
        if now or time.monotonic() - self.last > TALK:
            self.last = time.monotonic()
            print(f"[{self.last - self.started:4.0f} s] {text}", flush=True)


# The ratios -----------------------------------------------------------------------------------------------------------


def plain_terms(r: Condensation, syn: dict[str, Tensor]) -> list[Tensor]:
    """uni, cross, joint of unit embeddings `syn` in float64, class by class, from the formulas of the method's page."""
    task, chosen, beta = r.task, r.next_frequencies(), r.hyperparameters.beta
    uni, cross, joint = [], [], []
    for c in range(task.dataset.num_classes):
        real = {m: x[task.condense.labels == c].double() for m, x in task.condense.embeddings.items()}
        own = {m: x[r.labels == c] for m, x in syn.items()}
        for m, x in own.items():
            p, q = (torch.exp(1j * (of @ r.frequencies[m][chosen].double().T)).mean(0) for of in (real[m], x))
            uni.append((beta * (p - q).abs().square()).sqrt().mean())
        for a, b in itertools.combinations(syn, 2):
            x, y = real[a].mean(0) * own[b].mean(0), real[b].mean(0) * own[a].mean(0)
            cross.append(1 - x @ y / (x.norm() * y.norm()))
            joint.append((1 - (real[a] * real[b]) @ (own[a] * own[b]).T).mean())
    return [torch.stack(values).mean() for values in (uni, cross, joint)]


def pulls(r: Condensation) -> tuple[Tensor, Tensor]:
    """Of a replica that has not started: its terms, (3,), and the norms of their gradients along the sphere, (3,)."""
    with torch.no_grad():
        embedded = {m: r.task.encoder.embed(m, x).double() for m, x in r.inputs.items()}
    syn = {m: (x / x.norm(dim=1, keepdim=True)).requires_grad_() for m, x in embedded.items()}
    terms, norms = plain_terms(r, syn), []
    for term in terms:
        gradients = torch.autograd.grad(term, list(syn.values()), retain_graph=True)
        along = [g - (g * x).sum(1, keepdim=True) * x for g, x in zip(gradients, syn.values(), strict=True)]
        norms.append(torch.cat(along).norm())
    return torch.stack(terms).detach(), torch.stack(norms)


def ratios(task: Task, dpc: int, scaling: str, seed: int) -> tuple[float, float]:
    """Cross's and joint's pull over uni's, as the loss of the first step has them, all weights 1."""
    r = Condensation(
        task, dpc, "herding", Hyperparameters(scaling=scaling, lambda_cross=1.0, lambda_joint=1.0), seed, STEPS
    )
    terms, norms = pulls(r)
    losses = Engine().run([r], 1)[0][0].double()
    size = r.normalizer.double()
    if not torch.isclose(losses[3], (terms / size).sum(), rtol=1e-3):
        raise AssertionError(f"the loss {losses[3]} is not the sum of the terms {terms} over {size}")
    uni, cross, joint = (norms / size).tolist()
    return cross / uni, joint / uni


def all_ratios(digits: dict[int, Task], seeds: Sequence[int], talk: Talk) -> dict[str, Any]:
    """Per scaling {"cross": {"D/dpc": ratio}, "joint": ...}; of several seeds the ratio that is furthest from 1."""
    found: dict[str, Any] = {}
    for scaling in ("gradient", "normalized", "relative"):
        name = "gradient_ratio" if scaling == "gradient" else f"gradient_ratio_{scaling}"
        found[name] = {"cross": {}, "joint": {}}
        for (dim, task), dpc in itertools.product(digits.items(), DPC):
            each = [ratios(task, dpc, scaling, seed) for seed in seeds]
            for k, term in enumerate(("cross", "joint")):
                found[name][term][f"{dim}/{dpc}"] = max((pair[k] for pair in each), key=lambda v: abs(np.log(v)))
            talk(f"ratios: {scaling}, D {dim}, {dpc} per class")
    keys = list(found["gradient_ratio"]["cross"])
    print("\nPull over uni's, by D/dpc:\n\n| scaling | term |", " | ".join(keys), "|")
    print("| --- | --- |" + " ---: |" * len(keys))
    for name, of in found.items():
        for term, values in of.items():
            print(f"| {name.removeprefix('gradient_ratio_')} | {term} |", end=" ")
            print(" | ".join(f"{values[key]:.4g}" for key in keys), "|")
    print(flush=True)
    return found


# Transfer -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A task with a number of items per class."""

    data: str
    dim: int
    dpc: int
    task: Task

    @property
    def name(self) -> str:
        return f"{self.data} {self.dim}/{self.dpc}"


def write_halves(path: Path) -> None:
    """scikit-learn's handwritten digits: the left half is `vision`, the right one `depth`, 16 x 16 each."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = torch.from_numpy(digits.images[order]).float()[:, None] / 16
    labels = torch.from_numpy(digits.target[order]).long()
    content = {}
    for split, rows in {"train": slice(0, 1000), "validation": slice(1000, 1300), "test": slice(1300, None)}.items():
        for m, columns in {"vision": slice(0, 4), "depth": slice(4, 8)}.items():
            half = images[rows, :, :, columns].repeat_interleave(2, 2).repeat_interleave(4, 3)
            content[f"{split}/{m}"] = half.contiguous()
        content[f"{split}/label"] = labels[rows].contiguous()
    save_file(content, path)


def load(dataset: Any, dim: int, store: Store, **options: Any) -> Task:
    """Trained towers at 64 dimensions, random ones at 1024."""
    encoder = TinyEncoder(dim=dim, pretraining="contrastive" if dim == 64 else "none", **options)
    return load_task(TaskConfig(dataset=dataset, encoder=encoder, dpc=max(DPC)), store, torch.device("cpu"))


def problems(digits: Task, folder: Path, store: Store) -> list[Problem]:
    """`digits`: seen through the trained towers."""
    write_halves(folder / "halves.safetensors")
    halves = TensorsDataset(name="tensors", path=folder / "halves.safetensors")
    small = {"epochs": 60, "image_size": 16}
    tasks = {
        ("digits", 64): digits,
        ("digits", 1024): load(SpokenDigits(), 1024, store, **NARROW),
        ("halves", 64): load(halves, 64, store, **small),
        ("halves", 1024): load(halves, 1024, store, **small, **NARROW),
    }
    return [Problem(data, dim, dpc, tasks[data, dim]) for data, dim, of in TASKS for dpc in of]


def grid_of(scaling: str) -> list[Hyperparameters]:
    return [
        Hyperparameters(scaling=scaling, lambda_cross=cross, lambda_joint=joint, learning_rate=rate, **FREQUENCIES)
        for rate, joint, cross in itertools.product(RATES[scaling], JOINT, CROSS)
    ]


def replica_of(base: Condensation, h: Hyperparameters) -> Condensation:
    """`base`, which has not started, with other weights and another rate: its frequencies, which take longest, are shared."""
    r = copy.copy(base)
    r.hyperparameters, r.history, r.rate_unit = h, [], {}
    r.inputs = {m: x.clone() for m, x in base.inputs.items()}
    r.velocity = {m: x.clone() for m, x in base.velocity.items()}
    r.normalizer = base.normalizer.clone()
    r.generator = torch.Generator()
    r.generator.set_state(base.generator.get_state())
    return r


def scores_on(problem: Problem, grid: Sequence[Hyperparameters], seeds: Sequence[int], talk: Talk) -> list[float]:
    """Validation accuracy of every setting, mean over seeds; 0 for one that diverges."""
    replicas = []
    for seed in seeds:
        base = Condensation(problem.task, problem.dpc, "herding", grid[0], seed, STEPS)
        replicas += [replica_of(base, h) for h in grid]
    values: list[float] = []
    for first in range(0, len(replicas), 54):
        some, engine = replicas[first : first + 54], Engine()
        for done in range(0, STEPS, 2):
            engine.run(some, 2)
            talk(f"{problem.name}: step {done + 2} of {STEPS}, replicas {first + 1}-{first + len(some)}")
        values += validate(some)
    return np.nan_to_num(np.array(values).reshape(len(seeds), -1).mean(0)).tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Transfer:
    """From every task (row) to every task (column); the diagonal is 0 and True."""

    regret: np.ndarray  # (T, T), 0 .. 1
    good: np.ndarray  # (T, T) bool
    own_rate: np.ndarray  # (T, T): regret if only the source's weights are taken, with the target's best rate for them

    @staticmethod
    def of(scores: np.ndarray, grid: Sequence[Hyperparameters]) -> Transfer:
        """`scores`: (T, settings)."""
        best, chosen = scores.max(1), scores.argmax(1)
        regret = best[None, :] - scores[:, chosen].T  # (source, target)
        weights = np.array([(h.lambda_joint, h.lambda_cross) for h in grid])
        same = (weights[chosen][:, None] == weights[None]).all(2)  # (source, settings)
        own_rate = np.stack([best - scores[:, of].max(1) for of in same])
        return Transfer(regret, regret <= GOOD + 1e-9, own_rate)


def means_over_pairs(values: np.ndarray, tasks: np.ndarray, pairs: np.ndarray) -> float:
    """The mean of values[s, t] over the pairs of `tasks` (indices, perhaps repeated) that `pairs` (T, T) holds."""
    s, t = tasks[:, None], tasks[None, :]
    chosen = pairs[s, t]
    return float(values[s, t][chosen].mean()) if chosen.any() else float("nan")


def interval(values: np.ndarray, pairs: np.ndarray) -> dict[str, Any]:
    """Mean over pairs, and its 95 % interval by resampling the tasks: pairs that share a task are not independent."""
    count, rng = len(values), np.random.default_rng(0)
    drawn = [means_over_pairs(values, rng.integers(0, count, count), pairs) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(drawn, [0.025, 0.975]).tolist()
    return {"mean": means_over_pairs(values, np.arange(count), pairs), "low": low, "high": high}


def kinds_of_pairs(found: Sequence[Problem]) -> dict[str, np.ndarray]:
    """Name -> (T, T) bool: all pairs, and those that differ in one respect only."""

    def pairs(differ: Any) -> np.ndarray:
        return np.array([[s is not t and differ(s, t) for t in found] for s in found])

    return {
        "anything": pairs(lambda s, t: True),
        "encoder": pairs(lambda s, t: s.data == t.data and s.dim != t.dim and s.dpc == t.dpc),
        "dpc": pairs(lambda s, t: s.data == t.data and s.dim == t.dim and s.dpc != t.dpc),
        "dataset": pairs(lambda s, t: s.data != t.data and s.dim == t.dim and s.dpc == t.dpc),
    }


def transfer(found: Sequence[Problem], seeds: Sequence[int], talk: Talk) -> dict[str, Any]:
    """Runs both grids on every task, prints the tables, returns what the JSON holds."""
    grids = {scaling: grid_of(scaling) for scaling in RATES}
    scores: dict[str, np.ndarray] = {}
    rows = [scores_on(p, [h for grid in grids.values() for h in grid], seeds, talk) for p in found]
    table, first = np.array(rows), 0
    for scaling, grid in grids.items():
        scores[scaling] = table[:, first : first + len(grid)]
        first += len(grid)
    result: dict[str, Any] = {"tasks": [p.name for p in found], "steps": STEPS, "frequencies": FREQUENCIES}
    kinds = kinds_of_pairs(found)
    moved = {scaling: Transfer.of(values, grids[scaling]) for scaling, values in scores.items()}
    for scaling, grid in grids.items():
        keys = ("learning_rate", "lambda_joint", "lambda_cross")
        settings = [{key: getattr(h, key) for key in keys} for h in grid]
        of, values = moved[scaling], scores[scaling]
        print_best(scaling, found, settings, values)
        result[scaling] = {
            "settings": settings,
            "scores": values.tolist(),
            "best": [settings[i] for i in values.argmax(1)],
            "regret": {kind: interval(of.regret, pairs) for kind, pairs in kinds.items()},
            "regret_with_own_rate": {kind: interval(of.own_rate, pairs) for kind, pairs in kinds.items()},
            "in_good_range": {kind: interval(of.good.astype(float), pairs) for kind, pairs in kinds.items()},
            "pairs": [
                {
                    "source": found[s].name,
                    "target": found[t].name,
                    "regret": of.regret[s, t],
                    "in_good_range": bool(of.good[s, t]),
                }
                for s, t in np.argwhere(kinds["anything"]).tolist()
            ],
            "regret_of_any_setting": float((values.max(1, keepdims=True) - values).mean()),
            "regret_of_the_best_for_all": float((values.max(1) - values[:, values.mean(0).argmax()]).mean()),
        }
    result["normalized_minus_gradient"] = {
        kind: interval(moved["normalized"].regret - moved["gradient"].regret, pairs) for kind, pairs in kinds.items()
    }
    print_transfer(result, kinds)
    return result


def print_best(
    scaling: str, found: Sequence[Problem], settings: Sequence[dict[str, float]], values: np.ndarray
) -> None:
    print(f"\n{scaling}: the best setting of each task, by D/dpc, and how many of {len(settings)} are within 1 point\n")
    print("| task | score | rate | joint | cross | good settings |\n| --- " + "| ---: " * 5 + "|")
    for p, row in zip(found, values, strict=True):
        best = settings[row.argmax()]
        print(f"| {p.name} | {100 * row.max():.1f} | {best['learning_rate']:g} | {best['lambda_joint']:g}", end=" ")
        print(f"| {best['lambda_cross']:g} | {(row >= row.max() - GOOD - 1e-9).sum()} |")


def print_transfer(result: dict[str, Any], kinds: dict[str, np.ndarray]) -> None:
    def shown(cell: dict[str, float]) -> str:
        return f"{100 * cell['mean']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"

    print(
        "\nThe source's best setting on the target: regret (points), share within 1 point (%), 95 % intervals over tasks\n"
    )
    heads = [f"{scaling}: {head}" for scaling in RATES for head in ("regret", "share", "regret, rate tuned there")]
    print("| pairs that differ in | pairs | " + " | ".join(heads) + " | regret, normalized - gradient |")
    print("| --- " + "| ---: " * (2 + len(heads)) + "|")
    for kind, pairs in kinds.items():
        cells = [result[s][key][kind] for s in RATES for key in ("regret", "in_good_range", "regret_with_own_rate")]
        cells.append(result["normalized_minus_gradient"][kind])
        print(f"| {kind} | {pairs.sum()} | " + " | ".join(map(shown, cells)) + " |")
    for scaling in RATES:
        of = result[scaling]
        print(
            f"\n{scaling}: regret of a setting of the grid drawn at random {100 * of['regret_of_any_setting']:.1f}",
            end="",
        )
        print(f", of the one that is best over all tasks {100 * of['regret_of_the_best_for_all']:.1f}", flush=True)


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Prints the tables; returns what `--json` writes."""
    seeds, store, talk = [FIRST_SEED + i for i in range(options.seeds)], Store(), Talk()
    talk("loading the digits", now=True)
    digits = {dim: load(SpokenDigits(), dim, store) for dim in (64, 1024)}
    figures = {**provenance(), "seeds": seeds, "n": len(seeds), **all_ratios(digits, seeds, talk)}
    if not options.quick:
        with tempfile.TemporaryDirectory() as folder:
            talk("loading the tasks of the grid", now=True)
            figures["transfer"] = transfer(problems(digits[64], Path(folder), store), seeds, talk)
    figures["seconds"] = time.monotonic() - talk.started
    talk("done", now=True)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--seeds", type=int, default=1, help="of the frequencies; scores are means over them")
    parser.add_argument("--quick", action="store_true", help="the ratios only")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch")
    return run(benchmark, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
