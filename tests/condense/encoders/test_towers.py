"""Towers: each is what its library, or its paper, computes; gradients; items that do not see each other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from small_towers import pairs, save_efficientnet, save_model
from small_transformers import transformers

from condense.config.models import MODALITIES
from condense.config.towers import AlignedEncoder
from condense.encoders.aligned import aligned_specs
from condense.encoders.towers import build_tower
from condense.inputs.media import preview, read_item
from condense.inputs.tokens import TokenSpec
from condense.system.errors import UserError

MODALITY = {"vit": "vision", "dinov2": "vision", "bert": "text", "roberta": "text", "whisper": "audio"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    made = {kind: save_model(kind, folder / kind) for kind in MODALITY}
    return {**made, "efficientnet": save_efficientnet(folder / "efficientnet")}


def made(tower: dict[str, Any], modality: str, precision: torch.dtype = torch.float32) -> Any:
    config = AlignedEncoder.model_validate({"name": "aligned", "towers": {modality: tower}})
    dataset = pairs(config)
    return build_tower(config.towers[modality], modality, dataset, precision, 0, "encoder.towers.x"), dataset


def of(models: dict[str, Path], kind: str, **options: Any) -> dict[str, Any]:
    return {"kind": "transformers", "model": str(models[kind]), **options}


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize(("kind", "side"), [("vit", 32), ("vit", 48), ("dinov2", 32)])
def test_an_image_model_is_the_librarys(models: dict[str, Path], kind: str, side: int, pooling: str) -> None:
    tower, dataset = made(of(models, kind, pooling=pooling, image_size=side), "vision")
    x = dataset.condense.inputs["vision"][:3]
    assert x.shape == (3, 3, side, side)
    whole = transformers.AutoModel.from_pretrained(models[kind]).eval()
    options = {"interpolate_pos_encoding": True} if kind == "vit" else {}
    output = whole(pixel_values=x, **options).last_hidden_state
    torch.testing.assert_close(tower(x), output[:, 0] if pooling == "cls" else output[:, 1:].mean(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", [None, "cls"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_text_model_is_the_librarys_on_tokens(models: dict[str, Path], kind: str, pooling: str | None) -> None:
    """Without padding, whatever stands after the end, which has no gradient either."""
    tower, dataset = made(of(models, kind, pooling=pooling, max_tokens=8), "text")
    spec = dataset.specs["text"]
    assert isinstance(spec, TokenSpec)
    assert spec.shape == (8, 32)
    whole = transformers.AutoModel.from_pretrained(models[kind]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(models[kind])
    for text in ("a cat", "the sound of two small red dog"):
        numbers = torch.tensor([tokenizer(text).input_ids[:8]])
        if len(tokenizer(text).input_ids) > 8:
            numbers[0, -1] = spec.end
        output = whole(input_ids=numbers).last_hidden_state
        x = spec.encode(text)[None].requires_grad_()
        found = tower(x)
        torch.testing.assert_close(found, output.mean(1) if pooling is None else output[:, 0], atol=1e-5, rtol=0)
        (gradient,) = torch.autograd.grad(found.square().sum(), x)
        assert (gradient[0, numbers.shape[1] :] == 0).all()
        assert (gradient[0, : numbers.shape[1]] != 0).any(1).all()


def test_whisper_is_the_librarys_encoder_on_a_short_context(models: dict[str, Path], tmp_path: Path) -> None:
    """With the whole length it is the library's; with less, positions are cut off, so that it costs less."""
    tower, dataset = made(of(models, "whisper", seconds=2.0), "audio")
    x = dataset.condense.inputs["audio"][:2]
    whole = transformers.WhisperModel.from_pretrained(models["whisper"]).eval()
    torch.testing.assert_close(tower(x), whole.encoder(x[:, 0]).last_hidden_state.mean(1), atol=1e-5, rtol=0)
    half, dataset = made(of(models, "whisper", seconds=1.0), "audio")
    assert dataset.specs["audio"].shape == (1, 16, 100)
    assert half.model.embed_positions.weight.shape == (50, 32)
    whole.encoder.save_pretrained(tmp_path)  # the encoder by itself, under shorter names
    transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2).save_pretrained(tmp_path)
    alone, _ = made({"kind": "transformers", "model": str(tmp_path), "seconds": 2.0}, "audio")
    torch.testing.assert_close(alone(x), tower(x))


