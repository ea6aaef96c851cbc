"""Towers of an `aligned` encoder: each maps the inputs of one modality to features. A new kind is one file here."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from condense.config.modalities import Modality
from condense.config.towers import EfficientNetLite0Tower, PythonTower, TowerConfig, TransformersTower
from condense.data.dataset import Dataset
from condense.encoders.checks import check_map
from condense.encoders.towers.protocol import Tower
from condense.inputs.spec import InputSpec

__all__ = [
    "build_tower",
    "efficientnet_lite0",
    "protocol",
    "python_file",
    "tiny",
    "tower_spec",
    "transformers",
]

CLOSE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # of an item's norm: what rounding may change with the batch


def tower_spec(
    config: TowerConfig, modality: str, key: str, modalities: Mapping[str, Modality] | None = None
) -> InputSpec:
    """The tower's input for the modality. `key`: where it is configured. `modalities`: the dataset's.

    Raises UserError if its files are missing.
    """
    if isinstance(config, TransformersTower):
        from condense.inputs.single_models import single_model_spec

        return single_model_spec(config, modality, key)
    if isinstance(config, EfficientNetLite0Tower):
        from condense.encoders.towers.efficientnet_lite0 import efficientnet_spec

        return efficientnet_spec(config, modality)
    if isinstance(config, PythonTower):
        from condense.encoders.towers.python_file import python_tower_spec

        return python_tower_spec(config, modality, key)
    from condense.encoders.towers.tiny import tiny_tower_spec

    return tiny_tower_spec(config, modality, key, modalities)


def build_tower(
    config: TowerConfig, modality: str, dataset: Dataset, precision: torch.dtype, seed: int, key: str
) -> Tower:
    """The tower, tested on random items, and frozen unless it is trained with the heads. Raises UserError, one line."""
    spec = dataset.specs[modality]
    tower: Tower
    if isinstance(config, TransformersTower):
        from condense.encoders.towers.transformers import build_transformers_tower

        tower = build_transformers_tower(config, spec, precision, key)
    elif isinstance(config, EfficientNetLite0Tower):
        from condense.encoders.towers.efficientnet_lite0 import build_efficientnet

        tower = build_efficientnet(config, precision)
    elif isinstance(config, PythonTower):
        from condense.encoders.towers.python_file import build_python_tower

        tower = build_python_tower(config, modality, spec, dataset, precision, key)
    else:
        from condense.encoders.towers.tiny import TinyConvolutions

        return TinyConvolutions(config, spec, seed)
    tower.requires_grad_(False).eval()
    tower.width = check_map(f"{key} ({config.kind})", tower, spec, None, unit=False, close=CLOSE[precision])
    return tower
