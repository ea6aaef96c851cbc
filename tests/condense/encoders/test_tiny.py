"""`tiny`: towers for any modalities, items that do not see each other, gradients to the inputs, pretraining that aligns."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from condense.config.models import MODALITIES, TinyEncoder
from condense.data.dataset import MemorySplit
from condense.encoders.first_conv import FirstConv2d
from condense.encoders.tiny import TinyTowers, build_tiny, tiny_specs
from condense.storage.store import Store

SMALL = TinyEncoder(pretraining="none", dim=8, width=4, image_size=16)
SPECS = tiny_specs(SMALL)
SUBSETS = [s for size in range(1, 7) for s in itertools.combinations(MODALITIES, size)]


def frozen(config: TinyEncoder, modalities: tuple[str, ...]) -> TinyTowers:
    """Random towers, as `build_tiny` returns them."""
    return TinyTowers(config, {m: tiny_specs(config)[m] for m in modalities}).requires_grad_(False).eval()


def items(modality: str, n: int, seed: int = 0, config: TinyEncoder = SMALL) -> torch.Tensor:
    spec = tiny_specs(config)[modality]
    drawn = torch.randn(n, *spec.shape, generator=torch.Generator().manual_seed(seed))
    return drawn.clamp(spec.low, spec.high)


def test_specs_are_of_the_six_modalities():
    assert tuple(SPECS) == MODALITIES
    for m, spec in SPECS.items():
        assert spec.modality == m
        assert spec.low < 0 < spec.high
    assert tiny_specs(TinyEncoder(image_channels=3, image_size=24))["vision"].shape == (3, 24, 24)


@pytest.mark.parametrize("modalities", SUBSETS, ids="+".join)
def test_any_subset_of_modalities_has_unit_embeddings(modalities):
    encoder = frozen(SMALL, modalities)
    assert tuple(encoder.specs) == modalities
    assert encoder.output_scale == dict.fromkeys(modalities, 1.0)
    for m in modalities:
        embedded = encoder.embed(m, items(m, 3))
        assert embedded.shape == (3, encoder.dim)
        assert embedded.dtype == torch.float32
        assert torch.allclose(embedded.norm(dim=1), torch.ones(3), atol=1e-6)


@pytest.mark.parametrize("size", [8, 16, 32, 40])
@pytest.mark.parametrize("m", MODALITIES)
def test_an_item_does_not_see_its_batch(small_dataset, m, size):
    """As the engine gets it: frozen, evaluation mode. In embedding and in gradient."""
    config = TinyEncoder(pretraining="none", image_size=size)
    encoder = frozen(config, (m,))
    x = items(m, 7, config=config).requires_grad_()
    embedded = encoder.embed(m, x)
    direction = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((embedded * direction).sum(), x)
    for i in range(7):
        one = x[i : i + 1].detach().requires_grad_()
        alone = encoder.embed(m, one)
        assert (alone[0] - embedded[i]).abs().max() <= 1e-6
        (own,) = torch.autograd.grad((alone * direction[i]).sum(), one)
        assert (own[0] - gradient[i]).norm() <= 1e-5 * own.norm()
    poisoned = x.detach().clone()
    poisoned[3] = torch.nan
    assert torch.equal(encoder.embed(m, poisoned).isnan().any(1), torch.arange(7) == 3)


@pytest.mark.parametrize("m", MODALITIES)
def test_gradient_reaches_every_input_and_is_that_of_finite_differences(m):
    encoder = frozen(SMALL, (m,)).double()
    x = items(m, 2).double().requires_grad_()
    direction = torch.randn(2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def value(inputs: torch.Tensor) -> torch.Tensor:
        return (encoder.embed(m, inputs) * direction).sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    touched = (gradient != 0).float().mean()
    assert touched > 0.99, touched  # an element may lie under dead units only
    g = torch.Generator().manual_seed(2)
    for _ in range(3):
        step = 1e-6 * torch.randn(x.shape, generator=g, dtype=torch.float64)
        change = value(x.detach() + step) - value(x.detach() - step)
        assert change.item() == pytest.approx(2 * (gradient * step).sum().item(), rel=1e-4)
    assert all(parameter.grad is None for parameter in encoder.parameters())


@pytest.mark.parametrize("before", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 8), (32, 32), (40, 24)])
def test_first_layer_is_torchs_convolution(before, height, width):
    """Value and input gradient; the weights' gradient, too, while they are being trained."""
    g = torch.Generator().manual_seed(0)
    ours = FirstConv2d(before, 6).double()
    plain = nn.Conv2d(before, 6, 5, stride=2, padding=2).double()
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(3, before, height, width, generator=g, dtype=torch.float64, requires_grad=True)
    expected = plain(x)
    up = torch.randn(expected.shape, generator=g, dtype=torch.float64)
    expected_gradients = torch.autograd.grad((expected * up).sum(), [x, plain.weight, plain.bias])
    trained = ours(x)
    assert torch.equal(trained, expected)
    gradients = torch.autograd.grad((trained * up).sum(), [x, ours.weight, ours.bias])
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(gradients, expected_gradients, strict=True))
    ours.requires_grad_(False)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        y = x.detach().to(memory_format=memory_format).requires_grad_()
        output = ours.to(memory_format=memory_format)(y)
        assert torch.allclose(output, expected, rtol=1e-10)
        (gradient,) = torch.autograd.grad((output * up).sum(), y)
        assert torch.allclose(gradient, expected_gradients[0], rtol=1e-9, atol=1e-12)


