"""Frozen encoders into a unified space. A new one takes one file: the user's own (docs/encoders.md), or one here."""

from __future__ import annotations

from collections.abc import Mapping

from condense.config import EncoderConfig, PythonEncoder, TransformersEncoder
from condense.data.dataset import Dataset
from condense.data.inputs import InputSpec
from condense.encoders.encoder import Encoder
from condense.store import Store


def encoder_specs(config: EncoderConfig) -> Mapping[str, InputSpec]:
    """What the configured encoder takes of each modality that it knows."""
    if isinstance(config, TransformersEncoder):
        from condense.encoders.transformers_inputs import transformers_specs

        return transformers_specs(config)
    if isinstance(config, PythonEncoder):
        from condense.encoders.python_file import python_specs

        return python_specs(config)
    from condense.encoders.tiny import tiny_specs

    return tiny_specs(config)


def build_encoder(config: EncoderConfig, dataset: Dataset, store: Store) -> Encoder:
    """The frozen encoder for the modalities of `dataset`."""
    if isinstance(config, TransformersEncoder):
        from condense.encoders.transformers_encoders import build_transformers

        return build_transformers(config, dataset)
    if isinstance(config, PythonEncoder):
        from condense.encoders.python_file import build_python

        return build_python(config, dataset)
    from condense.encoders.tiny import build_tiny

    return build_tiny(config, dataset, store)
