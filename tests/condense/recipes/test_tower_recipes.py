"""The tower recipes, on small models: `transformers` loads the folder, and it computes what the weights say."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_packages import known, write_wheel
from torch import Tensor

from condense.recipes import efficientnet_lite0, whisper_tiny_en
from condense.recipes.ctranslate2 import read_model
from condense.recipes.folder import make
from condense.system.errors import UserError

WIDTH, HEADS, WIDE, MEL, LAYERS, PLACES, TOKENS = 16, 2, 24, 80, 2, 1500, 30


def variables() -> dict[str, np.ndarray]:
    """A Whisper of 2 + 2 narrow layers, under CTranslate2's names; keys have no bias."""
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}

    def layer(name: str, *shape: int) -> None:
        found[f"{name}/weight"] = rng.normal(0, 0.3, shape).astype(np.float16)
        found[f"{name}/bias"] = rng.normal(0, 0.3, shape[0]).astype(np.float16)

    def norm(name: str) -> None:
        found[f"{name}/layer_norm/gamma"] = rng.uniform(0.5, 1.5, WIDTH).astype(np.float16)
        found[f"{name}/layer_norm/beta"] = rng.normal(0, 0.3, WIDTH).astype(np.float16)

    layer("encoder/conv1", WIDTH, MEL, 3)
    layer("encoder/conv2", WIDTH, WIDTH, 3)
    for side, blocks in (
        ("encoder", {"self_attention": (3, 1)}),
        ("decoder", {"self_attention": (3, 1), "attention": (1, 2, 1)}),
    ):
        found[f"{side}/num_heads"] = np.array(HEADS, np.int16)
        found[f"{side}/pre_norm"] = np.array(1, np.int8)
        norm(side)
        for index in range(LAYERS):
            for block, fused in blocks.items():
                norm(f"{side}/layer_{index}/{block}")
                for linear, count in enumerate(fused):
                    name = f"{side}/layer_{index}/{block}/linear_{linear}"
                    layer(name, count * WIDTH, WIDTH)
                    if count == 3:
                        found[f"{name}/bias"][WIDTH : 2 * WIDTH] = 0
                    if count == 2:
                        found[f"{name}/bias"][:WIDTH] = 0
            norm(f"{side}/layer_{index}/ffn")
            layer(f"{side}/layer_{index}/ffn/linear_0", WIDE, WIDTH)
            layer(f"{side}/layer_{index}/ffn/linear_1", WIDTH, WIDE)
    for side, places in (("encoder", PLACES), ("decoder", 20)):
        found[f"{side}/position_encodings/encodings"] = rng.normal(0, 0.3, (places, WIDTH)).astype(np.float16)
    found["decoder/embeddings/weight"] = rng.normal(0, 0.3, (TOKENS, WIDTH)).astype(np.float16)
    return found


def model_bin(found: Mapping[str, np.ndarray], specification: str = "WhisperSpec", version: int = 6) -> bytes:
    kinds = {np.dtype(np.int8): 1, np.dtype(np.int16): 2, np.dtype(np.float16): 4}

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), text(specification), struct.pack("<II", 3, len(found))]
    for name, value in found.items():
        content = value.tobytes()
        parts += [text(name), struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)]
        parts += [struct.pack("<BI", kinds[value.dtype], len(content)), content]
    alias = text("decoder/projection/weight") + text("decoder/embeddings/weight")
    return b"".join([*parts, struct.pack("<I", 1), alias])


