"""The same picture as a file and as a tensor is the same item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from condense.config.models import TensorsDataset
from condense.data.dataset import Dataset
from condense.data.tensors import load_tensors
from condense.inputs.imagebind import CLIP_MEAN, CLIP_STD
from condense.inputs.media import read_item
from condense.inputs.spec import ImageSpec, InputSpec

SIDE = 8
CLIP = ImageSpec.of("vision", 3, SIDE, CLIP_MEAN, CLIP_STD)
PIXELS = np.random.default_rng(0).integers(0, 256, (18, SIDE, SIDE, 3), np.uint8)


def load(folder: Path, images: torch.Tensor, wanted: InputSpec = CLIP) -> Dataset:
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    content = {f"{split}/label": labels.clone() for split in ("train", "validation", "test")}
    for i, split in enumerate(("train", "validation", "test")):
        content[f"{split}/vision"] = images[6 * i : 6 * i + 6].clone()
    safetensors.torch.save_file(content, folder / "a.safetensors")
    return load_tensors(TensorsDataset(name="tensors", path=folder / "a.safetensors"), {"vision": wanted})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_whole_numbers_are_normalised_as_a_file_is(tmp_path: Path, dtype: torch.dtype) -> None:
    for i, picture in enumerate(PIXELS):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    of_files = torch.stack([read_item(CLIP, f"{i}.png", tmp_path) for i in range(len(PIXELS))])
    images = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).contiguous()
    stored = images if dtype == torch.uint8 else (images.to(torch.int32) * 257).to(dtype)
    dataset = load(tmp_path, stored)
    torch.testing.assert_close(dataset.condense.load(range(6))["vision"], of_files[:6])
    assert dataset.specs["vision"] == CLIP  # its bounds and its preview, too
    assert dataset.warnings == ()


def test_floats_are_taken_as_they_are(tmp_path: Path) -> None:
    images = torch.randn(18, 3, SIDE, SIDE)
    dataset = load(tmp_path, images)
    torch.testing.assert_close(dataset.condense.load(range(6))["vision"], images[:6])
    assert dataset.warnings == ()


def test_floats_that_look_like_pixels_are_told(tmp_path: Path) -> None:
    dataset = load(tmp_path, torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float().contiguous())
    (told,) = dataset.warnings
    assert "train/vision: floats of 0 .. 255 look like pixels" in told
    assert "store pixels as uint8" in told


def test_the_normalisation_is_a_part_of_the_fingerprint(tmp_path: Path) -> None:
    images = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).contiguous()
    half = ImageSpec.of("vision", 3, SIDE, (0.5,) * 3, (0.5,) * 3)
    assert load(tmp_path, images).fingerprint != load(tmp_path, images, half).fingerprint
