"""`imagebind` against the official classes: embeddings and input gradients of every tower, on any of them."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_imagebind import built, items
from torch import Tensor

from condense.config.models import MODALITIES, ImageBindEncoder
from condense.encoders import encoder_specs, imagebind

SCALES = {"vision": 1.0, "audio": 20.0, "text": 1 / 0.07, "depth": 5.0, "thermal": 10.0, "imu": 5.0}  # the paper's
SUBSETS = [s for size in (1, 2, 6) for s in itertools.combinations(MODALITIES, size)]


def tokens(*lengths: int) -> Tensor:
    """(n, 77) int64: start, random tokens, end, padding; `lengths` counts start and end."""
    generator = torch.Generator().manual_seed(sum(lengths))
    rows = torch.zeros(len(lengths), 77, dtype=torch.int64)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.randint(0, 49406, (length,), generator=generator)
        row[0], row[length - 1] = 49406, 49407
    return rows


# Parity ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [m for m in MODALITIES if m != "text"])
def test_embeddings_and_input_gradients_are_the_official_ones(official: Any, checkpoint: Path, m: str) -> None:
    encoder = built((m,), checkpoint=checkpoint, audio_clips=1)
    assert encoder.dim == 32
    x = items(m, 3)[:, 0] if m == "audio" else items(m, 3)  # a single clip
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    embedded = encoder.embed(m, ours)
    raw = official({m: theirs})[m]
    assert torch.allclose(raw.norm(dim=1), torch.full((3,), encoder.output_scale[m]), rtol=1e-5)
    expected = F.normalize(raw, dim=1)
    assert embedded.dtype == torch.float32
    assert torch.allclose(embedded, expected, atol=2e-6)
    toward = torch.randn(3, encoder.dim, generator=torch.Generator().manual_seed(1))
    (own,) = torch.autograd.grad((embedded * toward).sum(), ours)
    (wanted,) = torch.autograd.grad((expected * toward).sum(), theirs)
    assert wanted.flatten(1).norm(dim=1).min() > 0
    assert (own - wanted).norm() <= 1e-5 * wanted.norm()


def test_text_embeddings_and_gradients_are_those_of_the_official_path_through_tokens(
    official: Any, checkpoint: Path
) -> None:
    """Official: tokens in; the gradient at what the token embedding gives is read by a hook."""
    encoder = built(("text",), checkpoint=checkpoint)
    ids = tokens(2, 7, 77, 30)
    kept: list[Tensor] = []

    def keep(_: Any, __: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0]

    hook = official.modality_preprocessors["text"].token_embedding.register_forward_hook(keep)
    try:
        raw = official({"text": ids})["text"]
    finally:
        hook.remove()
    expected = F.normalize(raw, dim=1)
    leaf = kept[0].detach().clone().requires_grad_()
    embedded = encoder.embed("text", leaf)
    assert torch.allclose(embedded, expected, atol=2e-6)
    assert torch.allclose(raw.norm(dim=1), torch.full((4,), encoder.output_scale["text"]), rtol=1e-5)
    toward = torch.randn(4, encoder.dim, generator=torch.Generator().manual_seed(1))
    (own,) = torch.autograd.grad((embedded * toward).sum(), leaf)
    (wanted,) = torch.autograd.grad((expected * toward).sum(), kept[0])
    assert (own - wanted).norm() <= 1e-5 * wanted.norm()
    for row, length in zip(own, (2, 7, 77, 30), strict=True):
        assert (row[:length].norm(dim=1) > 0).all()
        assert (row[length:] == 0).all()


def test_several_clips_of_a_sound_are_averaged_as_in_the_official_model(official: Any, checkpoint: Path) -> None:
    encoder = built(("audio",), checkpoint=checkpoint, audio_clips=3)
    x = torch.randn(2, 3, 1, 128, 204, generator=torch.Generator().manual_seed(0))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    embedded, expected = encoder.embed("audio", ours), F.normalize(official({"audio": theirs})["audio"], dim=1)
    assert torch.allclose(embedded, expected, atol=2e-6)
    toward = torch.randn(2, encoder.dim, generator=torch.Generator().manual_seed(1))
    (own,) = torch.autograd.grad((embedded * toward).sum(), ours)
    (wanted,) = torch.autograd.grad((expected * toward).sum(), theirs)
    assert (own - wanted).norm() <= 1e-5 * wanted.norm()


def test_output_scales_are_the_papers_and_of_a_checkpoint_its_own(official: Any, tmp_path: Path) -> None:
    assert built().output_scale == pytest.approx(SCALES, rel=1e-5)
    state = dict(official.state_dict())
    state["modality_postprocessors.text.1.log_logit_scale"] = torch.tensor(9.0)  # clipped at 100
    torch.save(state, tmp_path / "other.pth")
    assert built(("text",), checkpoint=tmp_path / "other.pth").output_scale == pytest.approx({"text": 100.0})


@pytest.mark.parametrize("modalities", SUBSETS, ids="+".join)
def test_only_the_wanted_towers_are_there(checkpoint: Path, modalities: tuple[str, ...]) -> None:
    encoder = built(modalities, checkpoint=checkpoint)
    assert tuple(encoder.specs) == modalities
    assert {key.split(".")[1] for key in encoder.model.state_dict()} == set(modalities)
    assert not any(p.requires_grad or p.is_meta for p in encoder.parameters())
    assert not any(module.training for module in encoder.modules())


def test_an_item_does_not_see_its_batch(checkpoint: Path) -> None:
    encoder = built(checkpoint=checkpoint)
    for m in MODALITIES:
        x = items(m, 3)
        together = encoder.embed(m, x)
        assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-6)
        assert (encoder.embed(m, x[1:2])[0] - together[1]).abs().max() <= 2e-6
        x[0] = torch.nan
        assert torch.equal(encoder.embed(m, x).isnan().any(1), torch.tensor([True, False, False]))


def test_another_shape_is_refused_and_never_taken_for_clips() -> None:
    encoder = built(("vision", "audio"), audio_clips=1)
    for m, shape in (("vision", (1, 3, 3, 224, 224)), ("audio", (1, 3, 1, 128, 204)), ("audio", (1, 1, 128, 100))):
        with pytest.raises(ValueError, match=f"{m} must be"):
            encoder.embed(m, torch.zeros(shape))


def test_bfloat16_towers_give_float32_embeddings_near_those_of_float32(checkpoint: Path) -> None:
    exact, low = (built(checkpoint=checkpoint, precision=p) for p in ("float32", "bfloat16"))
    table = imagebind.token_table(ImageBindEncoder(size="small", checkpoint=checkpoint))
    for m in MODALITIES:
        x = table[tokens(5, 9, 77)] if m == "text" else items(m, 3)
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        a, b = (encoder.embed(m, leaf) for encoder, leaf in zip((exact, low), leaves, strict=True))
        assert b.dtype == torch.float32
        assert torch.allclose(b.norm(dim=1), torch.ones(3), atol=1e-6)
        assert (a * b).sum(1).min() > 0.999, m
        toward = torch.randn(exact.dim, generator=torch.Generator().manual_seed(1))
        g = [torch.autograd.grad((e @ toward).sum(), leaf)[0] for e, leaf in zip((a, b), leaves, strict=True)]
        assert g[1].dtype == torch.float32
        assert torch.cosine_similarity(g[0].flatten(), g[1].flatten(), dim=0) > 0.98, m


def test_random_towers_are_seeded_whatever_other_towers_there_are() -> None:
    before = torch.get_rng_state()
    x = items("imu", 2)
    alone, together, other = built(("imu",)), built(("vision", "imu")), built(("imu",), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(alone.embed("imu", x), together.embed("imu", x))
    assert not torch.allclose(alone.embed("imu", x), other.embed("imu", x))


def test_fingerprint_tells_weights_towers_precision_and_clips_apart(official: Any, tmp_path: Path) -> None:
    state = {key: tensor.clone() for key, tensor in official.state_dict().items()}
    plain, tuned = (tmp_path / name / "same.pth" for name in ("a", "b"))  # torch.save writes the name into the file
    for path in (plain, tuned):
        path.parent.mkdir()
        torch.save(state, path)
        state["modality_trunks.vision.blocks.1.mlp.fc1.weight"][3, 5] += 1e-4  # amid the file
    assert tuned.stat().st_size == plain.stat().st_size
    copied = tmp_path / "copied.pth"
    copied.write_bytes(plain.read_bytes())
    av = ("vision", "audio")
    encoders = [
        built(av, checkpoint=plain),
        built(("vision",), checkpoint=plain),
        built(av, checkpoint=tuned),
        built(av, checkpoint=plain, precision="bfloat16"),
        built(av, checkpoint=plain, audio_clips=1),
        built(av),
        built(av, seed=1),
    ]
    assert len({encoder.fingerprint for encoder in encoders}) == len(encoders)
    assert built(av, checkpoint=copied).fingerprint == encoders[0].fingerprint


# Specs ----------------------------------------------------------------------------------------------------------------


def test_specs_are_of_the_six_modalities() -> None:
    specs = encoder_specs(ImageBindEncoder(size="small"))
    assert set(specs) == set(MODALITIES)
    assert {m: spec.shape for m, spec in specs.items()} == {
        "vision": (3, 224, 224),
        "audio": (3, 1, 128, 204),
        "text": (77, 32),
        "depth": (1, 224, 224),
        "thermal": (1, 224, 224),
        "imu": (6, 2000),
    }
    assert encoder_specs(ImageBindEncoder(random_weights=True))["text"].shape == (77, 1024)
    white = torch.ones(3, 2, 2)
    expected = torch.tensor(
        [(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711]
    )
    assert torch.allclose(specs["vision"].normalize(white)[:, 0, 0], expected)  # type: ignore[attr-defined]
    silence = (math.log(torch.finfo(torch.float32).eps) + 4.268) / 9.138
    assert specs["audio"].low < silence < specs["audio"].low + 0.01
