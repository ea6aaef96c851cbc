"""CLIP, SigLIP and CLAP, small and random, saved as users have theirs: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from condense.config.models import TransformersEncoder
from condense.data.dataset import Dataset
from condense.encoders import build_encoder, encoder_specs
from condense.encoders.protocol import Encoder
from condense.inputs.spec import InputSpec
from condense.storage.store import Store

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["a", "photo", "of", "cat", "dog", "the", "sound", "rain", "two", "small", "red", "."]
TEXTS = ["a photo of a cat .", "rain", "the sound of two small red dog . " * 9]
KINDS = ["clip", "siglip", "clap", "clap_fused"]


def word_tokenizer(**special: str) -> Any:
    """Words to numbers; BOS and EOS around a text."""
    names = [*special.values(), *WORDS]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    begin, end = special["bos_token"], special["eos_token"]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, numbers[begin]), (end, numbers[end])]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def make_model(kind: str, folder: Path) -> Path:
    """A small model of random weights, saved as users have theirs."""
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    if kind.startswith("clap"):
        tokenizer = word_tokenizer(bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
        fused = kind == "clap_fused"
        audio = {
            "patch_embeds_hidden_size": 8, "hidden_size": 32, "num_mel_bins": 16, "spec_size": 64, "depths": [1, 1],
            "num_attention_heads": [2, 2], "window_size": 4, "patch_size": 4, "patch_stride": [4, 4], "projection_dim": 24,
            "enable_fusion": fused, "fusion_type": "aff_2d" if fused else None, "num_hidden_layers": 2,
        }  # fmt: skip
        audio["hidden_size"] = 8 * 2 ** (len(audio["depths"]) - 1)  # type: ignore[arg-type]
        text = {**size, "vocab_size": 20, "max_position_embeddings": 20, "projection_dim": 24, "pad_token_id": 1}
        config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
        model = transformers.ClapModel(config)
        for module in model.modules():  # as if it had been trained: else they are those of no data
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(-30, 5)
                module.running_var.uniform_(50, 150)
        transformers.ClapFeatureExtractor(
            feature_size=16, sampling_rate=8000, hop_length=80, fft_window_size=256, max_length_s=1, frequency_min=50,
            frequency_max=4000, truncation="fusion" if fused else "rand_trunc", padding="repeatpad",
        ).save_pretrained(folder)  # fmt: skip
    else:
        tokenizer = word_tokenizer(bos_token="<s>", pad_token="</s>", eos_token="</s>", unk_token="<unk>")
        text = {**size, "vocab_size": 20, "max_position_embeddings": 16, "eos_token_id": 1, "bos_token_id": 0}
        vision = {**size, "image_size": 32, "patch_size": 8}
        if kind == "clip":
            config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
            model = transformers.CLIPModel(config)
            transformers.CLIPImageProcessorPil(
                size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
            ).save_pretrained(folder)
        else:
            text["projection_size"] = 32
            model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
            transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def dataset_of(specs: dict[str, InputSpec], modalities: tuple[str, ...]) -> Dataset:
    class Nothing:
        labels = torch.zeros(0, dtype=torch.int64)
        present: dict[str, Tensor] = {}

        def __len__(self) -> int:
            return 0

        def load(self, indices: Any) -> dict[str, Tensor]:
            return {}

    chosen = {m: specs[m] for m in modalities}
    return Dataset("none", chosen, ("a",), Nothing(), Nothing(), Nothing(), "none")


def load(folder: Path, modalities: tuple[str, ...] = (), **options: Any) -> tuple[Encoder, dict[str, InputSpec]]:
    config = TransformersEncoder(name="transformers", model=str(folder), **options)
    specs = dict(encoder_specs(config))
    return build_encoder(config, dataset_of(specs, modalities or tuple(specs)), Store()), specs


def direct(folder: Path) -> Any:
    return transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def features(model: Any, modality: str, inputs: Tensor) -> Tensor:
    if modality == "vision":
        output = model.get_image_features(pixel_values=inputs)
    elif model.config.audio_config.enable_fusion:
        longer = torch.zeros(len(inputs), 1, dtype=torch.bool)
        output = model.get_audio_features(input_features=inputs.expand(-1, 4, -1, -1), is_longer=longer)
    else:
        output = model.get_audio_features(input_features=inputs)
    return F.normalize(output.pooler_output, dim=1)


def some_inputs(spec: InputSpec, count: int = 3) -> Tensor:
    noise = torch.randn(count, *spec.shape, generator=torch.Generator().manual_seed(1))
    return noise if spec.modality == "vision" else 10 * noise - 40  # decibels
