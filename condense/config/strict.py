"""The base of every configuration."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """Base of every configuration: immutable, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_switches(cls, values: Any) -> Any:
        """Refuses YAML's `true`, `yes` and `on` where a number is needed."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field and {int, float} & {field.annotation, *get_args(field.annotation)}:
                raise ValueError(f"`{name}` must be a number, but got {value}")
        return values


Seed = Annotated[int, Field(ge=0, lt=2**62)]  # leaves room for small offsets; PyTorch takes 64 bits
