"""DSA's augmentation: which changes there are, how large they are, and that the generator alone decides."""

from __future__ import annotations

import math

import pytest
import torch

from condense.evaluation import augmentation
from condense.evaluation.augmentation import Draw, augment, augment_dsa, changes_for

SHAPES = {
    "vision": (3, 16, 12),
    "audio": (1, 24, 40),
    "depth": (1, 20, 36),
    "imu": (6, 50),
    "text": (24, 16),
}
IMAGE = ("colour", "crop", "cutout", "mirror", "scale", "rotate")
SPECTROGRAM = ("shift_time", "mask_time", "mask_frequency")
SENSOR = ("jitter", "gain")
CHANGES = [
    *[("vision", name) for name in IMAGE],
    *[("audio", name) for name in SPECTROGRAM],
    *[("imu", n) for n in SENSOR],
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def items(shape: tuple[int, ...], n: int = 6) -> torch.Tensor:
    return torch.randn(n, *shape, generator=generator(1))


def change(name: str, x: torch.Tensor, seed: int = 0, strength: float = 1.0) -> torch.Tensor:
    return getattr(augmentation, name)(x, Draw(generator(seed), x.device), strength)


@pytest.mark.parametrize(("modality", "name"), CHANGES)
def test_a_change_keeps_the_shape_and_is_drawn_per_item_from_the_generator(modality, name):
    x = items(SHAPES[modality], 40)[:1].expand(40, *SHAPES[modality]).contiguous()
    state = torch.get_rng_state()
    changed = change(name, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert changed.shape == x.shape and changed.dtype == x.dtype
    assert bool(changed.isfinite().all())
    assert torch.equal(changed, change(name, x))
    assert not torch.equal(changed, change(name, x, seed=1))
    assert any(not torch.equal(changed[0], other) for other in changed[1:])


@pytest.mark.parametrize(("modality", "name"), CHANGES)
def test_without_strength_nothing_changes(modality, name):
    x = items(SHAPES[modality])
    torch.testing.assert_close(change(name, x, strength=0.0), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("modality", "name"), CHANGES)
def test_with_strength_something_changes(modality, name):
    x = items(SHAPES[modality], 20)
    assert not torch.allclose(change(name, x), x, atol=1e-2)


@pytest.mark.parametrize("call", [augment, augment_dsa])
def test_a_batch_keeps_its_shapes_and_its_seed_gives_the_same_bits(call):
    batch = {m: items(shape) for m, shape in SHAPES.items()} | {"thermal": items((2, 1, 8, 8))}
    kept = {m: x.clone() for m, x in batch.items()}
    state = torch.get_rng_state()
    first, again = call(batch, generator(5)), call(batch, generator(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.keys() == batch.keys()
    for m, x in batch.items():
        assert first[m].shape == x.shape
        assert torch.equal(first[m], again[m])
        assert torch.equal(x, kept[m])  # the batch itself is left alone
    assert torch.equal(first["text"], batch["text"])


def test_without_strength_a_batch_stays():
    batch = {m: items(shape) for m, shape in SHAPES.items()}
    for seed in range(12):
        for m, x in augment_dsa(batch, generator(seed), flip=True, strength=0.0).items():
            torch.testing.assert_close(x, batch[m], atol=1e-5, rtol=1e-5)


def names(kind: str, sides: int, flip: bool = False) -> tuple[str, ...]:
    return tuple(each.__name__ for each in changes_for(kind, sides, flip))


def test_which_changes_there_are():
    assert names("image", 2, flip=True) == IMAGE
    assert names("image", 2) == tuple(name for name in IMAGE if name != "mirror")  # digits must not be mirrored
    assert names("depth", 2) == names("thermal", 2) == ("crop", "cutout", "scale", "rotate")
    assert names("sound", 2) == SPECTROGRAM
    assert names("series", 1) == names("sound", 1) == SENSOR
    assert names("text", 1, flip=True) == ()


def test_one_change_is_drawn_per_batch_and_every_one_is():
    """On a constant image colour keeps it constant, cutout leaves zeros and ones, a crop zeros at the edge alone."""
    ones = {"vision": torch.ones(8, 1, 16, 16)}
    seen = set()
    for seed in range(60):
        x = augment_dsa(ones, generator(seed))["vision"]
        flat = x.flatten(1)
        if bool((flat.amax(1) == flat.amin(1)).all()) and not torch.equal(x, ones["vision"]):
            seen.add("colour")
        elif set(x.unique().tolist()) == {0.0, 1.0}:
            seen.add("cutout" if bool((x[:, :, 3:-3, 3:-3] == 0).any()) else "crop")
        else:
            seen.add("scale or rotate")
    assert seen == {"colour", "cutout", "crop", "scale or rotate"}


def test_sizes_are_the_published_ones():
    n = 400
    ramp = torch.linspace(-1, 1, 33).expand(
        n, 1, 33, 33
    )  # value = place in the grid of affine_grid, but for its pixels
    across = change("scale", ramp)[:, 0, 16]  # (n, 33): through the centre
    factors = (across[:, 18] - across[:, 14]) / (ramp[0, 0, 0, 18] - ramp[0, 0, 0, 14])
    assert 1 / 1.2 - 1e-3 <= float(factors.min()) < 0.85
    assert 1.18 < float(factors.max()) <= 1.2 + 1e-3

    turned = change("rotate", ramp)[:, 0]
    angles = torch.atan2(turned[:, 18, 16] - turned[:, 14, 16], turned[:, 16, 18] - turned[:, 16, 14]) * 180 / math.pi
    assert 14 < float(angles.abs().max()) <= 15 + 1e-2
    assert abs(float(angles.mean())) < 2

    ones = torch.ones(n, 1, 16, 24)
    moved = change("crop", ones)
    lost = (moved[:, 0, 8] == 0).sum(1)  # columns
    assert int(lost.max()) == 3  # 24 / 8
    assert int((moved[:, 0, :, 12] == 0).sum(1).max()) == 2
    gone = (change("cutout", ones) == 0).flatten(1).sum(1)
    assert int(gone.max()) == 8 * 12
    assert int(gone.min()) >= 4 * 6  # the centre is inside the image

    flipped = change("mirror", torch.arange(24.0).expand(n, 1, 16, 24))
    assert 0.4 < float((flipped[:, 0, 0, 0] == 23).float().mean()) < 0.6

    shade = change("colour", torch.zeros(n, 1, 4, 4))[:, 0, 0, 0]  # brightness alone
    assert 0.48 < float(shade.max()) <= 0.5 and -0.5 <= float(shade.min()) < -0.48
    x = items((3, 16, 16), 1).expand(n, 3, 16, 16)
    pure = x - x.mean((1, 2, 3), keepdim=True)
    grey = pure.mean(1, keepdim=True)
    changed = change("colour", x)
    changed = changed - changed.mean((1, 2, 3), keepdim=True)
    contrast = (changed.mean(1, keepdim=True) * grey).flatten(1).sum(1) / grey.square().flatten(1).sum(1)
    assert 0.5 <= float(contrast.min()) < 0.52 and 1.48 < float(contrast.max()) <= 1.5 + 1e-3
    own = pure - grey
    saturation = ((changed - changed.mean(1, keepdim=True)) * own).flatten(1).sum(1)
    saturation = saturation / own.square().flatten(1).sum(1) / contrast
    assert 0 <= float(saturation.min()) + 1e-4 < 0.05 and 1.95 < float(saturation.max()) <= 2 + 1e-3


def test_spectrograms_and_sensors():
    n = 300
    place = torch.arange(1.0, 41.0).expand(n, 1, 24, 40)
    moves = (change("shift_time", place) - place)[:, 0, 0]
    assert float(moves.abs().max()) == 5  # 40 / 8
    assert float(change("shift_time", place).min()) >= 1  # edges are repeated: nothing is 0
    ones = torch.ones(n, 1, 24, 40)
    assert int((change("mask_time", ones)[:, 0, 0] == 0).sum(1).max()) == 10
    assert int((change("mask_frequency", ones)[:, 0, :, 0] == 0).sum(1).max()) == 6
    masked = change("mask_frequency", ones)[:, 0]
    assert torch.equal(masked.amin(2), masked.amax(2))  # whole bands
    x = items((2, 500), 50)
    assert float((change("jitter", x) - x).std()) == pytest.approx(0.05, rel=0.05)
    factors = (change("gain", x) / x)[..., 0]
    assert float(factors.std()) == pytest.approx(0.1, rel=0.2)


def test_what_an_item_lacks_stays_zero():
    vision = items((3, 8, 8))
    vision[2] = 0
    for seed in range(10):
        changed = augment_dsa({"vision": vision}, generator(seed))["vision"]
        assert not bool(changed[2].any())
        assert bool(changed[1].any())


def test_the_clips_of_an_item_change_together():
    one = items((1, 24, 40))[:, None]  # (B, 1, 1, 24, 40)
    clips = one.expand(-1, 3, 1, 24, 40)
    for seed in range(6):
        changed = augment_dsa({"audio": clips}, generator(seed))["audio"]
        assert changed.shape == clips.shape
        assert torch.equal(changed[:, 0], changed[:, 1])
