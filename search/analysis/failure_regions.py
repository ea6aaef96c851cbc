"""Where in the search space each failure signature occurs, for report.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.analysis.failure_signatures import MEANING, trial_signatures
from search.ledger.ledger import TrialRecord
from search.space.model import Dimension, Space

PROBABLE = 0.05  # largest p-value at which a region is reported


def regions(space: Space, records: Sequence[TrialRecord]) -> dict[str, dict[str, Any]]:
    """signature -> {"trials": numbers of the trials that show it, "of": how many trials could be judged, "region": a short
    text, or None if no split of the hyperparameters explains it, "meaning": a sentence}.
    """
    found = {r.number: own for r in records if (own := trial_signatures(r)) is not None}
    # The paper's setting is not a point of the space: its lambdas mean something else.
    inside = [r for r in records if r.number in found and r.name != "paper_default"]
    return {
        name: {
            "trials": [number for number, own in found.items() if name in own],
            "of": len(found),
            "region": region(space, [r.params for r in inside], [name in found[r.number] for r in inside]),
            "meaning": meaning,
        }
        for name, meaning in MEANING.items()
    }


@dataclass(frozen=True)
class _Feature:
    """A column of the decision tree's input."""

    value: Callable[[Mapping[str, Any]], float]
    low: Callable[[float], str]  # threshold -> text for values above it
    high: Callable[[float], str]  # threshold -> text for values below it


def region(space: Space, params: Sequence[Mapping[str, Any]], shown: Sequence[bool]) -> str | None:
    """`lambda_joint > 3.2: 11 of 14 trials there, 1 of 34 elsewhere`: the region where `shown` is true; None if there is none.

    A leaf of a decision tree of depth 1 or 2 over the searched hyperparameters, on their own scales. The leaf is chosen by
    Fisher's exact test, its p-value multiplied by the number of candidate splits at each depth (Bonferroni). So a second
    condition must improve it that much more, and a region that chance would explain is not reported.
    """
    import numpy as np
    from scipy.stats import hypergeom
    from sklearn.tree import DecisionTreeClassifier

    features = [f for name, dimension in space.search.items() for f in _features(name, dimension)]
    y = np.array(shown, dtype=bool)
    if y.all() or not y.any():
        return None
    x = np.array([[f.value(p) for f in features] for p in params], dtype=np.float32)  # as the tree sees them
    splits = 2 * sum(len(np.unique(column)) - 1 for column in x.T)
    best, text = PROBABLE, None
    for depth in (1, 2):
        tree = DecisionTreeClassifier(criterion="entropy", max_depth=depth, random_state=0).fit(x, y).tree_
        for bounds in _leaves(tree):
            there = np.ones(len(y), dtype=bool)
            for (column, above), at in bounds.items():
                there &= (x[:, column] > at) if above else (x[:, column] <= at)
            hits, size = int(y[there].sum()), int(there.sum())
            chance = float(hypergeom.sf(hits - 1, len(y), int(y.sum()), size)) * splits ** len(bounds)
            if chance < best:
                said = [(features[c].low if above else features[c].high)(at) for (c, above), at in bounds.items()]
                best = chance
                text = (
                    f"{' and '.join(said)}: {hits} of {size} trials there, "
                    f"{int(y.sum()) - hits} of {len(y) - size} elsewhere"
                )
    return text


def _leaves(tree: Any) -> list[dict[tuple[int, bool], float]]:
    """The bounds of each leaf: (column, whether above) -> threshold; the tighter of two on the same side."""
    found: list[dict[tuple[int, bool], float]] = []

    def walk(node: int, bounds: dict[tuple[int, bool], float]) -> None:
        if tree.children_left[node] < 0:
            if bounds:
                found.append(bounds)
            return
        column, at = int(tree.feature[node]), float(tree.threshold[node])
        for above, child in ((False, tree.children_left[node]), (True, tree.children_right[node])):
            known = bounds.get((column, above), at)
            walk(int(child), {**bounds, (column, above): max(known, at) if above else min(known, at)})

    walk(0, {})
    return found


def _features(name: str, dimension: Dimension) -> list[_Feature]:
    """One column for a numeric hyperparameter, one per value for one with choices."""
    choices = dimension.choices
    if choices is None or all(isinstance(c, int | float) and not isinstance(c, bool) for c in choices):
        logarithmic = dimension.log or (choices is not None and min(choices) > 0)
        to, back = (math.log, math.exp) if logarithmic else (float, float)
        return [
            _Feature(
                lambda p: to(p[name]) if name in p else math.nan,  # on neither side
                lambda at: f"{name} > {back(at):.3g}",
                lambda at: f"{name} < {back(at):.3g}",
            )
        ]

    def one(choice: Any) -> _Feature:
        return _Feature(
            lambda p: float(p.get(name) == choice),
            lambda at: f"{name} is {choice}",
            lambda at: f"{name} is not {choice}",
        )

    return [one(choice) for choice in choices]
