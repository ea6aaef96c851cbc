"""What all parts of report.json have in common."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

Number = float | None
Value = bool | int | float | str | None  # of a hyperparameter


class Part(BaseModel):
    """What all parts share: no unknown keys, no changes, and None for what is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        return finite(value)


def finite(content: Any) -> Any:
    """The same lists and mappings, with None for NaN and infinity: JSON has neither."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content
