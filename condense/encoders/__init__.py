"""Frozen encoders into a unified space. A new one takes one file here and a branch below."""

from __future__ import annotations

from collections.abc import Mapping

from condense.config import EncoderConfig, ImageBindEncoder
from condense.data.dataset import Dataset
from condense.data.inputs import InputSpec
from condense.encoders.encoder import Encoder
from condense.store import Store


def encoder_specs(config: EncoderConfig) -> Mapping[str, InputSpec]:
    """What the configured encoder takes of each modality that it knows. Raises UserError if its weights are not there."""
    if isinstance(config, ImageBindEncoder):
        from condense.encoders.imagebind import imagebind_specs

        return imagebind_specs(config)
    from condense.encoders.tiny import tiny_specs

    return tiny_specs(config)


def build_encoder(config: EncoderConfig, dataset: Dataset, store: Store | None = None) -> Encoder:
    """The frozen encoder for the modalities of `dataset`. Raises UserError if its package or its weights are not there.

    `store`: where an encoder that is trained first is kept.
    """
    if isinstance(config, ImageBindEncoder):
        from condense.encoders.imagebind import build_imagebind

        return build_imagebind(config, dataset)
    from condense.encoders.tiny import build_tiny

    return build_tiny(config, dataset, store)
