"""What the model of the trials says around a setting: curves, maps and ranges."""

from __future__ import annotations

from pydantic import Field

from search.report.part import Number, Part, Value


class Response(Part):
    """The modelled score along one hyperparameter, the others as recommended."""

    values: list[Number]
    mean: list[Number]
    low: list[Number] = Field(description="two of the model's standard deviations below")
    high: list[Number]


class ResponsePair(Part):
    """The modelled score over two hyperparameters, the others as recommended."""

    x: str
    y: str
    xs: list[Number]
    ys: list[Number]
    mean: list[list[Number]] = Field(description="a row for each of `ys`")


class BestTried(Part):
    """The best setting that was searched, and what the model says around it, where a published setting is kept of whose
    surroundings it knows nothing."""

    trial: int | None = Field(description="null: the plateau's setting")
    params: dict[str, Value] = Field(description="the searched hyperparameters")
    robust_region: dict[str, tuple[Number, Number]] = Field(description="as that of the recommended setting")
    response: dict[str, Response]
    response_pairs: list[ResponsePair]
