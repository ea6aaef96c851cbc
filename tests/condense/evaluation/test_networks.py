"""The published ConvNet's size, the ResNet, and any modalities and shapes."""

from __future__ import annotations

import pytest
import torch

from condense.evaluation.convnet import build_network
from condense.evaluation.network_protocol import DC, FAST, network_protocol
from condense.evaluation.networks import PublishedConvNet
from condense.evaluation.resnet import ResNet

SHAPES = {
    "vision": (3, 32, 32),
    "audio": (3, 1, 64, 102),
    "depth": (1, 20, 36),
    "thermal": (1, 5, 3),
    "imu": (6, 100),
    "text": (24, 16),
}
NARROW = (8, 8, 8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def size(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_published_convnet_has_its_published_size():
    """320,010 parameters for CIFAR-10, 317,706 for MNIST, whose images are padded to 32 x 32 (DC's code counts the same)."""
    assert size(PublishedConvNet({"vision": (3, 32, 32)}, 10, generator())) == 320_010
    assert size(PublishedConvNet({"vision": (1, 28, 28)}, 10, generator())) == 317_706
    deeper = PublishedConvNet({"vision": (3, 64, 64)}, 10, generator())
    assert size(deeper) == 320_010 + 128 * 128 * 9 + 3 * 128


@pytest.mark.parametrize("kind", [PublishedConvNet, ResNet])
@pytest.mark.parametrize("modalities", [*[(m,) for m in SHAPES], tuple(SHAPES)])
def test_any_modalities_and_shapes(kind, modalities):
    shapes = {m: SHAPES[m] for m in modalities}
    network = kind(shapes, 7, generator(), NARROW)
    inputs = {m: torch.randn(3, *shape, generator=generator()) for m, shape in shapes.items()}
    logits = network(inputs)
    assert logits.shape == (3, 7)
    assert not torch.allclose(logits[0], logits[1])
    logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    network.eval()
    alone = torch.cat([network({m: x[i : i + 1] for m, x in inputs.items()}) for i in range(3)])
    torch.testing.assert_close(alone, logits, atol=1e-4, rtol=1e-4)  # items of a batch do not affect each other


@pytest.mark.parametrize("kind", [PublishedConvNet, ResNet])
def test_the_generator_decides_the_start_and_nothing_else(kind):
    shapes = {"vision": (1, 8, 8), "imu": (2, 12)}
    starts = []
    for global_seed, seed in ((0, 3), (1, 3), (0, 4)):
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            before = torch.get_rng_state()
            network = kind(shapes, 3, generator(seed), NARROW)
            assert torch.equal(torch.get_rng_state(), before)
        starts.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert bool(starts[0].isfinite().all())
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_the_published_start_is_pytorchs():
    """Uniform within 1 / sqrt(fan in), as `torch.nn.Conv2d` and `torch.nn.Linear` start."""
    network = PublishedConvNet({"vision": (3, 32, 32)}, 10, generator())
    for found in (network.towers["vision"][4], network.head, torch.nn.Conv2d(128, 128, 3)):
        weight, bias = found.weight.detach(), found.bias.detach()
        bound = weight[0].numel() ** -0.5
        assert float(weight.abs().max()) == pytest.approx(bound, rel=0.01)
        assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
        assert bound / 2 < float(bias.abs().max()) <= bound


def test_a_protocol_says_which_network():
    shapes = {"vision": (1, 8, 8)}
    for protocol, expected in (
        (FAST, "ConvNet"),
        (DC, "PublishedConvNet"),
        (network_protocol("fast", "resnet"), "ResNet"),
        (network_protocol("dc", "resnet"), "ResNet"),
    ):
        assert type(build_network(protocol, shapes, 2, generator())).__name__ == expected


@pytest.mark.parametrize("kind", [PublishedConvNet, ResNet])
def test_what_does_not_fit_is_refused(kind):
    with pytest.raises(ValueError, match="imu: a ConvNet takes items of 2 or 3 dimensions, but got 1"):
        kind({"imu": (5,)}, 2, generator())