def test_towers_differ_by_modality_and_seed_only():
    a, b = (frozen(SMALL, ("vision", "depth")) for _ in range(2))
    other = frozen(TinyEncoder(**{**SMALL.model_dump(), "seed": 1}), ("vision", "depth"))
    x = items("vision", 2)
    assert torch.equal(a.embed("vision", x), b.embed("vision", x))
    assert not torch.allclose(a.embed("vision", x), a.embed("depth", x))
    assert not torch.allclose(a.embed("vision", x), other.embed("vision", x))


# Pretraining ----------------------------------------------------------------------------------------------------------


def trained(**options: object) -> TinyEncoder:
    return TinyEncoder(**{"dim": 8, "width": 4, "image_size": 8, "epochs": 30, **options})  # type: ignore[arg-type]


def test_what_comes_out_is_frozen_and_in_evaluation_mode(small_dataset, tmp_path):
    dataset = small_dataset()
    for pretraining in ("none", "contrastive"):
        encoder = build_tiny(trained(pretraining=pretraining, epochs=1), dataset, Store(tmp_path))
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        assert not any(module.training for module in encoder.modules())


def test_pretraining_happens_once_and_is_seeded(small_dataset, tmp_path, monkeypatch):
    dataset, config = small_dataset(), trained(epochs=2)
    x = items("vision", 3, config=config)
    before = torch.get_rng_state()
    first = build_tiny(config, dataset, Store(tmp_path / "a"))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        elsewhere = build_tiny(config, dataset, Store(tmp_path / "b"))
    assert torch.equal(first.embed("vision", x), elsewhere.embed("vision", x))
    monkeypatch.setattr("condense.encoders.tiny._pretrain", lambda *_: pytest.fail("trained again"))
    again = build_tiny(config, dataset, Store(tmp_path / "a"))
    assert torch.equal(first.embed("vision", x), again.embed("vision", x))
    assert first.fingerprint == elsewhere.fingerprint == again.fingerprint


def test_pretraining_on_a_large_split_reads_it_a_batch_at_a_time(small_dataset, tmp_path, monkeypatch):
    dataset, config = small_dataset(("vision", "audio", "text"), per_class=100), trained(epochs=2)
    whole = build_tiny(config, dataset, Store(tmp_path / "a"))
    monkeypatch.setattr("condense.data.dataset.HELD", 0)
    monkeypatch.setattr("condense.data.dataset.host_memory", lambda: 0)
    taken: list[int] = []
    load = MemorySplit.load
    monkeypatch.setattr(MemorySplit, "load", lambda self, which: taken.append(len(which)) or load(self, which))
    streamed = build_tiny(config, dataset, Store(tmp_path / "b"))
    assert max(taken) < len(dataset.condense)
    assert streamed.fingerprint == whole.fingerprint  # which holds a checksum of the weights


