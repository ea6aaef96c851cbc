"""Modalities: their names are the user's, and each is of a kind that says how it is read, moved and shown.

ImageBind's six names have their kinds already; any other name needs one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from condense.config.strict import Strict
from condense.system.errors import UserError

Kind = Literal["image", "sound", "text", "series", "depth", "thermal"]
KINDS: tuple[str, ...] = get_args(Kind)
PICTURES = ("image", "depth", "thermal")  # kinds whose items of three dimensions are (channels, height, width)
KIND_OF: dict[str, Kind] = {  # ImageBind's names, in its order
    "vision": "image",
    "audio": "sound",
    "text": "text",
    "depth": "depth",
    "thermal": "thermal",
    "imu": "series",
}
MODALITIES = tuple(KIND_OF)
# Columns and keys beside the modalities: of a manifest, of a file of tensors, of an exported folder.
RESERVED = ("split", "label", "group", "present", "soft_label", "index")
NAME = re.compile(r"[a-z][a-z0-9_]*")
NAME_RULE = f"must be a-z, then a-z, 0-9 or _, and not {', '.join(RESERVED[:-1])} or {RESERVED[-1]}"


RATE = "learning_rate_"  # begins the name of a modality's own learning rate among the hyperparameters


class Modality(Strict):
    """One modality of a dataset."""

    kind: Kind = Field(description="what an item is: decides how it is read, augmented, shown and encoded")
    channels: int | None = Field(None, ge=1, description="of a series: its channels; left out: the data's")
    length: int | None = Field(
        None,
        ge=8,
        description="of a series: readings per channel. Of a longer recording the middle is taken, a shorter one is padded with "
        "its channels' means. Left out: the data's",
    )
    rate: float | None = Field(None, gt=0, description="of a series: readings per second, Hz; for its plots")

    @model_validator(mode="after")
    def _only_a_series_has_a_shape(self) -> Modality:
        for name in ("channels", "length", "rate"):
            if self.kind != "series" and getattr(self, name) is not None:
                raise ValueError(f"`{name}` is of a series only, but `kind` is {self.kind}")
        return self


def is_name(name: str) -> bool:
    """Whether a modality may have this name (`NAME_RULE`)."""
    return NAME.fullmatch(name) is not None and name not in RESERVED


def _checked(modalities: dict[str, Modality]) -> dict[str, Modality]:
    for name, modality in modalities.items():
        if not is_name(name):
            raise ValueError(f"a modality's name {NAME_RULE}, but got {name!r}")
        if name in KIND_OF and modality != Modality(kind=KIND_OF[name]):
            raise ValueError(
                f"`{name}` is ImageBind's: its kind is {KIND_OF[name]}, and it has no other key; choose another name"
            )
    return modalities


Modalities = Annotated[dict[str, Modality], AfterValidator(_checked)]


def in_order(names: Iterable[str]) -> list[str]:
    """ImageBind's names first, in its order, then all others by character."""
    given = set(names)
    return [name for name in MODALITIES if name in given] + sorted(given - set(MODALITIES))


def check_learning_rates(rates: Iterable[str], modalities: Collection[str]) -> None:
    """Raises UserError for a learning rate (`rates`: whose) of a modality that is neither among `modalities` nor one of
    ImageBind's six, whose learning rates a setting for several datasets may have."""
    for name in rates:
        if name not in modalities and name not in MODALITIES:
            known = ", ".join(modalities)
            raise UserError(f"hyperparameters.{RATE}{name}: the data have no modality {name!r} (there are: {known})")


def kind_of(modality: str, kinds: Mapping[str, str] | None = None) -> str:
    """The kind of a modality in `kinds` (modality -> kind); of ImageBind's it need not be there. Raises KeyError."""
    return KIND_OF[modality] if modality in KIND_OF else (kinds or {})[modality]


def submodule_name(modality: str) -> str:
    """What its tower is called in a `torch.nn.ModuleDict`, which refuses names such as `values`."""
    return modality if modality in KIND_OF else f"of_{modality}"
