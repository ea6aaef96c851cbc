"""Confirmation with seeds added only where the decision is open, against a fixed number of them: verdicts, errors, cost.

python benchmarks/sequential.py --searches 200 --json sequential.json

Simulated searches: a run gets an item right where a sum of normal parts is above 0 (the setting's, the item's, its group's, the
seed's, and one of seed and item), so the truth on new items is known. Forty settings are tried on three seeds; the four best
and three published ones are confirmed by both rules, on the same seeds. A run of either is one of its replicas.

A real search: `--old FOLDER --new FOLDER`, two confirmations of the same trials, compares what they left.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance, run
from scipy.stats import norm

from search.analysis.paired import Items, Outcome, Paired, difference
from search.analysis.sequential import FIRST_LOOK, looks, seeds_to_report
from search.confirmation.elimination import compare_in_looks

SEEDS, TRIALS, TOP, PUBLISHED = 20, 40, 4, 3
BUDGET = TRIALS * 3  # runs: the trials' own
WORLDS = {  # items, groups, variance of a seed, of a seed and item together
    "800 items, 20 groups": (800, 20, 0.0005, 0.05),  # a seed's share of the noise as in spaces/quickstart.yaml
    "300 items": (300, None, 0.005, 0.1),
    "300 items, 8 groups, noisy seeds": (300, 8, 0.02, 0.1),
    "1000 items, very noisy seeds": (1000, None, 0.1, 0.4),
}
GAINS = (0.0, 0.3, 0.5)  # of the better settings, in standard deviations
# What is run beside the comparison, as in spaces/quickstart.yaml: MMD's rates, tuned rates and their report, what single seeds
# would have chosen, runs around candidates. Those around what is recommended are the same for both and left out.
FIXED = 15 + (10 * 3 + 3 * 17 + SEEDS) + 3 * SEEDS + 36
MMD, SINGLE, RATES, AROUND = 9, 9, 10 + 3 * 3, 24


@dataclass
class Setting:
    """A setting on the held-out items; `search.confirmation.elimination.Contender`."""

    label: str
    number: int
    seeds: int = 0
    mean: float = -math.inf


class World:
    """Settings on one held-out set. A run depends on its setting and its seed only."""

    def __init__(self, seed: int, gain: float, n: int, groups: int | None, of_seed: float, of_cell: float) -> None:
        self.seed, self.n, self.of_seed, self.of_cell = seed, n, of_seed, of_cell
        rng = np.random.default_rng(seed)
        self.means = np.array([1.4] * PUBLISHED + [1.4 + gain] * TOP + [1.4] * (TRIALS - TOP))
        number = np.arange(n) if groups is None else np.arange(n) % groups
        count, has = int(number.max()) + 1, groups is not None
        common = rng.normal(0, 1, n) + has * rng.normal(0, 0.5, count)[number]
        shape = (len(self.means), n)
        own = rng.normal(0, math.sqrt(0.1), shape) + has * rng.normal(0, 0.2, (len(self.means), count))[:, number]
        self.middle = self.means[:, None] + common + own
        self.spread = math.sqrt(1.1 + has * 0.29 + of_seed + of_cell)
        self.items = [Items(n, 1.0, None if groups is None else number)]
        self.known: dict[tuple[int, int], np.ndarray] = {}

    def hits(self, setting: int, seed: int) -> np.ndarray:
        """(n,) of one run."""
        if (setting, seed) not in self.known:
            rng = np.random.default_rng([self.seed, setting, seed])
            noise = rng.normal(0, math.sqrt(self.of_seed)) + rng.normal(0, math.sqrt(self.of_cell), self.n)
            self.known[setting, seed] = self.middle[setting] + noise > 0
        return self.known[setting, seed]

    def outcome(self, setting: int, seeds: Sequence[int]) -> Outcome:
        hits = np.stack([self.hits(setting, seed) for seed in seeds])
        return Outcome(hits.mean(1).tolist(), [hits])

    def apart(self, a: Setting, b: Setting, seeds: Sequence[int], compared: int) -> Paired:
        return difference(self.outcome(a.number, seeds), self.outcome(b.number, seeds), self.items, compared)

    def truth(self, setting: Setting) -> float:
        """Accuracy on new items, groups and seeds."""
        return float(norm.cdf(self.means[setting.number] / self.spread))

    def candidates(self) -> tuple[list[Setting], list[Setting]]:
        """The best of the trials on three seeds, and the published settings."""
        trials = range(PUBLISHED, PUBLISHED + TRIALS)
        first = {i: np.mean(self.outcome(i, [994, 995, 996]).scores) for i in trials}
        top = sorted(trials, key=lambda i: -first[i])[:TOP]
        return [Setting(f"trial {i}", i) for i in top], [Setting(f"published {i}", i) for i in range(PUBLISHED)]


def choose(world: World, counts: Sequence[int] | None, shift: int = 0) -> dict[str, Any]:
    """{better: whether a setting is recommended over the published ones, lead: its true one, covered, runs, ...}.

    `counts`: None for the looks of the sequential rule, or a fixed number of seeds, alone. `shift`: takes other seeds."""
    top, published = world.candidates()
    fixed = counts is not None
    runs = FIXED if fixed else MMD
    reserved = FIRST_LOOK * (PUBLISHED + 2)

    def affords(more: int) -> bool:
        return fixed or runs + more + reserved <= BUDGET

    def choosing(n: int) -> list[int]:
        return [shift + i for i in range(n)]

    def execute(some: Sequence[Setting], n: int) -> None:
        nonlocal runs
        for c in some:
            runs += n - c.seeds
            c.seeds, c.mean = n, float(np.mean(world.outcome(c.number, choosing(n)).scores))

    settled = compare_in_looks(
        top, published, None, looks(SEEDS)[-1:] if fixed else looks(SEEDS), TRIALS, execute,
        lambda a, b, n, of: world.apart(a, b, choosing(n), of), affords,
    )  # fmt: skip
    best = next(p for p in published if p.label == settled.best)
    shown = [c for c in top if c.label in settled.shown]
    longest = max(c.seeds for c in top)
    challenger = max(shown or [c for c in top if c.seeds == longest], key=lambda c: c.mean)
    chosen = challenger if shown else best
    others = [c for c in (*published, challenger) if c is not chosen]
    wanted = SEEDS
    if not fixed:
        found = [world.apart(chosen, c, choosing(min(c.seeds, chosen.seeds)), 1) for c in others]
        if shown:
            runs += AROUND if len(shown) > 1 and affords(AROUND) else 0
            runs += RATES + FIRST_LOOK if affords(RATES + FIRST_LOOK) else 0
        runs += SINGLE if affords(SINGLE) else 0
        wanted = max(seeds_to_report(each, FIRST_LOOK, SEEDS) for each in found)
        wanted = max(FIRST_LOOK, min(wanted, (BUDGET - runs) // (len(others) + 2)))
    reporting = [shift + 500 + i for i in range(wanted)]
    covered = []
    for other in others:
        own = world.apart(chosen, other, reporting, TRIALS if shown or other is challenger else 1)
        covered.append(own.low <= world.truth(chosen) - world.truth(other) <= own.high)
    runs += wanted * (len(others) + 2)  # and the best trial
    lead = world.truth(chosen) - max(map(world.truth, published))
    seeds = max(c.seeds for c in (*top, *published))
    return {"better": bool(shown), "false": bool(shown) and lead <= 1e-12, "lead": lead, "covered": covered,
            "runs": runs, "seeds": seeds, "reporting": wanted, "stopped": settled.stopped}  # fmt: skip


def compare_rules(name: str, gain: float, searches: int) -> dict[str, Any]:
    """Both rules on so many searches."""
    rows: dict[str, list[dict[str, Any]]] = {"fixed": [], "again": [], "sequential": []}
    for seed in range(searches):
        world = World(seed, gain, *WORLDS[name])
        rows["fixed"].append(choose(world, [SEEDS]))
        rows["again"].append(choose(world, [SEEDS], shift=10_000))
        rows["sequential"].append(choose(world, None))
    told: dict[str, Any] = {"world": name, "gain": gain, "searches": searches}
    for rule, of in rows.items():
        covered = [each for row in of for each in row["covered"]]
        told[rule] = {
            "recommended": float(np.mean([row["better"] for row in of])),
            "false": float(np.mean([row["false"] for row in of])),
            "covered": float(np.mean(covered)),
            "lead": float(np.mean([row["lead"] for row in of])),
            "runs": float(np.mean([row["runs"] for row in of])),
            "choosing_seeds": float(np.mean([row["seeds"] for row in of])),
            "reporting_seeds": float(np.mean([row["reporting"] for row in of])),
            "stopped": Counter(row["stopped"] for row in of),
        }
    for rule in ("again", "sequential"):
        same = [a["better"] == b["better"] for a, b in zip(rows["fixed"], rows[rule], strict=True)]
        told[rule]["same"] = float(np.mean(same))
    return told


def real(old: Path, new: Path) -> dict[str, Any]:
    """What two confirmations of the same trials say and took."""
    found = {}
    for name, folder in (("fixed", old), ("sequential", new)):
        report = json.loads((folder / "report.json").read_text())
        confirmed = report["confirmation"]
        found[name] = {
            "verdict": report["verdict"]["text"],
            "stopped": confirmed.get("stopped"),
            "seeds": {kind: len(own) for kind, own in report["seeds"].items()},
            "cost": {kind: report["cost"][kind] for kind in ("trials", "confirmation")},
            "differences": confirmed["differences"],
        }
        own = found[name]["cost"]["confirmation"]
        print(f"{name:<12}{own['replica_steps']:>8,} replica-steps, {own['seconds']:.0f} s: {found[name]['verdict']}")
        for setting, entry in confirmed["differences"].items():
            print(f"{'':<12}{setting}: {entry['mean']:+.4f} {entry['ci95']} on {entry['n']}")
    return found


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Prints tables; returns what `--json` writes."""
    figures: dict[str, Any] = provenance()
    if options.old is not None and options.new is not None:
        figures["real"] = real(options.old, options.new)
    print("| held-out items | gain | recommended: fixed | sequential | false | same verdict (fixed, other seeds) "
          "| covered: fixed | sequential | runs: fixed | sequential | share | seeds |")  # fmt: skip
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    figures["simulated"] = []
    for name in WORLDS:
        for gain in GAINS:
            row = compare_rules(name, gain, options.searches)
            figures["simulated"].append(row)
            a, again, b = row["fixed"], row["again"], row["sequential"]
            print(
                f"| {name} | {gain} | {100 * a['recommended']:.1f} % | {100 * b['recommended']:.1f} % | {100 * b['false']:.1f} % "
                f"| {100 * b['same']:.1f} % ({100 * again['same']:.1f} %) "
                f"| {100 * a['covered']:.1f} % | {100 * b['covered']:.1f} % "
                f"| {a['runs']:.0f} | {b['runs']:.0f} | {100 * b['runs'] / a['runs']:.0f} % "
                f"| {b['choosing_seeds']:.1f} + {b['reporting_seeds']:.1f} |",
                flush=True,
            )
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--searches", type=int, default=200, help="simulated searches for each row")
    parser.add_argument("--old", type=Path, metavar="FOLDER", help="a search whose confirmation had fixed seeds")
    parser.add_argument("--new", type=Path, metavar="FOLDER", help="the same trials, confirmed sequentially")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return run(benchmark, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
