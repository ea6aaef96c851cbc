"""Multi-formation: what is stored in an item and what comes out of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from condense.inputs.formation import check_formation, formed, items_in_each, parts, parts_of, stored_from
from condense.inputs.spec import ArraySpec, ImageSpec, LogMelSpec, TextSpec

SPECS = {
    "vision": ImageSpec.of("vision", 3, 8, (0.5,) * 3, (0.5,) * 3),
    "audio": LogMelSpec.of(6, 10),
    "imu": ArraySpec("imu", (6, 12), -3.0, 3.0),
    "text": TextSpec.of(5, 4),
}
CLIPS = ArraySpec("audio", (3, 1, 6, 10), -1.0, 1.0)


def some(n: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(n, *spec.shape, generator=generator) for m, spec in SPECS.items()}


def test_an_image_holds_four_and_a_sound_two() -> None:
    assert {m: parts_of(spec, 2) for m, spec in SPECS.items()} == {"vision": 4, "audio": 2, "imu": 2, "text": 1}
    assert parts_of(CLIPS, 3) == 3
    assert items_in_each(SPECS, 2) == 4
    assert items_in_each({"audio": SPECS["audio"], "text": SPECS["text"]}, 2) == 2


def test_parts_are_the_corners_enlarged() -> None:
    x = some(2)["vision"]
    found = parts(SPECS["vision"], x, 2).view(2, 4, 3, 8, 8)
    for i, (rows, columns) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        corner = x[:, :, rows : rows + 4, columns : columns + 4]
        assert torch.equal(found[:, i], F.interpolate(corner, (8, 8), mode="bilinear"))
    sound = some(2)["audio"]
    halves = parts(SPECS["audio"], sound, 2).view(2, 2, 1, 6, 10)
    assert torch.equal(halves[:, 1], F.interpolate(sound[..., 5:], (6, 10), mode="bilinear"))


def test_modalities_meet_in_turn() -> None:
    stored = some(3)
    items = formed(SPECS, stored, 2)
    assert {m: len(x) for m, x in items.items()} == dict.fromkeys(SPECS, 12)
    audio = items["audio"].view(3, 4, 1, 6, 10)
    assert torch.equal(audio[:, 0], audio[:, 2])
    assert torch.equal(audio[:, 1], audio[:, 3])
    assert not torch.equal(audio[:, 0], audio[:, 1])
    assert torch.equal(items["text"], stored["text"].repeat_interleave(4, 0))


@given(factor=st.integers(1, 4), n=st.integers(1, 3), value=st.floats(-1, 1, width=32))
def test_what_is_constant_survives(factor: int, n: int, value: float) -> None:
    """Also where a side cannot be divided by the factor."""
    count = items_in_each(SPECS, factor)
    level = torch.linspace(-1, 1, n * count) * value
    items = {m: level.view(-1, *[1] * len(s.shape)).expand(-1, *s.shape).clone() for m, s in SPECS.items()}
    back = formed(SPECS, stored_from(SPECS, items, factor), factor)
    for m, x in back.items():
        own = level.view(n, count)[:, torch.arange(count) % parts_of(SPECS[m], factor)].reshape(-1)
        torch.testing.assert_close(x, own.view(-1, *[1] * (x.ndim - 1)).expand_as(x), atol=1e-6, rtol=0)


def test_a_factor_of_one_changes_nothing() -> None:
    stored = some(2)
    assert all(torch.equal(x, stored[m]) for m, x in formed(SPECS, stored, 1).items())
    assert all(torch.equal(x, stored[m]) for m, x in stored_from(SPECS, stored, 1).items())


def test_clips_are_cut_in_time() -> None:
    x = torch.randn(2, *CLIPS.shape)
    halves = parts(CLIPS, x, 2).view(2, 2, 3, 1, 6, 10)
    assert torch.equal(halves[1, 1, 2], F.interpolate(x[1:2, 2, :, :, 5:], (6, 10), mode="bilinear")[0])


def test_parts_smaller_than_a_value_are_refused() -> None:
    check_formation(SPECS, 4)
    with pytest.raises(ValueError, match="formation must be at most 2, a side of imu, but got 3"):
        check_formation({"imu": ArraySpec("imu", (6, 2), -1.0, 1.0)}, 3)
