"""Small towers of random weights, saved as users have theirs, and a dataset of pairs to align them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from small_transformers import transformers, word_tokenizer
from torch import Tensor

from condense.config.towers import AlignedEncoder
from condense.data.dataset import Dataset, MemorySplit
from condense.encoders.aligned import aligned_specs
from condense.encoders.towers.efficientnet_lite0 import BLOCKS

SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
CONCEPTS = 6


def save_model(kind: str, folder: Path) -> Path:
    """vit, dinov2, bert, roberta or whisper."""
    torch.manual_seed(0)
    if kind in ("vit", "dinov2"):
        configuration = {"vit": transformers.ViTConfig, "dinov2": transformers.Dinov2Config}[kind]
        model = transformers.AutoModel.from_config(configuration(**SIZE, image_size=32, patch_size=8))
        processor: Any = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})
    elif kind in ("bert", "roberta"):
        configuration = {"bert": transformers.BertConfig, "roberta": transformers.RobertaConfig}[kind]
        config = configuration(**SIZE, vocab_size=20, max_position_embeddings=34, pad_token_id=1)
        model = transformers.AutoModel.from_config(config)
        processor = word_tokenizer(bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    else:
        config = transformers.WhisperConfig(
            vocab_size=64, d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, num_mel_bins=16,
            decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, max_source_positions=100, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )  # fmt: skip
        model = transformers.WhisperModel(config)
        processor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_efficientnet(folder: Path) -> Path:
    """Random weights by their published names."""
    g = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}

    def add(convolution: str, norm: str, after: int, before: int, kernel: int) -> None:
        shape = (after, before, kernel, kernel)
        weights[f"{convolution}.weight"] = torch.randn(shape, generator=g) * (2 / (before * kernel**2)) ** 0.5
        for part, low, high in (
            ("weight", 0.8, 1.2),
            ("bias", -0.1, 0.5),
            ("running_mean", -0.1, 0.1),
            ("running_var", 0.8, 1.2),
        ):
            weights[f"{norm}.{part}"] = torch.rand(after, generator=g) * (high - low) + low

    add("_conv_stem", "_bn0", 32, 3, 3)
    i, before = 0, 32
    for repeats, kernel, _, expansion, after in BLOCKS:
        for _ in range(repeats):
            inner = before * expansion
            if expansion > 1:
                add(f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0", inner, before, 1)
            add(f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1", inner, 1, kernel)
            add(f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2", after, inner, 1)
            i, before = i + 1, after
    add("_conv_head", "_bn1", 1280, before, 1)
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    return folder


def pairs(config: AlignedEncoder, count: int = 48, missing: bool = False, name: str = "pairs") -> Dataset:
    """Items of six concepts: in each modality a concept is a fixed random item, which others vary. Tokens are not varied."""
    specs = aligned_specs(config)

    def split(seed: int) -> MemorySplit:
        concept = torch.arange(count) % CONCEPTS
        inputs = {}
        for place, (m, spec) in enumerate(specs.items()):
            if hasattr(spec, "open_table"):
                rows = [
                    spec.encode(text) for text in ("a cat", "a dog", "the rain", "two red", "photo of sound", "small")
                ]
                inputs[m] = torch.stack(rows)[concept]
                continue
            fixed = torch.rand(CONCEPTS, *spec.shape, generator=torch.Generator().manual_seed(place))
            noise = torch.rand(count, *spec.shape, generator=torch.Generator().manual_seed(seed + place))
            inputs[m] = (0.8 * fixed[concept] + 0.2 * noise) * (spec.high - spec.low) + spec.low
        first = next(iter(specs))
        present = {first: torch.arange(count) % 5 != 0} if missing else {}
        return MemorySplit(inputs, concept % 2, present)

    return Dataset(name, specs, ("a", "b"), split(10), split(20), split(30), f"{name} {count} {missing} {list(specs)}")
