"""`tiny`'s convolutional tower, for a modality without a pretrained model. It is trained together with the heads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from condense.config.modalities import Modality
from condense.config.models import TinyEncoder
from condense.config.towers import TinyTower
from condense.encoders.tiny import Tower as Convolutions
from condense.encoders.tiny import initialize, tiny_specs
from condense.encoders.towers.protocol import Tower
from condense.inputs.spec import InputSpec
from condense.storage.store import hash_of
from condense.system.errors import UserError

VERSION = 1


def tiny_tower_spec(
    config: TinyTower, modality: str, key: str, modalities: Mapping[str, Modality] | None = None
) -> InputSpec:
    """The input that `tiny` has for the modality. Raises UserError if it has none."""
    known = tiny_specs(TinyEncoder(image_size=config.image_size, image_channels=config.image_channels), modalities)
    if modality not in known:
        raise UserError(f"{key}: tiny has no tower for {modality!r}: must be one of {', '.join(known)}")
    return known[modality]


class TinyConvolutions(Tower):
    """(n, *shape) -> (n, dim) of unit norm. The fingerprint is of the configuration, until the weights are known."""

    trained_with_heads = True

    def __init__(self, config: TinyTower, spec: InputSpec, seed: int) -> None:
        super().__init__()
        self.width = config.dim
        with torch.random.fork_rng(devices=[]):  # modules draw from the global generator when they are made
            self.convolutions = Convolutions(spec, config.width, config.dim)
        initialize(self.convolutions, torch.Generator().manual_seed(seed))
        self.fingerprint = hash_of({"version": VERSION, "tower": config.model_dump(mode="json"), "seed": seed})

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.convolutions(inputs)
        return features
