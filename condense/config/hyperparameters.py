"""What a search may vary: the hyperparameters of a condensation, with their defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from condense.config.modalities import RATE, is_name
from condense.config.strict import Strict

Positive = Annotated[float, Field(gt=0)]


class Hyperparameters(Strict):
    """Everything that a search may vary. Formulas: `condense/method/objective.py`.

    `learning_rate_NAME` is that of any other modality. Left out and None are the same.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Positive]

    lambda_uni: float = Field(1.0, ge=0, description="weight of the uni-modal term")
    lambda_cross: float = Field(0.1, ge=0, description="weight of the cross-modal term")
    lambda_joint: float = Field(0.03, ge=0, description="weight of the joint-modal term")
    frequency_scale: float = Field(1.0, gt=0, description="sigma: standard deviation of the CF frequencies")
    num_frequencies: int = Field(256, ge=1, le=2**20, description="frequencies in one step's CF estimate")
    frequency_pool: int = Field(
        1024, ge=1, le=2**20, description="frequencies drawn once; each step takes the next part of them"
    )
    frequency_sampling: Literal["orthogonal", "independent"] = Field(
        "orthogonal",
        description="directions of the frequencies: `orthogonal` to each other, which estimates the CF discrepancy with less "
        "noise, or `independent`, as published",
    )
    alpha: float = Field(0.5, ge=0, description="weight of the amplitude part of the CF discrepancy")
    beta: float = Field(0.5, ge=0, description="weight of its phase part")
    discrepancy: Literal["cf", "mmd"] = Field(
        "cf", description="uni-modal term: characteristic functions, or means (MMD)"
    )
    scaling: Literal["gradient", "normalized", "relative", "paper"] = Field(
        "gradient",
        description="`gradient`: each term over the norm of its gradient on the unit sphere at initialisation, so that terms of "
        "equal weight pull equally, and SGD's learning rates in units of the items' standard deviation; `normalized`: each "
        "term over its size at initialisation; `relative`: cross and joint brought to the size of uni at initialisation, "
        "which keeps its own, and items share their class's movement, so that learning rates hold for several numbers of "
        "items per class; `paper`: the published code's",
    )
    formation: int = Field(
        1,
        ge=1,
        le=4,
        description="f: each stored image holds f x f smaller images, each stored sound f parts, which are enlarged before "
        "they are embedded; more items in the same storage",
    )
    views: int = Field(
        0,
        ge=0,
        le=64,
        description="siamese augmentation: so many fixed transformations, under each of which the real items are embedded once; "
        "each step matches under one of them, or none; 0: no augmentation",
    )
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="what moves the items")
    momentum: float = Field(0.5, ge=0, lt=1, description="SGD momentum, or Adam's beta1")
    schedule: Literal["constant", "cosine"] = Field(
        "cosine", description="learning rates over the steps: as they are, or falling to 0 along half a cosine"
    )
    learning_rate: float = Field(0.15, gt=0, description="for every modality without a learning rate of its own")
    learning_rate_vision: Positive | None = Field(None, description="for vision; left out: `learning_rate`")
    learning_rate_audio: Positive | None = Field(None, description="for audio; left out: `learning_rate`")
    learning_rate_text: Positive | None = Field(None, description="for text; left out: `learning_rate`")
    learning_rate_depth: Positive | None = Field(None, description="for depth; left out: `learning_rate`")
    learning_rate_thermal: Positive | None = Field(None, description="for thermal; left out: `learning_rate`")
    learning_rate_imu: Positive | None = Field(None, description="for imu; left out: `learning_rate`")

    @model_validator(mode="before")
    @classmethod
    def _no_other_keys(cls, values: Any) -> Any:
        """Refuses unknown keys, as `extra="forbid"` would, but for learning rates of modalities."""
        if not isinstance(values, dict):
            return values
        unknown = [name for name in values if not is_hyperparameter(name)]
        if unknown:
            errors: list[Any] = [{"type": "extra_forbidden", "loc": (str(n),), "input": values[n]} for n in unknown]
            raise ValidationError.from_exception_data(cls.__name__, errors)
        rates = {name: values[name] for name in values if name not in cls.model_fields}
        for name, value in rates.items():
            if isinstance(value, bool):
                raise ValueError(f"`{name}` must be a number, but got {value}")
        return {name: value for name, value in values.items() if name not in rates or value is not None}

    def learning_rate_of(self, modality: str) -> float:
        own: float | None = getattr(self, f"{RATE}{modality}", None)
        return self.learning_rate if own is None else own

    @property
    def own_rates(self) -> dict[str, float]:
        """modality -> learning rate, of those that have one of their own."""
        values = {name.removeprefix(RATE): value for name, value in self if name.startswith(RATE)}
        return {modality: value for modality, value in values.items() if value is not None}


def is_hyperparameter(name: Any) -> bool:
    """Whether `Hyperparameters` takes this name: a field's, or `learning_rate_` and the name of some modality."""
    return name in Hyperparameters.model_fields or (
        isinstance(name, str) and name.startswith(RATE) and is_name(name.removeprefix(RATE))
    )