def test_whispers_input_is_its_feature_extractors(models: dict[str, Path], tmp_path: Path) -> None:
    spec = made(of(models, "whisper", seconds=1.0), "audio")[1].specs["audio"]
    time = np.arange(16_000) / 16_000
    wave = (0.5 * np.sin(2 * math.pi * (300 + 900 * time) * time)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    item = read_item(spec, "a.wav", tmp_path)
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    expected = torch.from_numpy(extractor(wave, sampling_rate=16_000, return_tensors="np").input_features[0])
    torch.testing.assert_close(item[0], expected, atol=1e-4, rtol=0)
    assert spec.low <= item.min() and item.max() <= spec.high
    assert {".png", ".wav"} == set(preview(spec, item))


def plain_efficientnet(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Written from the paper's table, with torch's batch norm, and TensorFlow's padding by its definition."""

    def layer(
        x: torch.Tensor, name: str, norm: str, stride: int = 1, depthwise: bool = False, active: bool = True
    ) -> Any:
        weight = w[f"{name}.weight"]
        kernel = weight.shape[2]
        pads = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (x.shape[3], x.shape[2])]
        x = F.pad(x, (pads[0] // 2, -(-pads[0] // 2), pads[1] // 2, -(-pads[1] // 2)))
        x = F.conv2d(x, weight, None, stride, 0, 1, x.shape[1] if depthwise else 1)
        stats = [w[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *stats, eps=1e-3)
        return x.clamp(0, 6) if active else x

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = layer((x - mean[:, None, None]) / std[:, None, None], "_conv_stem", "_bn0", 2)
    strides = {1: 2, 3: 2, 5: 2, 11: 2}
    for i in range(16):
        block, y = f"_blocks.{i}.", x
        if f"{block}_expand_conv.weight" in w:
            y = layer(y, f"{block}_expand_conv", f"{block}_bn0")
        y = layer(y, f"{block}_depthwise_conv", f"{block}_bn1", strides.get(i, 1), depthwise=True)
        y = layer(y, f"{block}_project_conv", f"{block}_bn2", active=False)
        x = x + y if y.shape == x.shape else y
    return layer(x, "_conv_head", "_bn1").mean((2, 3))


@pytest.mark.parametrize("side", [32, 45])
def test_efficientnet_lite0(models: dict[str, Path], side: int) -> None:
    config = {"kind": "efficientnet_lite0", "path": str(models["efficientnet"]), "image_size": side}
    tower, dataset = made(config, "vision")
    x = dataset.condense.inputs["vision"][:2]
    expected = plain_efficientnet(load_file(models["efficientnet"] / "model.safetensors"), x)
    assert tower.width == 1280
    torch.testing.assert_close(tower(x), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_bfloat16(models: dict[str, Path]) -> None:
    for tower, modality in (
        ({"kind": "efficientnet_lite0", "path": str(models["efficientnet"]), "image_size": 32}, "vision"),
        (of(models, "bert", max_tokens=8), "text"),
        (of(models, "whisper"), "audio"),
    ):
        full, dataset = made(tower, modality)
        half, _ = made(tower, modality, torch.bfloat16)
        x = dataset.condense.inputs[modality][:2]
        assert half(x).dtype == torch.float32
        assert 0 < (half(x) - full(x)).norm() < 0.1 * full(x).norm()
        assert half.fingerprint != full.fingerprint


FILE = """
import torch
from condense.inputs.spec import ImageSpec

def spec(options):
    return ImageSpec.of("vision", 3, options.get("side", 8), (0.5,) * 3, (0.5,) * 3)

class Means(torch.nn.Module):
    def forward(self, inputs):
        return torch.cat([inputs.mean((2, 3)), inputs.amax((2, 3))], 1)

def build(options):
    return Means()
"""


def test_a_users_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    tower, dataset = made({"kind": "python", "path": str(tmp_path / "mine.py"), "options": {"side": 16}}, "vision")
    assert dataset.specs["vision"].shape == (3, 16, 16)
    assert tower.width == 6
    (tmp_path / "mine.py").write_text(FILE + "\n# changed\n")
    changed, _ = made({"kind": "python", "path": str(tmp_path / "mine.py"), "options": {"side": 16}}, "vision")
    assert changed.fingerprint != tower.fingerprint


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("def spec", "def other", "has no function `specs`"),
        ("return ImageSpec", "return 3, ImageSpec", "spec(options) must return an InputSpec, but returned (3, "),
        ("return Means()", "return 3", "build(options) must return a module or function, but returned 3"),
        ("inputs.mean((2, 3))", "inputs.detach().mean((2, 3))", None),  # the maximum has a gradient
        (
            "torch.cat([inputs",
            "torch.cat([(inputs - inputs.mean(0))",
            "an item's embedding must not depend on the other",
        ),
        ("amax((2, 3))", "amax((2, 3)).log().log()", "the embedding of a random item, or its gradient, is not finite"),
    ],
)
def test_a_mistake_in_a_users_file_is_one_line(tmp_path: Path, before: str, after: str, message: str | None) -> None:
    (tmp_path / "mine.py").write_text(FILE.replace(before, after))
    config = {"kind": "python", "path": str(tmp_path / "mine.py")}
    if message is None:
        made(config, "vision")
        return
    with pytest.raises(UserError) as raised:
        made(config, "vision")
    assert message in str(raised.value)
    assert str(raised.value).startswith(str(tmp_path / "mine.py"))
    assert "\n" not in str(raised.value)


def test_what_is_not_supported_is_one_line(models: dict[str, Path], tmp_path: Path) -> None:
    def message(tower: dict[str, Any], modality: str = "vision") -> str:
        with pytest.raises(UserError) as raised:
            made(tower, modality)
        return str(raised.value)

    assert message(of(models, "vit", max_tokens=8)).startswith(
        "encoder.towers.vision.max_tokens: is of text models only"
    )
    assert (
        message(of(models, "bert", max_tokens=99), "text")
        == "encoder.towers.text.max_tokens: must be at most 34, but got 99"
    )
    assert message(of(models, "roberta", max_tokens=33), "text").endswith("must be at most 32, but got 33")
    assert message(of(models, "whisper", seconds=3), "audio").endswith("seconds: must be at most 2, but got 3.0")
    assert "has no class token" in message(of(models, "whisper", pooling="cls"), "audio")
    assert message({"kind": "tiny"}, "smell").startswith("encoder.towers.smell: tiny has no tower for 'smell'")
    assert f"{tmp_path}/model.safetensors: no such file" in message(
        {"kind": "efficientnet_lite0", "path": str(tmp_path)}
    )
    assert message({"kind": "transformers", "model": "no/such"}).startswith(
        "encoder.towers.vision.model: no/such: no such"
    )
    broken = load_file(models["efficientnet"] / "model.safetensors")
    del broken["_blocks.3._bn1.bias"]
    save_file(broken, tmp_path / "model.safetensors")
    assert "the weights lack _blocks.3._bn1.bias" in message({"kind": "efficientnet_lite0", "path": str(tmp_path)})


@pytest.mark.parametrize("modality", MODALITIES)
def test_tinys_towers_are_there_for_its_modalities(modality: str) -> None:
    config = AlignedEncoder.model_validate(
        {"name": "aligned", "towers": {modality: {"kind": "tiny", "image_size": 16}}}
    )
    tower, dataset = made({"kind": "tiny", "image_size": 16}, modality)
    assert tower.trained_with_heads
    assert tower(dataset.condense.load([0])[modality]).shape == (1, 64)
    assert aligned_specs(config)[modality].modality == modality


def test_a_picture_is_read_at_the_towers_size(models: dict[str, Path], tmp_path: Path) -> None:
    Image.new("RGB", (90, 60), (255, 0, 0)).save(tmp_path / "a.png")
    spec = aligned_specs(
        AlignedEncoder.model_validate({"name": "aligned", "towers": {"vision": of(models, "vit", image_size=48)}})
    )["vision"]
    item = read_item(spec, "a.png", tmp_path)
    assert item.shape == (3, 48, 48)
    assert item[0].unique().tolist() == [1.0]