def plain_encoder(found: Mapping[str, np.ndarray], x: Tensor) -> Tensor:
    """Whisper's encoder, written out: (n, MEL, t) -> (n, t / 2, WIDTH)."""
    w = {name: torch.from_numpy(value.astype(np.float32)) for name, value in found.items() if value.ndim}

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}/weight"], w[f"{name}/bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), w[f"{name}/layer_norm/gamma"], w[f"{name}/layer_norm/beta"])

    x = F.gelu(F.conv1d(x, w["encoder/conv1/weight"], w["encoder/conv1/bias"], padding=1))
    x = F.gelu(F.conv1d(x, w["encoder/conv2/weight"], w["encoder/conv2/bias"], stride=2, padding=1)).transpose(1, 2)
    x = x + w["encoder/position_encodings/encodings"][: x.shape[1]]
    for index in range(LAYERS):
        block = f"encoder/layer_{index}/self_attention"
        heads = [
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in linear(norm(x, block), f"{block}/linear_0").chunk(3, -1)
        ]
        weights = (heads[0] @ heads[1].mT * (WIDTH // HEADS) ** -0.5).softmax(-1)
        x = x + linear((weights @ heads[2]).transpose(1, 2).flatten(2), f"{block}/linear_1")
        block = f"encoder/layer_{index}/ffn"
        x = x + linear(F.gelu(linear(norm(x, block), f"{block}/linear_0")), f"{block}/linear_1")
    return norm(x, "encoder")


def whisper(folder: Path, content: bytes) -> Path:
    """The folder that the recipe makes of such a package."""
    write_wheel(folder / "got" / whisper_tiny_en.RECIPE.archives[0].file, {whisper_tiny_en.MODEL: content})
    make(known(whisper_tiny_en.RECIPE, folder / "got"), folder / "to", folder / "got")
    return folder / "to"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transformers_loads_whisper_and_computes_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    to = whisper(tmp_path, model_bin(variables()))
    model, report = transformers.WhisperModel.from_pretrained(to, output_loading_info=True)
    assert not any(report.values()), report  # no weight is missing, none is left over
    x = torch.randn(2, MEL, 2 * PLACES, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoded = model.eval().encoder(x).last_hidden_state
        torch.testing.assert_close(encoded, plain_encoder(variables(), x), rtol=1e-4, atol=1e-4)
        said = model.decoder(torch.tensor([[1, 2, 3]]), encoder_hidden_states=encoded[:1]).last_hidden_state
    assert said.isfinite().all()
    features = transformers.AutoFeatureExtractor.from_pretrained(to)
    assert (features.feature_size, features.sampling_rate, features.hop_length) == (MEL, 16_000, 160)


def test_fused_projections_are_taken_apart() -> None:
    named = whisper_tiny_en.rename(variables())
    fused = variables()["decoder/layer_1/attention/linear_1/weight"]
    np.testing.assert_array_equal(named["decoder.layers.1.encoder_attn.k_proj.weight"], fused[:WIDTH])
    np.testing.assert_array_equal(named["decoder.layers.1.encoder_attn.v_proj.weight"], fused[WIDTH:])
    assert "decoder.layers.1.encoder_attn.k_proj.bias" not in named


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (model_bin({}, version=5), "its version must be 6, but is 5"),
        (model_bin(variables())[:5000], "it ends too early"),
        (b"", "it ends too early"),
        (model_bin({}, "TransformerSpec"), "must hold a WhisperSpec, but holds a TransformerSpec"),
    ],
)
def test_another_model_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"model.bin: .*{message}"):
        whisper(tmp_path, content)
    assert not (tmp_path / "to/recipe.json").exists()


def test_variables_keep_shape_and_type() -> None:
    specification, found = read_model(model_bin(variables()), "here")
    assert specification == "WhisperSpec"
    assert found.keys() == variables().keys()
    for name, value in variables().items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype


def efficientnet(folder: Path, content: bytes) -> Path:
    write_wheel(folder / "got" / efficientnet_lite0.RECIPE.archives[0].file, {efficientnet_lite0.WEIGHTS: content})
    make(known(efficientnet_lite0.RECIPE, folder / "got"), folder / "to", folder / "got")
    return folder / "to"


def test_efficientnet_keeps_its_weights(tmp_path: Path) -> None:
    state = {"_conv_stem.weight": torch.arange(54.0).reshape(2, 3, 3, 3), "_bn0.running_var": torch.ones(2)}
    file = io.BytesIO()
    torch.save(state, file)
    to = efficientnet(tmp_path, file.getvalue())
    torch.testing.assert_close(load_file(to / "model.safetensors"), state)
    config = json.loads((to / "config.json").read_text())
    assert (config["architecture"], config["features"], config["padding"]) == ("efficientnet_lite0", 1280, "same")


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("save", [torch.save, pickle.dump])
def test_weights_that_run_something_are_refused(tmp_path: Path, save: Any) -> None:
    file = io.BytesIO()
    save({"weight": Trap(tmp_path / "ran")}, file)
    with pytest.raises(UserError, match=r"57934424\.pth: cannot be read as tensors \(weights only\): ") as raised:
        efficientnet(tmp_path, file.getvalue())
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists()
