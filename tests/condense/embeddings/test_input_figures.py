"""A modality that says nothing is told before anything is condensed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from condense.config.models import ManifestDataset, TinyEncoder
from condense.data import modalities_of
from condense.data.dataset import Dataset, MemorySplit
from condense.data.manifest import load_manifest
from condense.embeddings.embeddings import load_embedded
from condense.embeddings.input_figures import figures, modality_warnings
from condense.encoders import build_encoder, encoder_specs
from condense.inputs.spec import ImageSpec
from condense.storage.store import Store

CPU = torch.device("cpu")
ENCODER = TinyEncoder(pretraining="none", width=4, dim=8, image_size=8)
COUNT = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Noise: 0.png, 0.wav ... in a manifest."""
    generator = np.random.default_rng(0)
    rows = ["split,label,vision,audio,text"]
    for i in range(COUNT):
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        soundfile.write(tmp_path / f"{i}.wav", generator.uniform(-0.5, 0.5, 8000), 16_000)
        split = "train" if i < 12 else "validation" if i < 16 else "test"
        rows.append(f"{split},{'ab'[i % 2]},{i}.png,{i}.wav,text {i}")
    (tmp_path / "items.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def loaded(folder: Path) -> Dataset:
    config = ManifestDataset(name="manifest", path=folder / "items.csv")
    return load_manifest(config, encoder_specs(ENCODER, modalities_of(config)))


def told(folder: Path) -> list[str]:
    store, dataset = Store(folder / "cache"), loaded(folder)
    encoder = build_encoder(ENCODER, dataset, store, CPU)
    found = []
    for _ in range(2):  # computed, then read from the store
        known = load_embedded(dataset, encoder, "condense", store, CPU)
        found.append(modality_warnings("items.csv", encoder.specs, dataset.condense, known.embeddings, known.figures))
    assert found[0] == found[1]
    return found[0]


def test_of_sound_data_nothing_is_said(folder: Path) -> None:
    assert told(folder) == []


def test_silence_is_told_with_its_share_and_an_example(folder: Path) -> None:
    for i in (3, 5, 7):
        soundfile.write(folder / f"{i}.wav", np.zeros(8000), 16_000)
    (line,) = told(folder)
    assert line == "items.csv: audio: 3 of 12 items (25 %) are silent, such as row 5: is that what they hold?"


def test_a_silent_left_channel_is_no_silence(folder: Path) -> None:
    for i in range(COUNT):
        wave, rate = soundfile.read(folder / f"{i}.wav")
        soundfile.write(folder / f"{i}.wav", np.stack([0 * wave, wave], 1), rate)
    assert told(folder) == []


def test_black_pictures_and_equal_texts_are_told(folder: Path) -> None:
    for i in range(COUNT):
        Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
    text = (folder / "items.csv").read_text()
    (folder / "items.csv").write_text(re.sub(r"text \d+", "same", text))
    pictures, texts = told(folder)
    assert "vision: 12 of 12 items (100 %) are the same value everywhere, such as row 2" in pictures
    assert "text: 12 of 12 items (100 %) are alike, such as row 2" in texts


def test_far_out_of_range_is_told() -> None:
    spec = ImageSpec.of("vision", 1, 8, (0.5,), (0.5,))
    generator = torch.Generator().manual_seed(0)
    pixels: Tensor = 255 * torch.rand(30, 1, 8, 8, generator=generator)
    split = MemorySplit({"vision": pixels}, torch.arange(30) % 2)
    embeddings = {"vision": torch.nn.functional.normalize(torch.randn(30, 8, generator=generator), dim=1)}

    def lines(x: Tensor) -> list[str]:
        return modality_warnings("mine", {"vision": spec}, split, embeddings, {"vision": figures(x)})

    (line,) = lines(pixels)
    assert "30 of 30 items (100 %) are far outside of -1 .. 1, what the encoder takes, such as item 0" in line
    assert lines(pixels / 255) == []
    assert modality_warnings("mine", {"vision": spec}, split, embeddings, {}) == []  # of an earlier version's cache
