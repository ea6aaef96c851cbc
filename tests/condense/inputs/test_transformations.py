"""Transformations: fixed, differentiable, the same for an item whoever is with it, inside of the range."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from condense.inputs.spec import ArraySpec, ImageSpec, InputSpec, LogMelSpec, TextSpec
from condense.inputs.transformations import Transformation

SPECS: dict[str, InputSpec] = {
    "vision": ImageSpec.of("vision", 3, 16, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)),
    "depth": ArraySpec("depth", (1, 16, 16), -1.0, 1.0),
    "audio": LogMelSpec.of(16, 20),
    "imu": ArraySpec("imu", (6, 12), -3.0, 3.0),
    "text": TextSpec.of(30, 4),
}


def items(n: int = 5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for m, spec in SPECS.items():
        low, high = spec.bounds()
        found[m] = low + (high - low) * torch.rand(n, *spec.shape, generator=generator)
    text = SPECS["text"]
    assert isinstance(text, TextSpec)
    found["text"] = torch.stack([text.encode("a sentence of some length"[: 5 + 4 * i]) for i in range(n)])
    return found


@pytest.mark.parametrize("index", range(6))
def test_an_item_is_changed_the_same_way_whoever_is_with_it(index: int) -> None:
    x = items()
    t = Transformation(SPECS, index)
    for m in SPECS:
        together = t(m, x[m])
        assert together.shape == x[m].shape
        assert torch.equal(together, torch.cat([t(m, one) for one in x[m].split(1)])), m
        assert torch.equal(together, Transformation(SPECS, index)(m, x[m])), m  # nothing is drawn anew
        low, high = SPECS[m].bounds()
        assert bool(((together >= low) & (together <= high)).all()), m


def test_transformations_differ_and_change_something() -> None:
    x = items()
    for m in SPECS:
        found = [Transformation(SPECS, i)(m, x[m]) for i in range(6)]
        changed = [bool((y != x[m]).any()) for y in found]
        assert all(changed) if m != "text" else any(changed), m
        assert not torch.equal(found[0], found[1]) or m == "text", m


@pytest.mark.parametrize("modality", [m for m in SPECS if m != "text"])
@pytest.mark.parametrize("index", range(4))
def test_gradient_is_that_of_finite_differences(modality: str, index: int) -> None:
    """Along a random direction, in float64, well inside of the range."""
    t = Transformation({modality: SPECS[modality]}, index)
    x = (0.2 * items(2)[modality]).double()
    generator = torch.Generator().manual_seed(index)
    weight = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (t(modality, leaf) * weight).sum().backward()
    assert leaf.grad is not None
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    step = 1e-5
    values = [(t(modality, x + side * step * direction) * weight).sum().item() for side in (1, -1)]
    numeric = (values[0] - values[1]) / (2 * step)
    assert (leaf.grad * direction).sum().item() == pytest.approx(numeric, rel=1e-4, abs=1e-6)


def test_images_are_mirrored_only_if_the_data_allows_it() -> None:
    x = torch.zeros(1, 3, 16, 16) + torch.linspace(-1, 1, 16)  # brighter to the right
    slopes = {
        mirror: [
            (y[..., 12].mean() - y[..., 4].mean()).item() > 0
            for y in (Transformation(SPECS, i, mirror)("vision", x) for i in range(12))
        ]
        for mirror in (False, True)
    }
    assert all(slopes[False])
    assert 2 <= slopes[True].count(False) <= 10


def test_text_keeps_its_ends() -> None:
    """Only tokens between the first and the end take another's place: that of the one before."""
    x = items()["text"]
    for index in range(8):
        y = Transformation(SPECS, index)("text", x)
        for before, after in zip(x, y, strict=True):
            length = int((before != 0).any(1).sum())  # with the end
            moved = (before != after).any(1).nonzero().flatten().tolist()
            assert all(1 < place < length - 1 for place in moved)
            assert all(torch.equal(after[place], before[place - 1]) for place in moved)
