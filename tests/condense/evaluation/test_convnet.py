"""Training from scratch on a toy problem, and that a seed is all that a result depends on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from condense.data.dataset import MemorySplit
from condense.evaluation.augmentation import augment
from condense.evaluation.convnet import convnet_accuracies, train_from_scratch
from condense.evaluation.network_protocol import FAST
from condense.evaluation.networks import ConvNet

CPU = torch.device("cpu")
SHAPES = {
    "vision": (3, 32, 32),
    "audio": (1, 128, 204),
    "depth": (1, 20, 36),
    "imu": (6, 200),
    "text": (24, 16),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bars(seed: int, n: int, side: int = 16) -> MemorySplit:
    """Four classes: vision says whether a bar lies or stands, audio whether a dot is in its left or right half."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    vision, audio = 0.3 * rng.normal(size=(2, n, 1, side, side))
    for i, label in enumerate(labels):
        row, column = rng.integers(3, side - 3, 2)
        if label % 2:
            vision[i, 0, row] += 1
        else:
            vision[i, 0, :, row] += 1
        audio[i, 0, row, (column - 3) // 2 + (side // 2 if label >= 2 else 0)] += 4
    inputs = {"vision": torch.tensor(vision).float(), "audio": torch.tensor(audio).float()}
    return MemorySplit(inputs, torch.tensor(labels))


def test_both_modalities_are_learnt_from_a_small_set():
    items = bars(0, 64)
    model = train_from_scratch(items, 4, 0, CPU, steps=60, augmentation=False)
    untrained = train_from_scratch(items, 4, 0, CPU, steps=0)
    trained_one, untrained_one = convnet_accuracies([model, untrained], bars(1, 200), CPU)
    assert trained_one > 0.75  # chance 0.25; either modality alone 0.5
    assert untrained_one < 0.5


@pytest.mark.parametrize("augmentation", [True, False])
def test_a_result_depends_on_its_seed_alone(augmentation):
    items = bars(0, 12)
    state = torch.get_rng_state()
    weights = []
    for global_seed, seed in ((0, 5), (1, 5), (0, 6)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        model = train_from_scratch(items, 4, seed, CPU, steps=3, batch_size=8, augmentation=augmentation)
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.set_rng_state(state)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("modalities", [*[(m,) for m in SHAPES], tuple(SHAPES)])
def test_any_modalities_and_shapes(modalities):
    shapes = {m: SHAPES[m] for m in modalities}
    model = ConvNet(shapes, 7, generator())
    inputs = {m: torch.randn(2, *shape, generator=generator()) for m, shape in shapes.items()}
    logits = model(inputs)
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_items_of_a_batch_do_not_affect_each_other():
    inputs = bars(0, 6).inputs
    model = ConvNet({m: x.shape[1:] for m, x in inputs.items()}, 4, generator()).eval()
    together = model(inputs)
    alone = torch.cat([model({m: x[i : i + 1] for m, x in inputs.items()}) for i in range(6)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_accuracy_does_not_depend_on_the_batch_size():
    items = bars(0, 25)
    models = [train_from_scratch(items, 4, seed, CPU, steps=2) for seed in (0, 1)]
    direct = [float((model(items.inputs).argmax(1) == items.labels).float().mean()) for model in models]
    for batch_size in (1, 7, 100):
        assert convnet_accuracies(models, items, CPU, batch_size) == pytest.approx(direct)


def flat(model: ConvNet) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("augmentation", [True, False])
def test_one_hot_targets_are_the_labels(augmentation):
    items = bars(0, 12)
    given = {"steps": 6, "batch_size": 8, "augmentation": augmentation}
    hard = flat(train_from_scratch(items, 4, 5, CPU, **given))
    one_hot = torch.nn.functional.one_hot(items.labels, 4).double()
    torch.testing.assert_close(flat(train_from_scratch(items, 4, 5, CPU, one_hot, **given)), hard, atol=1e-5, rtol=1e-5)
    other = flat(train_from_scratch(items, 4, 5, CPU, one_hot.roll(1, 1), **given))
    assert float((other - hard).abs().max()) > 1e-3


def test_an_item_keeps_its_own_target_through_batches_and_augmentation():
    """All labels are wrong and the targets are right: only who finds each item's row learns anything."""
    items = bars(0, 64)
    wrong = MemorySplit(items.inputs, torch.zeros_like(items.labels))
    targets = 0.9 * torch.nn.functional.one_hot(items.labels, 4) + 0.025
    model = train_from_scratch(wrong, 4, 0, CPU, targets, steps=60)
    assert convnet_accuracies([model], bars(1, 200), CPU)[0] > 0.7  # chance 0.25


def test_a_single_item_is_given_its_target_s_probabilities():
    """The minimum of the cross entropy with a soft target is the target, not its largest class."""
    item = bars(0, 1)
    target = torch.tensor([[0.6, 0.3, 0.1, 0.0]])
    without_decay = replace(FAST, weight_decay=0.0)
    model = train_from_scratch(item, 4, 0, CPU, target, protocol=without_decay, steps=100, augmentation=False)
    torch.testing.assert_close(model(item.inputs).softmax(1), target, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.full((5, 4), 0.25), r"targets must be \(6, 4\), but got \(5, 4\)"),
        (torch.ones(6, 4), "targets must be probabilities"),
        (torch.tensor([[1.5, -0.5, 0.0, 0.0]]).expand(6, 4), "targets must be probabilities"),
        (torch.full((6, 4), torch.nan), "targets must be probabilities"),
    ],
)
def test_targets_that_are_no_probabilities_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        train_from_scratch(bars(0, 6), 4, 0, CPU, targets, steps=1)


def test_text_is_read_along_its_length():
    """The same text moved by two positions gives features moved by one (the first layer's stride is 2): text is (length,
    channels), not (channels, length)."""
    model = ConvNet({"text": (64, 5)}, 3, generator())
    seen = []
    model.towers["text"][0].register_forward_hook(lambda layer, given, output: seen.append(output))
    text = torch.randn(2, 64, 5, generator=generator())
    model({"text": text})
    model({"text": text.roll(2, 1)})
    here, moved = seen
    assert here.shape == (2, 16, 32)
    torch.testing.assert_close(moved[:, :, 2:-1], here[:, :, 1:-2])  # but for the ends, which see the padding
    assert not torch.allclose(moved[:, :, 2:-1], here[:, :, 2:-1], atol=0.1)


def test_clips_count_as_channels():
    """A sound of three clips is read as one spectrogram of three channels, which augmentation moves together."""
    clips = torch.randn(4, 3, 1, 128, 204, generator=generator())
    flat = clips.flatten(1, 2)
    models = [ConvNet({"audio": x.shape[1:]}, 5, generator()) for x in (clips, flat)]
    assert torch.equal(models[0]({"audio": clips}), models[1]({"audio": flat}))
    moved = augment({"audio": clips}, generator())["audio"]
    assert moved.shape == clips.shape
    assert torch.equal(moved.flatten(1, 2), augment({"audio": flat}, generator())["audio"])
    items = MemorySplit({"audio": clips}, torch.tensor([0, 1, 2, 1]))
    trained = train_from_scratch(items, 3, 0, CPU, steps=2)
    right = (trained({"audio": clips}).argmax(1) == items.labels).float().mean().item()
    assert convnet_accuracies([trained], items, CPU) == pytest.approx([right])


def test_augmentation_moves_images_and_spectrograms_only():
    batch = {m: torch.randn(4, *shape, generator=generator()) for m, shape in SHAPES.items()}
    moved = augment(batch, generator())
    for modality, x in batch.items():
        assert moved[modality].shape == x.shape
        assert torch.equal(moved[modality], x) == (modality in ("imu", "text"))
        low, high = moved[modality].amin(), moved[modality].amax()
        assert float(low) >= float(x.amin()) - 1e-4  # interpolation makes no new extremes
        assert float(high) <= float(x.amax()) + 1e-4


def test_augmentation_is_mild():
    """A dot stays within a tenth of the side (images) or an eighth in time and a twentieth in frequency (sound)."""
    ramp = torch.linspace(0.5, 39.5, 40)  # value = position of the pixel's centre
    across, down = ramp.expand(200, 1, 40, 40), ramp[:, None].expand(200, 1, 40, 40)
    moves = augment({"audio": across}, generator())["audio"] - across
    assert 4.0 < float(moves.abs().max()) <= 5.0 + 1e-3  # 40 / 8
    moves = augment({"audio": down}, generator())["audio"] - down
    assert 1.5 < float(moves.abs().max()) <= 2.0 + 1e-3  # 40 / 20
    constant = torch.full((3, 1, 32, 32), 0.7)
    torch.testing.assert_close(augment({"vision": constant}, generator())["vision"], constant)
    centre = (augment({"vision": across}, generator())["vision"] - across)[:, 0, 19:21, 19:21]
    assert 2.0 < float(centre.abs().max()) < 5.0  # moved by at most 4, and turned and scaled a little at the centre


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="imu: a ConvNet takes items of 2 or 3 dimensions, but got 1"):
        ConvNet({"imu": (5,)}, 2, generator())
    model = ConvNet({"vision": (1, 16, 16)}, 2, generator())
    with pytest.raises(ValueError, match="at least one item"):
        convnet_accuracies([model], MemorySplit({"vision": torch.zeros(0, 1, 16, 16)}, torch.zeros(0)), CPU)
