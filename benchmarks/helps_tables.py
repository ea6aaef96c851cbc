"""What `helps.py` compares, and its tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from condense.config.models import Hyperparameters

VIEWS, FORMATION = 8, 2
CORESETS = ("random", "herding", "k_means")
BASELINES = (*CORESETS, "mmd")
METHODS = (*BASELINES, "ours")
JUDGES = {"convnet": "ConvNet", "probe": "linear probe", "outside": "probe, unseen encoder"}


@dataclass(frozen=True)
class Help:
    """What a method may use besides its objective."""

    name: str
    formation: int = 1
    views: int = 0
    bank: bool = False
    soft: bool = False

    def changes(self, h: Hyperparameters) -> Hyperparameters:
        return h.model_copy(update={"formation": self.formation, "views": self.views})

    @property
    def stored(self) -> int:
        """Its formation, if it changes nothing else; a coreset's items depend on that alone."""
        return 0 if self.views or self.bank or self.soft else self.formation


HELPS = (
    Help("none"),
    Help("views", views=VIEWS),
    Help("bank", bank=True),
    Help("formation", FORMATION),
    Help("formation + views", FORMATION, VIEWS),
    Help("formation + views + bank", FORMATION, VIEWS, bank=True),
    Help("formation + views + soft labels", FORMATION, VIEWS, soft=True),
)
# What a help adds: name -> the cell with it, the cell without it.
ADDED = {
    "views": (1, 0),
    "bank": (2, 0),
    "formation": (3, 0),
    "views, with formation": (4, 3),
    "bank, with both": (5, 4),
    "soft labels, with both": (6, 4),
}
Cell = tuple[str, str]  # method, name of a help


def source(method: str, h: Help) -> Help:
    """The help under which a method's items for a cell were made."""
    if method in CORESETS:
        return next(x for x in HELPS if x.stored == h.formation)
    return next(x for x in HELPS if replace(x, name=h.name) == replace(h, soft=False))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval (Student's t); the latter is NaN for a single value."""
    n = len(values)
    half = float(student.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n) if n > 1 else math.nan
    return fmean(values), half


def shown(values: Sequence[float], sign: bool = False) -> str:
    """Mean ± half of the interval, in points."""
    mean, half = interval(values)
    text = f"{100 * mean:+.1f}" if sign else f"{100 * mean:.1f}"
    return text if math.isnan(half) else f"{text} ± {100 * half:.1f}"


def spread(values: Sequence[float]) -> str:
    """A probe's cell: mean, and lowest to highest set, in %."""
    low, high = (f"{100 * value:.1f}" for value in (min(values), max(values)))
    return f"{100 * fmean(values):.1f}" + ("" if low == high else f" ({low}–{high})")


def minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Paired by seed; where a judge has no seeds, the difference of the means over sets."""
    return [x - y for x, y in zip(a, b, strict=True)] if len(a) == len(b) > 2 else [fmean(a) - fmean(b)]


def best_of(values: Mapping[Cell, Sequence[float]], methods: Iterable[str], help_name: str) -> str:
    """The method with the highest mean. It is chosen by what it is compared by, which favours it over ours."""
    means = {method: fmean(values[method, help_name]) for method in methods}
    return max(means, key=lambda method: -1.0 if math.isnan(means[method]) else means[method])


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([row(head), row(["---", *["---:"] * (len(head) - 1)]), *map(row, rows)])


def report(dpc: int, found: Mapping[str, Mapping[Cell, list[float]]]) -> dict[str, Any]:
    """Prints the tables of one `dpc`: judge -> cell -> values. Returns its figures."""
    names = [h.name for h in HELPS]
    print(f"\n### {dpc} stored per class\n")
    for judge, title in JUDGES.items():
        show = shown if judge == "convnet" else spread
        print(table([title, *names], ([m, *(show(found[judge][m, n]) for n in names)] for m in METHODS)) + "\n")
    leads = {n: {judge: leads_of(values, n) for judge, values in found.items()} for n in names}
    rows = (
        [f"{n}, {JUDGES[judge]}", *(lead.told() for lead in of.values())]
        for n in names
        for judge, of in leads[n].items()
    )
    print(table(["ours minus", *OVER], rows) + "\n")
    added = {(m, judge): added_to(found[judge], m) for m in METHODS for judge in JUDGES}
    lines = (
        [f"{m}, {JUDGES[judge]}", *(told_added(m, k, d) for k, d in of.items())] for (m, judge), of in added.items()
    )
    print(table(["a help adds", *ADDED], lines), flush=True)
    return {
        "cells": [{"method": m, "help": n, **{j: found[j][m, n] for j in JUDGES}} for m in METHODS for n in names],
        "leads": {n: {j: {over: lead.as_json() for over, lead in of.items()} for j, of in by.items()}
                  for n, by in leads.items()},
        "added": {f"{m}, {j}": {k: list(interval(d)) for k, d in of.items()} for (m, j), of in added.items()},
    }  # fmt: skip


OVER = ("best baseline without help", "best baseline, same help", "MMD, same help")


@dataclass(frozen=True)
class Lead:
    """How far ours is above a baseline: a difference per seed, or one difference of means."""

    over: str
    differences: Sequence[float]

    def told(self) -> str:
        return f"{shown(self.differences, True)} ({self.over})"

    def as_json(self) -> dict[str, Any]:
        mean, half = interval(self.differences)
        return {"over": self.over, "mean": mean, "half_ci95": half}


def leads_of(values: Mapping[Cell, list[float]], name: str) -> dict[str, Lead]:
    bare, same = best_of(values, BASELINES, "none"), best_of(values, BASELINES, name)
    cells = dict(zip(OVER, ((bare, "none"), (same, name), ("mmd", name)), strict=True))
    return {over: Lead(cell[0], minus(values["ours", name], values[cell])) for over, cell in cells.items()}


def added_to(values: Mapping[Cell, list[float]], method: str) -> dict[str, list[float]]:
    names = [h.name for h in HELPS]
    return {name: minus(values[method, names[i]], values[method, names[j]]) for name, (i, j) in ADDED.items()}


def told_added(method: str, name: str, differences: Sequence[float]) -> str:
    return "" if method in CORESETS and name.startswith(("views", "bank")) else shown(differences, True)
