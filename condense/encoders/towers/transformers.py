"""Towers from the transformers library: models of images, of text (BERT-likes), and Whisper's encoder."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from condense.config.towers import TransformersTower
from condense.data.file_digests import known_digest
from condense.encoders.towers.protocol import Tower
from condense.encoders.transformers import load_pretrained
from condense.inputs.single_models import model_class, model_kind, single_model_spec
from condense.inputs.spec import InputSpec
from condense.inputs.tokens import TokenSpec, end_positions
from condense.inputs.transformers import model_files, model_folder
from condense.inputs.whisper import FRAMES_PER_POSITION, WhisperSpec
from condense.storage.store import hash_of
from condense.system.errors import UserError

VERSION = 1


class ImageModel(Tower):
    """(n, 3, h, w) -> (n, width): the class token, or the mean over all patches; of a convolutional network over all places."""

    def __init__(self, model: Any, pooling: str | None, precision: torch.dtype, key: str) -> None:
        super().__init__()
        self.precision = precision
        parts = model.embeddings if hasattr(model, "embeddings") else None
        before = [getattr(parts, name, None) for name in ("cls_token", "distillation_token", "register_tokens")]
        self.has_class = before[0] is not None
        if pooling == "cls" and not self.has_class:
            raise UserError(f"{key}.pooling: {type(model).__name__} has no class token: must be mean")
        self.first = sum(token.shape[1] for token in before if token is not None)  # of the patches
        self.by_class = self.has_class and pooling != "mean"
        parameters = inspect.signature(model.forward).parameters
        self.options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in parameters else {}
        self.model = model.to(precision)

    def forward(self, inputs: Tensor) -> Tensor:
        output = self.model(pixel_values=inputs.to(self.precision), **self.options).last_hidden_state
        if output.ndim == 4:  # (n, channels, h, w)
            return output.float().mean((2, 3))
        features: Tensor = output[:, 0].float() if self.by_class else output[:, self.first :].float().mean(1)
        return features


class TextModel(Tower):
    """(n, length, width) of token embeddings -> (n, width): the mean over the tokens up to the end, or the first."""

    def __init__(self, model: Any, pooling: str | None, precision: torch.dtype, written: TokenSpec) -> None:
        super().__init__()
        self.precision, self.by_class = precision, pooling == "cls"
        self.padding: Tensor
        self.register_buffer("padding", written.open_table()[written.padding].clone(), persistent=False)
        model.set_input_embeddings(nn.Identity())  # a large table that is not used
        self.first = None  # of the positions, if the model counts them from its padding's number
        if (start := getattr(getattr(model.embeddings, "position_embeddings", None), "padding_idx", None)) is not None:
            self.first = start + 1
        self.model = model.to(precision)

    def forward(self, inputs: Tensor) -> Tensor:
        position = torch.arange(inputs.shape[1], device=inputs.device)
        mask = position <= end_positions(inputs, self.padding)[:, None]  # (n, length)
        options = {}
        if self.first is not None:
            options["position_ids"] = torch.where(mask, position + self.first, self.first - 1)
        output = self.model(inputs_embeds=inputs.to(self.precision), attention_mask=mask.long(), **options)
        tokens: Tensor = output.last_hidden_state.float()
        if self.by_class:
            return tokens[:, 0]
        weight = mask.to(tokens).unsqueeze(2)
        return (tokens * weight).sum(1) / weight.sum(1)


class SoundModel(Tower):
    """(n, 1, mels, frames) -> (n, width): the mean of Whisper's encoder over time, without the positions after the clip's end."""

    def __init__(self, model: Any, precision: torch.dtype, frames: int) -> None:
        super().__init__()
        self.precision = precision
        positions = frames // FRAMES_PER_POSITION
        kept = model.embed_positions.weight[:positions].detach().clone()
        model.embed_positions = nn.Embedding.from_pretrained(kept)
        model.config.max_source_positions = positions
        self.model = model.to(precision)

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.model(inputs[:, 0].to(self.precision)).last_hidden_state.float().mean(1)
        return features


def build_transformers_tower(config: TransformersTower, spec: InputSpec, precision: torch.dtype, key: str) -> Tower:
    """Raises UserError if the model cannot be loaded. `spec`: of the data; `key`: where the tower is configured."""
    folder = model_folder(config, key)
    kind, files = model_kind(folder, key), model_files(folder)
    # Whisper's encoder alone: it is saved as a part of the whole model, under one of two names.
    options = {"key_mapping": {r"^(model\.)?encoder\.": ""}} if kind == "sound" else {}
    model, found = load_pretrained(model_class(folder, key), folder, **options)
    lacking = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))  # which is not used
    if lacking:  # the library would leave them random
        raise UserError(f"{folder}: the weights lack {', '.join(lacking[:3])}")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    own = single_model_spec(config, spec.modality, key)  # the data's may be one of prepared tensors
    tower: Tower
    if kind == "image":
        tower = ImageModel(model, config.pooling, precision, key)
    elif kind == "text":
        assert isinstance(own, TokenSpec)
        tower = TextModel(model, config.pooling, precision, own)
    else:
        assert isinstance(own, WhisperSpec)
        if config.pooling == "cls":
            raise UserError(f"{key}.pooling: {folder} has no class token: must be mean")
        tower = SoundModel(model, precision, own.shape[2])
    tower.fingerprint = hash_of(
        {
            "version": VERSION,
            "files": {path.name: known_digest(path) for path in files},
            "options": config.model_dump(mode="json", exclude={"model", "download"}),
            "precision": str(precision),
        }
    )
    return tower
