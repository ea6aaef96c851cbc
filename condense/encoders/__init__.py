"""Frozen encoders into a unified space. A new encoder is one file: the user's own (docs/encoders.md), or one here."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from condense.config.modalities import MODALITIES, Modality
from condense.config.models import EncoderConfig, ImageBindEncoder, PythonEncoder, TransformersEncoder
from condense.config.towers import AlignedEncoder
from condense.data.dataset import Dataset
from condense.encoders.protocol import Encoder
from condense.inputs.spec import InputSpec
from condense.storage.store import Store
from condense.system.errors import UserError

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


def encoder_specs(config: EncoderConfig, modalities: Mapping[str, Modality] | None = None) -> Mapping[str, InputSpec]:
    """The input of the configured encoder for each modality that it supports.

    `modalities`: the dataset's (`condense.data.modalities_of`), needed for those that are not ImageBind's six.
    Raises UserError if the encoder's weights are missing, or if it takes the six only and the data have others.
    """
    others = [name for name in modalities or {} if name not in MODALITIES]
    if others and isinstance(config, ImageBindEncoder | TransformersEncoder):
        raise UserError(
            f"encoder {config.name}: takes ImageBind's names only ({', '.join(MODALITIES)}), but the data have {others[0]}: "
            "rename it, or use tiny, aligned or python"
        )
    if isinstance(config, ImageBindEncoder):
        from condense.encoders.imagebind import imagebind_specs

        return imagebind_specs(config)
    if isinstance(config, TransformersEncoder):
        from condense.inputs.transformers import transformers_specs

        return transformers_specs(config)
    if isinstance(config, AlignedEncoder):
        from condense.encoders.aligned import aligned_specs

        return aligned_specs(config, modalities)
    if isinstance(config, PythonEncoder):
        from condense.encoders.python_file import python_specs

        return python_specs(config)
    from condense.encoders.tiny import tiny_specs

    return tiny_specs(config, modalities)


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
