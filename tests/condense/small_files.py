"""A small dataset on disk, and what goes with it: for tests of commands and of the API."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

ENCODER = {"name": "tiny", "pretraining": "none", "dim": 8, "width": 4, "image_size": 8}
HYPERPARAMETERS = {"num_frequencies": 16, "frequency_pool": 32, "learning_rate": 3}
CLASSES = 3


def write_tensors(path: Path, seed: int = 0) -> None:
    """3 classes, 8 items of each to train and 4 to test: a pattern each, under noise."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"vision": (1, 8, 8), "audio": (1, 32, 32)}
    patterns = {m: torch.randn(CLASSES, *shape, generator=generator) for m, shape in shapes.items()}
    content = {}
    for split, count in (("train", 8), ("test", 4)):
        labels = torch.arange(CLASSES).repeat(count)
        for m, pattern in patterns.items():
            noise = torch.randn(len(labels), *shapes[m], generator=generator)
            content[f"{split}/{m}"] = pattern[labels] + 0.3 * noise
        content[f"{split}/label"] = labels
    safetensors.torch.save_file(content, path)
