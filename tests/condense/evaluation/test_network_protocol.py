"""Presets: `fast` is what it was before there were others, `dc` what has been published."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_convnet import bars
from torch import nn

from condense.embeddings.task import Task
from condense.evaluation import convnet
from condense.evaluation.augmentation import augment
from condense.evaluation.comparison import CONVNET_STEPS, Comparison
from condense.evaluation.convnet import convnet_accuracies, train_from_scratch
from condense.evaluation.network_protocol import DC, FAST, network_protocol
from condense.evaluation.networks import Network
from condense.storage.store import Store

CPU = torch.device("cpu")
SMALL_DC = replace(DC, widths=(8, 8, 8))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# Numbers of the code before `NetworkProtocol` (e53b5fc): (augmentation, sum of weights, of squares, logits of the first item).
BEFORE = [
    (True, 153.64151574607422, 489.2252789122534, [3.0167775, -2.4210768, 1.2475297, -1.4613045]),
    (False, 162.12588281853095, 491.2788038969897, [3.5567484, -1.1798614, -0.2832518, 0.8311051]),
]


@pytest.mark.parametrize(("augmentation", "total", "squares", "logits"), BEFORE)
def test_fast_gives_the_numbers_it_gave(augmentation, total, squares, logits):
    items = bars(0, 12)
    model = train_from_scratch(items, 4, 5, CPU, steps=5, batch_size=8, augmentation=augmentation)
    found = weights(model).double()
    assert float(found.sum()) == pytest.approx(total, rel=1e-5)  # other processors round otherwise; here they are equal
    assert float(found.square().sum()) == pytest.approx(squares, rel=1e-5)
    with torch.no_grad():
        assert model({m: x[:1] for m, x in items.inputs.items()})[0].tolist() == pytest.approx(logits, abs=1e-3)


def test_mild_augmentation_gives_the_numbers_it_gave():
    shapes = {"vision": (3, 32, 32), "audio": (1, 128, 204), "depth": (1, 20, 36)}
    batch = {m: torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)) for m, shape in shapes.items()}
    found = augment(batch, torch.Generator().manual_seed(0))
    squares = {m: float(x.double().square().sum()) for m, x in found.items()}
    assert squares == pytest.approx({"vision": 5707.221658, "audio": 47682.857686, "depth": 1366.531229}, rel=1e-5)


def test_networks_of_fast_that_the_store_has_are_still_found():
    """Its key has been the default arguments of `train_from_scratch`."""
    earlier = {
        "steps": 300,
        "batch_size": 32,
        "learning_rate": 1e-2,
        "weight_decay": 0.05,
        "augmentation": True,
        "widths": (16, 32, 32),
    }
    assert FAST.key() == earlier
    assert network_protocol(steps=7).key() == {**earlier, "steps": 7}
    assert CONVNET_STEPS == 300
    others = [
        DC,
        network_protocol("dc", steps=300),
        network_protocol("fast", "resnet"),
        network_protocol("dc", "resnet"),
    ]
    keys = [FAST.key(), *(each.key() for each in others), replace(DC, flip=True).key()]
    assert len({hashlib.sha256(repr(sorted(key.items())).encode()).hexdigest() for key in keys}) == len(keys)


def test_dc_has_the_published_settings():
    assert (DC.widths, DC.batch_size, DC.optimizer) == ((128, 128, 128), 256, "sgd")
    assert (DC.learning_rate, DC.weight_decay, convnet.MOMENTUM) == (0.01, 5e-4, 0.9)
    assert (DC.epochs, DC.augmentation, DC.flip) == (1000, "dsa", False)
    assert [DC.steps_for(n) for n in (10, 256, 257, 5000)] == [1000, 1000, 2000, 20000]
    assert DC.first_half(10) == 502  # lr_schedule = [Epoch // 2 + 1], from 0, and lowered after that epoch
    assert DC.first_half(257) == 1004
    given = network_protocol("dc", steps=40)
    assert (given.steps_for(10), given.steps_for(5000), given.first_half(5000)) == (40, 40, 22)
    assert replace(DC, steps=40).steps_for(5000) == 40  # steps override epochs


def test_the_rate_falls_to_a_tenth_and_the_momentum_begins_anew():
    model = nn.Linear(2, 1, bias=False)
    protocol = replace(DC, steps=6, epochs=None, weight_decay=0.0)
    optimizer, schedule = convnet._optimizer(model, protocol, 10)  # type: ignore[arg-type]
    rates, moves = [], []
    for step in range(6):
        before = model.weight.detach().clone()
        model.weight.grad = torch.ones(1, 2)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule(step)
        moves.append(float((before - model.weight.detach())[0, 0]))
    assert rates == pytest.approx([0.01] * 5 + [0.001])
    expected, velocity = [], 0.0
    for _ in range(5):
        velocity = 0.9 * velocity + 1
        expected.append(0.01 * velocity)
    assert moves == pytest.approx([*expected, 0.001], rel=1e-3)


def test_every_epoch_of_dc_has_every_item(monkeypatch: pytest.MonkeyPatch):
    read: list[list[int]] = []
    original = convnet._read
    monkeypatch.setattr(
        convnet, "_read", lambda items, i, device: read.append(i.tolist()) or original(items, i, device)
    )
    train_from_scratch(bars(0, 10), 4, 0, CPU, protocol=replace(SMALL_DC, batch_size=4, epochs=2))
    assert [len(batch) for batch in read] == [4, 4, 2] * 2
    assert sorted(itertools.chain(*read[:3])) == sorted(itertools.chain(*read[3:])) == list(range(10))


@pytest.mark.parametrize("architecture", ["convnet", "resnet"])
@pytest.mark.parametrize("preset", ["fast", "dc"])
def test_a_result_depends_on_its_seed_alone(preset, architecture):
    protocol = replace(network_protocol(preset, architecture, steps=3), widths=(8, 8, 8))
    items, found = bars(0, 12), []
    for global_seed, seed in ((0, 5), (1, 5), (0, 6)):
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            before = torch.get_rng_state()
            found.append(weights(train_from_scratch(items, 4, seed, CPU, protocol=protocol)))
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_published_training_learns_both_modalities():
    protocol = replace(SMALL_DC, widths=(16, 16, 16), learning_rate=0.02, augmentation=None)
    items = bars(0, 64)
    trained, untrained = (train_from_scratch(items, 4, 0, CPU, protocol=protocol, steps=n) for n in (40, 0))
    after, before = convnet_accuracies([trained, untrained], bars(1, 200), CPU)
    assert after > 0.75  # chance 0.25; either modality alone 0.5
    assert before < 0.5


def test_the_resnet_learns_its_items():
    items, protocol = bars(0, 16), network_protocol("fast", "resnet")
    models = [train_from_scratch(items, 4, 0, CPU, protocol=protocol, steps=n, augmentation=False) for n in (12, 0)]
    after, before = convnet_accuracies(models, items, CPU)
    assert after > 0.8 and before < 0.6


def test_a_comparison_trains_what_its_protocol_says(
    small_task: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Network] = []
    original = convnet.build_network

    def build(*arguments: object) -> Network:
        trained.append(original(*arguments))  # type: ignore[arg-type]
        return trained[-1]

    monkeypatch.setattr(convnet, "build_network", build)
    task, store = small_task(), Store(tmp_path)
    kinds = {"ConvNet": FAST, "PublishedConvNet": SMALL_DC, "ResNet": network_protocol("dc", "resnet")}
    for name, protocol in kinds.items():
        for _ in range(2):  # the second from the store
            Comparison(task, store, 2, "validation", protocol).full_convnet([0])
        assert type(trained[-1]).__name__ == name
    assert len(trained) == len(kinds)


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="convnet must be one of fast, dc, but got 'slow'"):
        network_protocol("slow")
    with pytest.raises(ValueError, match="architecture must be one of convnet, resnet, but got 'mlp'"):
        network_protocol("dc", "mlp")
    with pytest.raises(ValueError, match="convnet_steps must be at least 1, but got 0"):
        network_protocol("dc", steps=0)
    with pytest.raises(ValueError, match="protocol dc needs `steps` or `epochs`"):
        replace(DC, epochs=None)


def test_labels_name_preset_architecture_and_length():
    labels = [network_protocol(*each).label for each in (("fast",), ("dc",), ("dc", "resnet", 50))]
    assert labels == ["ConvNet (fast, 300 steps)", "ConvNet (dc, 1000 epochs)", "ResNet (dc, 50 steps)"]
