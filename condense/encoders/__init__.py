"""Frozen encoders into a unified space. A new encoder is one file: the user's own (docs/encoders.md), or one here."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from condense.config.models import EncoderConfig, ImageBindEncoder, PythonEncoder, TransformersEncoder
from condense.config.towers import AlignedEncoder
from condense.data.dataset import Dataset
from condense.encoders.protocol import Encoder
from condense.inputs.spec import InputSpec
from condense.storage.store import Store

__all__ = [
    "aligned",
    "alignment",
    "build_encoder",
    "checks",
    "download",
    "encoder_specs",
    "first_conv",
    "imagebind",
    "imagebind_checkpoint",
    "imagebind_package",
    "protocol",
    "python_file",
    "tiny",
    "tower_features",
    "towers",
    "transformers",
]


def encoder_specs(config: EncoderConfig) -> Mapping[str, InputSpec]:
    """The input of the configured encoder for each modality that it supports. Raises UserError if its weights are missing."""
    if isinstance(config, ImageBindEncoder):
        from condense.encoders.imagebind import imagebind_specs

        return imagebind_specs(config)
    if isinstance(config, TransformersEncoder):
        from condense.inputs.transformers import transformers_specs

        return transformers_specs(config)
    if isinstance(config, AlignedEncoder):
        from condense.encoders.aligned import aligned_specs

        return aligned_specs(config)
    if isinstance(config, PythonEncoder):
        from condense.encoders.python_file import python_specs

        return python_specs(config)
    from condense.encoders.tiny import tiny_specs

    return tiny_specs(config)


def build_encoder(
    config: EncoderConfig, dataset: Dataset, store: Store | None = None, device: torch.device | None = None
) -> Encoder:
    """The frozen encoder for the modalities of `dataset`. Raises UserError if its package or its weights are missing.

    `store`: keeps encoders that are pretrained here. `device`: where this may take long; by default the CPU. Trained weights
    are left wherever they are.
    """
    if isinstance(config, ImageBindEncoder):
        from condense.encoders.imagebind import build_imagebind

        return build_imagebind(config, dataset)
    if isinstance(config, TransformersEncoder):
        from condense.encoders.transformers import build_transformers

        return build_transformers(config, dataset)
    if isinstance(config, AlignedEncoder):
        from condense.encoders.aligned import build_aligned

        return build_aligned(config, dataset, store, device or torch.device("cpu"))
    if isinstance(config, PythonEncoder):
        from condense.encoders.python_file import build_python

        return build_python(config, dataset)
    from condense.encoders.tiny import build_tiny

    return build_tiny(config, dataset, store)
