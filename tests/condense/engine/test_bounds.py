"""Items stay where an encoder's input can be: each colour between black and white, whatever the steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from small_problem import CLASSES
from torch import Tensor

from condense.config.models import Hyperparameters, TinyEncoder
from condense.data.dataset import Dataset, MemorySplit
from condense.embeddings.embeddings import embed_split
from condense.embeddings.task import Task
from condense.encoders.tiny import build_tiny, tiny_specs
from condense.engine.engine import Engine
from condense.engine.replica_batch import ReplicaBatch
from condense.inputs.imagebind import CLIP_MEAN, CLIP_STD, file_specs
from condense.inputs.spec import ArraySpec, ImageSpec, InputSpec
from condense.inputs.transformers import ProcessedImageSpec
from condense.method.condensation import Condensation, initial_inputs

TOWERS = TinyEncoder(pretraining="none", dim=8, width=4, image_size=8, image_channels=3)


def task_of(spec: ImageSpec) -> Task:
    """Pictures at random, of classes that differ in their brightness, and sounds."""
    generator = torch.Generator().manual_seed(0)
    specs = {"vision": spec, "audio": tiny_specs(TOWERS)["audio"]}
    labels = torch.arange(CLASSES).repeat(8)
    splits = []
    for _ in range(2):
        pixels = torch.rand(len(labels), *spec.shape, generator=generator)
        pixels = (pixels + labels[:, None, None, None]) / CLASSES
        sounds = torch.randn(len(labels), *specs["audio"].shape, generator=generator)
        splits.append(MemorySplit({"vision": spec.normalize(pixels), "audio": sounds}, labels))
    names = tuple(f"class {c}" for c in range(CLASSES))
    dataset = Dataset("colours", specs, names, splits[0], splits[1], splits[1], f"colours {spec}")
    encoder, device = build_tiny(TOWERS, dataset), torch.device("cpu")
    embedded = [embed_split(encoder, split, device) for split in splits]
    return Task(dataset, encoder, embedded[0], embedded[1], device)


def condensed(task: Task, **options: Any) -> dict[str, Tensor]:
    h = Hyperparameters(**{"num_frequencies": 8, "frequency_pool": 16, "learning_rate": 1e4, **options})
    replica = Condensation(task, 2, "random", h, 0, 4)
    Engine().run([replica], 4)
    return replica.inputs


def pixels_of(spec: ImageSpec, items: Tensor) -> Tensor:
    """(n, 3, H, W) in the model's units -> in [0, 1] where it can be shown; not clamped."""
    return items * torch.tensor(spec.std)[:, None, None] + torch.tensor(spec.mean)[:, None, None]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_no_colour_leaves_its_gamut(optimizer: str) -> None:
    spec = ImageSpec.of("vision", 3, 8, CLIP_MEAN, CLIP_STD)
    items = condensed(task_of(spec), optimizer=optimizer)["vision"]
    pixels = pixels_of(spec, items)
    assert items.min() < -1.7 and items.max() > 1.9  # the steps were large enough to be stopped
    for channel in range(3):
        assert -1e-6 < pixels[:, channel].min() < 0.01, channel
        assert 0.99 < pixels[:, channel].max() < 1 + 1e-6, channel


def test_noise_is_in_the_gamut() -> None:
    spec = ImageSpec.of("vision", 3, 8, CLIP_MEAN, CLIP_STD)
    noise = initial_inputs(task_of(spec), 20, "noise", torch.Generator().manual_seed(0))["vision"]
    pixels = pixels_of(spec, noise)
    assert pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6
    assert (pixels.amin((0, 2, 3)) < 1e-6).all() and (pixels.amax((0, 2, 3)) > 1 - 1e-6).all()


def test_where_channels_do_not_differ_nothing_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the clamp that there was: a spec's `low` and `high`."""
    task = task_of(ImageSpec.of("vision", 3, 8, (0.45,) * 3, (0.27,) * 3))
    ours, start = condensed(task), initial_inputs(task, 2, "noise", torch.Generator().manual_seed(0))
    lay_out = ReplicaBatch._lay_out

    def plain(batch: ReplicaBatch, m: str, members: list[Condensation]) -> None:
        lay_out(batch, m, members)
        assert all(isinstance(bound, float) for bound in batch.range[m])
        batch.range[m] = (task.dataset.specs[m].low, task.dataset.specs[m].high)

    monkeypatch.setattr(ReplicaBatch, "_lay_out", plain)
    torch.testing.assert_close(condensed(task), ours, atol=0, rtol=0)
    monkeypatch.setattr(InputSpec, "bounds", lambda spec: (spec.low, spec.high))
    again = initial_inputs(task, 2, "noise", torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, start, atol=0, rtol=0)


def test_bounds_are_those_of_black_and_white() -> None:
    specs = file_specs()
    low, high = specs["vision"].bounds()
    vision = specs["vision"]
    assert isinstance(vision, ImageSpec)
    assert low.shape == high.shape == (3, 1, 1)
    torch.testing.assert_close(low, vision.normalize(torch.zeros(3, 1, 1)))
    torch.testing.assert_close(high, vision.normalize(torch.ones(3, 1, 1)))
    assert (low.min().item(), high.max().item()) == pytest.approx((vision.low, vision.high))
    processed = ProcessedImageSpec(
        "vision", (3, 8, 6), vision.low, vision.high, vision.mean, vision.std, resize=(8, 6), resampling=3
    )
    assert all(torch.equal(a, b) for a, b in zip(processed.bounds(), (low, high), strict=True))
    for name in ("audio", "depth", "thermal", "imu"):
        assert [x.item() for x in specs[name].bounds()] == pytest.approx([specs[name].low, specs[name].high])
    assert [x.tolist() for x in ArraySpec("depth", (2, 3), -1.0, 2.0).bounds()] == [-1.0, 2.0]
    narrow = dataclasses.replace(vision, low=-1.0, high=1.0).bounds()  # a range of one's own holds as well
    assert (narrow[0] == -1).all() and (narrow[1] == 1).all()


def test_what_a_cache_is_named_by_is_as_it_was() -> None:
    described = ImageSpec.of("vision", 3, 8, CLIP_MEAN, CLIP_STD).describe()
    assert set(described) == {"kind", "modality", "shape", "low", "high", "mean", "std"}
    assert (described["low"], described["high"]) == pytest.approx((-1.7923, 2.1459), abs=1e-4)
