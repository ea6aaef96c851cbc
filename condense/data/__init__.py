"""Datasets to condense, loaded as three splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from condense.config.modalities import Modality
from condense.config.models import DatasetConfig, ManifestDataset, SpokenDigits
from condense.system.errors import UserError
from condense.system.process import uncollected

if TYPE_CHECKING:
    from condense.data.dataset import Dataset
    from condense.inputs.spec import InputSpec


__all__ = [
    "alike_labels",
    "content",
    "cut_texts",
    "dataset",
    "decoding",
    "file_checks",
    "file_digests",
    "folds",
    "groups",
    "load_dataset",
    "manifest",
    "manifest_rows",
    "modalities_of",
    "series_fit",
    "shared_files",
    "speech",
    "spoken_digits",
    "tensor_items",
    "tensor_parts",
    "tensor_units",
    "tensors",
]


def modalities_of(config: DatasetConfig) -> dict[str, Modality]:
    """name -> modality of the dataset that `config` names, in order: ImageBind's six first. No item is read.

    Raises UserError if its files break a rule that can be seen without.
    """
    if isinstance(config, SpokenDigits):
        return {"vision": Modality(kind="image"), "audio": Modality(kind="sound")}
    if isinstance(config, ManifestDataset):
        from condense.data.manifest import manifest_modalities

        return manifest_modalities(config)
    from condense.data.tensor_parts import read_content

    return read_content(config).modalities


def load_dataset(config: DatasetConfig, specs: Mapping[str, InputSpec]) -> Dataset:
    """Loads the dataset that `config` names, with items in the form of `specs` (modality -> input of the encoder).

    Raises UserError if its files are invalid or do not fit the encoder, or if some class has no item with some modality in
    the condense split.
    """
    with uncollected():
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

    dataset = load_tensors(config, specs)
    for modality, spec in dataset.specs.items():
        if modality not in specs:
            raise UserError(f"{config.path}: {modality}: the encoder takes only {', '.join(specs)}")
        if spec.kind != specs[modality].kind:
            raise UserError(
                f"{config.path}: {modality}: is of kind {spec.kind}, but the encoder takes "
                f"{specs[modality].kind or 'another'}"
            )
        if spec.shape != specs[modality].shape:
            raise UserError(
                f"{config.path}: {modality}: items must have the encoder's shape {specs[modality].shape}, "
                f"but got {spec.shape}"
            )
    return dataset
