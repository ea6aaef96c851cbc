"""One searched hyperparameter: its values, and where it is searched at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, get_args

from pydantic import Field, StrictFloat, ValidationError

from condense.config.models import Hyperparameters, Strict

ON_GRID = 1e-8  # of a step: how near a value must be to its grid


class Dimension(Strict):
    """One searched hyperparameter: a range (`low`, `high`, and `log` or `step`) or `choices`."""

    low: StrictFloat | None = Field(None, description="smallest value of a range")
    high: StrictFloat | None = Field(None, description="largest value of a range (included)")
    log: bool = Field(False, description="whether the range is searched on a logarithmic scale; low must be > 0")
    step: StrictFloat | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="only low, low + step, ... high; not with log. Whole-number hyperparameters have 1 by themselves",
    )
    choices: list[Any] | None = Field(None, description="the values to choose from, instead of a range")
    when: dict[str, Any] | None = Field(
        None,
        description="where it is searched: searched hyperparameter with `choices` -> its value there, or a list of them, as "
        "`when: {optimizer: sgd}`. Elsewhere it has its value of `fixed`, or its default",
    )

    def contains(self, value: Any) -> bool:
        """Whether `value` can be proposed."""
        if self.choices is not None:
            return value in self.choices
        assert self.low is not None and self.high is not None
        if value is None or not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(steps - round(steps)) < ON_GRID

    def nearest(self, value: float) -> float:
        """The value of a range that is nearest to this one: inside, and on its grid if it has one."""
        assert self.low is not None and self.high is not None
        value = float(min(max(value, self.low), self.high))
        if self.step is None:
            return value
        # in decimals: 0.1 + 2 * 0.1 is 0.30000000000000004
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        return float(low + round((value - self.low) / self.step) * step)

    def centre(self) -> Any:
        """Geometric mean of a log range, arithmetic mean of a linear one, on its grid; or the first choice."""
        if self.choices is not None:
            return self.choices[0]
        assert self.low is not None and self.high is not None
        return self.nearest(math.sqrt(self.low) * math.sqrt(self.high) if self.log else self.low / 2 + self.high / 2)

    def is_searched(self, values: Mapping[str, Any]) -> bool:
        """Whether it is, in a setting with these values of the other searched hyperparameters."""
        return all(name in values and values[name] in listed(wanted) for name, wanted in (self.when or {}).items())


def listed(wanted: Any) -> list[Any]:
    """The values in a condition: one, or a list of them."""
    return wanted if isinstance(wanted, list) else [wanted]


def is_integer(name: str) -> bool:
    """Whether a hyperparameter takes whole numbers only."""
    return name in Hyperparameters.model_fields and Hyperparameters.model_fields[name].annotation is int


def is_number(name: str) -> bool:
    """Whether a hyperparameter takes numbers."""
    field = Hyperparameters.model_fields.get(name)  # None: a modality's learning rate
    return field is None or not any(isinstance(option, str) for option in get_args(field.annotation))  # of a Literal


def check_value(key: str, name: str, value: Any) -> None:
    """Raises ValueError if a hyperparameter cannot have this value; `key` is where it stands."""
    try:
        Hyperparameters.model_validate({name: value}, strict=True)
    except ValidationError as error:
        rule = error.errors(include_url=False)[0]["msg"]
        raise ValueError(f"`{key}`: {rule}, but got {value!r}") from None


def check_dimension(name: str, dimension: Dimension) -> None:
    """Raises ValueError for a range or choices that the hyperparameter cannot have."""
    key = f"search.{name}"
    if dimension.choices is not None:
        if dimension.low is not None or dimension.high is not None or dimension.log or dimension.step is not None:
            raise ValueError(f"`{key}` must have choices or a range (low, high, log, step), but has both")
        if not dimension.choices:
            raise ValueError(f"`{key}.choices` must not be empty")
        for i, value in enumerate(dimension.choices):
            check_value(f"{key}.choices.{i}", name, value)
            if value in dimension.choices[:i]:
                raise ValueError(f"`{key}.choices` must differ from each other, but {value!r} is there twice")
        return
    if not is_number(name):
        raise ValueError(f"`{key}` is no number: it must have choices, not a range")
    for side in ("low", "high"):
        bound = getattr(dimension, side)
        if bound is None:
            raise ValueError(f"`{key}` must have low and high, or choices, but `{key}.{side}` is missing")
        if is_integer(name) and bound != int(bound):
            raise ValueError(f"`{key}.{side}` must be a whole number, but got {bound!r}")
        if dimension.log and bound <= 0:
            raise ValueError(f"`{key}.{side}` must be > 0 for a log scale, but got {bound!r}")
        check_value(f"{key}.{side}", name, int(bound) if is_integer(name) else bound)
    assert dimension.low is not None and dimension.high is not None
    if dimension.low >= dimension.high:
        raise ValueError(f"`{key}.low` must be < high, but got low {dimension.low!r} and high {dimension.high!r}")
    _check_step(key, name, dimension)


def _check_step(key: str, name: str, dimension: Dimension) -> None:
    low, high, step = dimension.low, dimension.high, dimension.step
    if step is None:
        return
    if dimension.log:
        raise ValueError(f"`{key}` must have log or step, but has both")
    if is_integer(name) and step != int(step):
        raise ValueError(f"`{key}.step` must be a whole number, but got {step!r}")
    if not dimension.contains(high):
        raise ValueError(
            f"`{key}.high` must be low + a multiple of step, but got low {low!r}, high {high!r}, step {step!r}"
        )


def check_conditions(search: Mapping[str, Dimension]) -> None:
    """Raises ValueError for a `when` that names no searched hyperparameter with choices, or a value that is none of them."""
    for name, dimension in search.items():
        for other, wanted in (dimension.when or {}).items():
            key = f"search.{name}.when.{other}"
            there = search.get(other)
            if there is None or there.choices is None:
                raise ValueError(f"`{key}` must name a searched hyperparameter with choices")
            if there.when is not None:
                raise ValueError(f"`{key}` must name one that is always searched, but it has a `when` itself")
            for value in listed(wanted):
                if value not in there.choices:
                    raise ValueError(f"`{key}` must be of its choices {there.choices}, but got {value!r}")
        if dimension.when is not None and not all(map(listed, dimension.when.values())):
            raise ValueError(f"`search.{name}.when` must not have an empty list")
