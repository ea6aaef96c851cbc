"""What `helps.py` compares, and its tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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


@dataclass(frozen=True)
class Chosen:
    """The methods and the helps of a table, both in the order above; all unless some are named."""

    methods: tuple[str, ...] = METHODS
    helps: tuple[Help, ...] = HELPS

    @classmethod
    def named(cls, methods: Iterable[str], helps: Iterable[str]) -> Chosen:
        return cls(tuple(m for m in METHODS if m in methods), tuple(h for h in HELPS if h.name in helps))

    @property
    def names(self) -> list[str]:
        return [h.name for h in self.helps]

    @property
    def baselines(self) -> list[str]:
        return [m for m in self.methods if m in BASELINES]

    @cached_property
    def sources(self) -> set[Cell]:
        """The cells whose items are needed: a chosen one, or the one that it repeats or whose labels it changes."""
        return {(m, source(m, h).name) for m in self.methods for h in self.helps}

    @property
    def added(self) -> dict[str, tuple[str, str]]:
        """Of `ADDED`, what both sides are chosen of."""
        both = {name: (HELPS[i].name, HELPS[j].name) for name, (i, j) in ADDED.items()}
        return {name: cells for name, cells in both.items() if set(cells) <= set(self.names)}


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


def report(dpc: int, found: Mapping[str, Mapping[Cell, list[float]]], chosen: Chosen) -> dict[str, Any]:
    """Prints the tables of one `dpc`: judge -> cell -> values. Returns its figures. Leads need ours, and cells without help."""
    names, methods = chosen.names, chosen.methods
    print(f"\n### {dpc} stored per class\n")
    for judge, title in JUDGES.items():
        show = shown if judge == "convnet" else spread
        print(table([title, *names], ([m, *(show(found[judge][m, n]) for n in names)] for m in methods)) + "\n")
    leads = {n: {judge: leads_of(values, n, chosen) for judge, values in found.items()} for n in names}
    rows = [
        [f"{n}, {JUDGES[judge]}", *(of[over].told() if over in of else "" for over in OVER)]
        for n in names
        for judge, of in leads[n].items()
    ]
    print(table(["ours minus", *OVER], rows) + "\n")
    added = {(m, judge): added_to(found[judge], m, chosen) for m in methods for judge in JUDGES}
    lines = (
        [f"{m}, {JUDGES[judge]}", *(told_added(m, k, d) for k, d in of.items())] for (m, judge), of in added.items()
    )
    if chosen.added:
        print(table(["a help adds", *chosen.added], lines), flush=True)
    return {
        "cells": [{"method": m, "help": n, **{j: found[j][m, n] for j in JUDGES}} for m in methods for n in names],
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


def leads_of(values: Mapping[Cell, list[float]], name: str, chosen: Chosen) -> dict[str, Lead]:
    if "ours" not in chosen.methods or not chosen.baselines:
        return {}
    same = best_of(values, chosen.baselines, name)
    cells = {"best baseline, same help": (same, name)}
    if "none" in chosen.names:
        cells = {"best baseline without help": (best_of(values, chosen.baselines, "none"), "none"), **cells}
    if "mmd" in chosen.methods:
        cells["MMD, same help"] = ("mmd", name)
    return {over: Lead(cell[0], minus(values["ours", name], values[cell])) for over, cell in cells.items()}


def added_to(values: Mapping[Cell, list[float]], method: str, chosen: Chosen) -> dict[str, list[float]]:
    return {name: minus(values[method, a], values[method, b]) for name, (a, b) in chosen.added.items()}


def told_added(method: str, name: str, differences: Sequence[float]) -> str:
    return "" if method in CORESETS and name.startswith(("views", "bank")) else shown(differences, True)
