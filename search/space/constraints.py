"""Constraints between searched hyperparameters: `lambda_joint <= lambda_cross`, `momentum < 0.9`."""

from __future__ import annotations

import functools
import math
import operator
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.space.dimension import Dimension, is_integer, is_number

OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
NAME = r"[A-Za-z_][A-Za-z0-9_]*"
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RULE = re.compile(rf"\s*({NAME}|{NUMBER})\s*(<=|>=|<|>)\s*({NAME}|{NUMBER})\s*", re.ASCII)
DRAWS = 2000  # settings of the ranges, of which constraints must allow some
LEAST = 0.005  # share of them


@dataclass(frozen=True)
class Constraint:
    """`left` and `right` are names of hyperparameters, or numbers."""

    left: str | float
    comparison: str
    right: str | float

    @property
    def names(self) -> list[str]:
        return [side for side in (self.left, self.right) if isinstance(side, str)]

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it does in a setting. One that names what the setting has no value of says nothing about it."""
        left, right = (values.get(side) if isinstance(side, str) else side for side in (self.left, self.right))
        return left is None or right is None or bool(OPERATORS[self.comparison](left, right))


@functools.lru_cache(maxsize=256)
def parse(text: str) -> Constraint:
    """Raises ValueError for what is not `NAME <= NAME`, or with `<`, `>`, `>=`, or a number on one side."""
    found = RULE.fullmatch(text)
    if found is None:
        raise ValueError("must be `NAME <= NAME` (or <, >, >=; one side may be a number)")
    left, comparison, right = found.groups()
    return Constraint(_side(left), comparison, _side(right))


def _side(text: str) -> str | float:
    return text if re.fullmatch(NAME, text, re.ASCII) else float(text)


def check_constraints(texts: Sequence[str], search: Mapping[str, Dimension], fixed: Mapping[str, Any]) -> None:
    """Raises ValueError for one that cannot be read, names what is neither searched nor fixed or no number, or if they leave
    hardly anything of the ranges."""
    for i, text in enumerate(texts):
        key = f"constraints.{i}"
        try:
            constraint = parse(text)
        except ValueError as error:
            raise ValueError(f"`{key}` {error}, but got {text!r}") from None
        for name in constraint.names:
            if name not in search and name not in fixed:
                raise ValueError(f"`{key}`: `{name}` is neither in `search` nor in `fixed`")
            if not is_number(name):
                raise ValueError(f"`{key}`: `{name}` is no number")
        if not any(name in search for name in constraint.names):
            raise ValueError(f"`{key}` must name a searched hyperparameter, but got {text!r}")
    if not texts:
        return
    rng = random.Random(0)
    drawn = [allowed(texts, {**fixed, **_draw(search, rng)}) for _ in range(DRAWS)]
    if sum(drawn) < LEAST * DRAWS:
        raise ValueError(
            f"`constraints` must leave something to search, but hold for {sum(drawn)} of {DRAWS} random settings"
        )


def allowed(texts: Iterable[str], values: Mapping[str, Any]) -> bool:
    """Whether all of them hold in a setting."""
    return all(parse(text).holds(values) for text in texts)


def _draw(search: Mapping[str, Dimension], rng: random.Random) -> dict[str, Any]:
    values = {}
    for name, d in search.items():
        if d.choices is not None:
            values[name] = rng.choice(d.choices)
        else:
            assert d.low is not None and d.high is not None
            at = math.exp(rng.uniform(math.log(d.low), math.log(d.high))) if d.log else rng.uniform(d.low, d.high)
            values[name] = round(d.nearest(at)) if is_integer(name) else d.nearest(at)
    return {name: value for name, value in values.items() if search[name].is_searched(values)}