def test_one_modality_has_nothing_to_be_aligned_with(small_dataset, tmp_path):
    encoder = build_tiny(trained(), small_dataset(("depth",)), Store(tmp_path))
    assert torch.allclose(encoder.embed("depth", items("depth", 2, config=trained())).norm(dim=1), torch.ones(2))


def test_pretraining_never_reads_another_split(small_dataset, tmp_path):
    """Only the condense split: the small dataset's test split raises, and validation is replaced here by one that does."""
    dataset = small_dataset()
    sealed = type(dataset)(
        **{**{k: getattr(dataset, k) for k in dataset.__dataclass_fields__}, "validation": dataset.open_test()}
    )
    build_tiny(trained(epochs=1), sealed, Store(tmp_path))


def test_fingerprint_tells_configurations_modalities_and_data_apart(small_dataset, tmp_path):
    store = Store(tmp_path)
    pair = ("vision", "audio")
    short = {"epochs": 1}
    encoders = [
        build_tiny(trained(**short), small_dataset(pair), store),
        build_tiny(trained(**short, seed=1), small_dataset(pair), store),
        build_tiny(trained(epochs=2), small_dataset(pair), store),
        build_tiny(trained(**short, dim=9), small_dataset(pair), store),
        build_tiny(trained(**short, width=5), small_dataset(pair), store),
        build_tiny(trained(**short), small_dataset(pair, seed=1), store),
        build_tiny(trained(**short), small_dataset(("vision", "imu")), store),
        build_tiny(trained(pretraining="none"), small_dataset(pair), store),
    ]
    assert len({encoder.fingerprint for encoder in encoders}) == len(encoders)
    # Random towers do not depend on the data.
    random = [build_tiny(trained(pretraining="none"), small_dataset(pair, seed=seed), store) for seed in (0, 1)]
    assert random[0].fingerprint == random[1].fingerprint


def test_text_tower_reads_positions_as_time():
    """A tower that mistook positions for channels would not take another length, and would not see a text move: by two
    positions where the first layer's features move by one."""
    tower = frozen(SMALL, ("text",)).towers["text"]
    seen = []
    tower.body[0].register_forward_hook(lambda layer, given, output: seen.append(output))
    x = items("text", 2)
    tower(x)
    tower(x.roll(2, 1))
    here, moved = seen
    assert here.shape == (2, 4, 32)
    assert torch.allclose(moved[:, :, 2:-1], here[:, :, 1:-2], atol=1e-6)  # but for the ends, which see the padding
    assert not torch.allclose(moved[:, :, 2:-1], here[:, :, 2:-1], atol=0.1)
    assert tower(x[:, :40]).shape == (2, 8)
    assert not torch.allclose(tower(x), tower(x.flip(1)))


def test_bfloat16_towers_give_float32_embeddings_near_those_of_float32(small_dataset):
    dataset = small_dataset(("vision", "audio", "text", "imu"))
    config = TinyEncoder(pretraining="none", dim=8, width=4, image_size=8)
    exact, low = (build_tiny(config.model_copy(update={"precision": p}), dataset) for p in ("float32", "bfloat16"))
    assert exact.fingerprint != low.fingerprint
    for m, x in dataset.condense.load(range(6)).items():
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        embedded = [encoder.embed(m, leaf) for encoder, leaf in zip((exact, low), leaves, strict=True)]
        assert embedded[1].dtype == torch.float32
        assert torch.allclose(embedded[1].norm(dim=1), torch.ones(6), atol=1e-6)
        assert (embedded[0] * embedded[1]).sum(1).min() > 0.999, m
        toward = torch.randn(8, generator=torch.Generator().manual_seed(1))
        g = [
            torch.autograd.grad((e @ toward).sum(), leaf)[0].flatten() for e, leaf in zip(embedded, leaves, strict=True)
        ]
        assert g[1].dtype == torch.float32
        assert torch.cosine_similarity(g[0], g[1], dim=0) > 0.98, m
