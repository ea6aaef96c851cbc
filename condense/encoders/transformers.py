"""CLIP, SigLIP (vision + text) and CLAP (audio + text) of the transformers library as encoders."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condense.config.models import TransformersEncoder
from condense.data.dataset import Dataset
from condense.data.file_digests import known_digest
from condense.inputs.spec import InputSpec
from condense.inputs.tokens import TokenSpec, end_positions
from condense.inputs.transformers import (
    check_model_type,
    import_transformers,
    model_files,
    model_folder,
    transformers_specs,
)
from condense.storage.store import hash_of
from condense.system.errors import UserError

VERSION = 1
TOWERS = {"vision": "vision_model", "audio": "audio_model", "text": "text_model"}


class TransformersTowers(nn.Module):
    """The encoder (see `Encoder`): a model of the library, whose own functions compute the features."""

    def __init__(
        self, model: Any, kind: str, specs: Mapping[str, InputSpec], precision: torch.dtype, written: TokenSpec | None
    ) -> None:
        """`written`: the model's own text input, if the dataset has text; the dataset's spec may describe prepared tensors."""
        super().__init__()
        self.specs = dict(specs)
        self.kind, self.precision, self.fingerprint = kind, precision, ""
        config = model.config
        self.dim: int = config.text_config.projection_size if kind == "siglip" else config.projection_dim
        self.output_scale = dict.fromkeys(specs, 1.0)
        self.padding: Tensor | None
        self.register_buffer("padding", None, persistent=False)
        if written is not None:
            self.padding = written.open_table()[written.padding].clone()
        self.given = GivenEmbeddings()
        if kind != "clap" and "text" in specs:
            model.text_model.embeddings.token_embedding = self.given
        for modality, tower in TOWERS.items():
            if modality not in specs and hasattr(model, tower):
                setattr(model, tower, None)  # needs no memory
        self.model = model.to(precision)

    def embed(self, modality: str, inputs: Tensor) -> Tensor:
        """See `Encoder`. Text is (n, length, width), see `condense/inputs/tokens.py`."""
        if modality == "text":
            features = self._text(inputs)
        elif modality == "audio":
            spectrograms = inputs.to(self.precision)
            if self.model.config.audio_config.enable_fusion:  # the whole clip, and three parts that short clips lack
                spectrograms = spectrograms.expand(-1, 4, -1, -1)
            short = torch.zeros(len(inputs), 1, dtype=torch.bool, device=inputs.device)
            features = self.model.get_audio_features(input_features=spectrograms, is_longer=short)
        else:
            features = self.model.get_image_features(pixel_values=inputs.to(self.precision))
        return F.normalize(features.pooler_output.float(), dim=1)

    def _text(self, inputs: Tensor) -> Any:
        assert self.padding is not None
        last = end_positions(inputs, self.padding)[:, None]
        embeddings = inputs.to(self.precision)
        position = torch.arange(embeddings.shape[1], device=inputs.device)
        if self.kind == "clap":
            text = self.model.text_model
            mask = (position <= last).long()
            first = text.config.pad_token_id + 1  # RoBERTa counts positions from there; padding is at pad_token_id
            places = torch.where(mask == 1, position + first, text.config.pad_token_id)
            features = text(inputs_embeds=embeddings, attention_mask=mask, position_ids=places)
            features.pooler_output = self.model.text_projection(features.pooler_output)
            return features
        # These two models take token ids only, and CLIP finds the end among them; all other ids are 0.
        end = self.model.config.text_config.eos_token_id or 1
        numbers = torch.where(position == last, end, 0)
        with self.given.of(embeddings):
            return self.model.get_text_features(input_ids=numbers)


class GivenEmbeddings(nn.Module):
    """Replaces the token embedding table: returns the embeddings set in this thread, ignoring the ids."""

    def __init__(self) -> None:
        super().__init__()
        self.local = threading.local()

    @contextlib.contextmanager
    def of(self, embeddings: Tensor) -> Iterator[None]:
        self.local.embeddings = embeddings
        try:
            yield
        finally:
            del self.local.embeddings

    def forward(self, numbers: Tensor) -> Tensor:
        embeddings: Tensor = self.local.embeddings
        return embeddings


def load_pretrained(model_class: Any, folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A saved model in float32, and what the library says of its weights. Raises UserError if it cannot be loaded."""
    messages = import_transformers().utils.logging
    shown, level = messages.is_progress_bar_enabled(), messages.get_verbosity()
    messages.disable_progress_bar()
    messages.set_verbosity_error()  # of weights that are not needed, such as a decoder's
    try:
        model, found = model_class.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True, **options
        )
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{folder}: the model cannot be loaded: {reason}") from None
    finally:
        messages.set_verbosity(level)
        if shown:
            messages.enable_progress_bar()
    return model, found


def build_transformers(config: TransformersEncoder, dataset: Dataset) -> TransformersTowers:
    """The frozen encoder for the modalities of `dataset`. Raises UserError if the model cannot be loaded."""
    transformers = import_transformers()
    folder = model_folder(config)
    kind, files = check_model_type(folder), model_files(folder)
    model, found = load_pretrained(transformers.AutoModel, folder)
    if found["missing_keys"]:  # the library would leave them random
        raise UserError(f"{folder}: the weights lack {', '.join(sorted(found['missing_keys'])[:3])}")
    written = transformers_specs(config)["text"] if "text" in dataset.specs else None
    assert written is None or isinstance(written, TokenSpec)
    encoder = TransformersTowers(model, kind, dataset.specs, getattr(torch, config.precision), written)
    encoder.fingerprint = hash_of(
        {
            "version": VERSION,
            "precision": config.precision,
            "files": {path.name: known_digest(path) for path in files},
            "specs": {name: spec.describe() for name, spec in dataset.specs.items()},
        }
    )
    return encoder.requires_grad_(False).eval()
