"""Datasets to condense, loaded as three splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from condense.config.models import DatasetConfig, ManifestDataset, SpokenDigits
from condense.system.errors import UserError

if TYPE_CHECKING:
    from condense.data.dataset import Dataset
    from condense.inputs.spec import InputSpec


__all__ = [
    "dataset",
    "decoding",
    "load_dataset",
    "manifest",
    "speech",
    "spoken_digits",
    "tensors",
]


def load_dataset(config: DatasetConfig, specs: Mapping[str, InputSpec]) -> Dataset:
    """Loads the dataset that `config` names, with items in the form of `specs` (modality -> input of the encoder).

    Raises UserError if its files are invalid or do not fit the encoder, or if some class has no item with some modality in
    the condense split.
    """
    dataset = _load(config, specs)
    dataset.check_modalities()
    return dataset


def _load(config: DatasetConfig, specs: Mapping[str, InputSpec]) -> Dataset:
    # Imported here: each needs libraries (decoders, speech synthesis) that the others do not.
    if isinstance(config, SpokenDigits):
        from condense.data.spoken_digits import load_spoken_digits

        return load_spoken_digits(config, specs)
    if isinstance(config, ManifestDataset):
        from condense.data.manifest import load_manifest

        return load_manifest(config, specs)
    from condense.data.tensors import load_tensors

    dataset = load_tensors(config)
    for modality, spec in dataset.specs.items():
        if modality not in specs:
            raise UserError(f"{config.path}: {modality}: the encoder takes only {', '.join(specs)}")
        if spec.shape != specs[modality].shape:
            raise UserError(
                f"{config.path}: {modality}: items must have the encoder's shape {specs[modality].shape}, "
                f"but got {spec.shape}"
            )
    return dataset
