"""Inputs of models of one modality of the transformers library: of images, of text (BERT-likes), Whisper's encoder.

What a model takes follows from its class in the library: `pixel_values`, `input_ids`, or Whisper's `input_features`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from pathlib import Path
from typing import Any

from condense.config.towers import TransformersTower
from condense.inputs.spec import ImageSpec, InputSpec
from condense.inputs.tokens import TokenSpec
from condense.inputs.transformers import (
    TEXT_LIMIT,
    ProcessedImageSpec,
    import_transformers,
    model_folder,
    model_tokenizer,
    model_type,
    processed_image,
    token_table,
)
from condense.inputs.whisper import WhisperSpec
from condense.system.errors import UserError

WORD_TABLES = (
    "word_embeddings.weight",
    "tok_embeddings.weight",
)  # names of token embeddings among a text model's weights
TOKENS, SECONDS = 32, 1.0  # lengths unless they are configured
LONGEST = 512  # tokens, of a model that does not say
COUNTED_FROM_PADDING = (
    "roberta",
    "xlm-roberta",
    "camembert",
    "mpnet",
    "data2vec-text",
)  # position 0 is the padding's + 1
OPTIONS = {"image": "image_size", "text": "max_tokens", "sound": "seconds"}  # kind -> the key that sets its items' size


def single_model_spec(config: TransformersTower, modality: str, key: str) -> InputSpec:
    """The input of the model. `key`: where it is configured, for messages.

    Raises UserError if the model is missing or of a kind that is not supported, or for a key that is of another kind.
    """
    folder = model_folder(config, key)
    kind = model_kind(folder, key)
    for other, option in OPTIONS.items():
        if other != kind and getattr(config, option) is not None:
            raise UserError(f"{key}.{option}: is of {other} models only, but {folder} is one of {kind}")
    transformers = import_transformers(key)
    try:
        if kind == "image":
            processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
            spec: InputSpec = _image(processor, config.image_size)
        elif kind == "sound":
            extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
            longest = extractor.chunk_length
            if config.seconds is not None and config.seconds > longest:
                raise UserError(f"{key}.seconds: must be at most {longest}, but got {config.seconds}")
            spec = WhisperSpec.of(extractor, SECONDS if config.seconds is None else config.seconds)
        else:
            spec = _text(folder, config.max_tokens, key)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{folder}: the model's preprocessor cannot be read: {reason}") from None
    return dataclasses.replace(spec, modality=modality)


def model_class(folder: Path, key: str) -> Any:
    """The library's class of the model. Raises UserError if it has none."""
    transformers = import_transformers(key)
    kind = model_type(folder)
    if kind == "whisper":
        return transformers.models.whisper.modeling_whisper.WhisperEncoder
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        return transformers.MODEL_MAPPING[type(config)]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{key}.model: {folder}: the library has no model {kind!r}: {_line(error)}") from None


def model_kind(folder: Path, key: str) -> str:
    """image, text or sound: what the model takes. Raises UserError for another."""
    if model_type(folder) == "whisper":
        return "sound"
    found = model_class(folder, key)
    parameters = inspect.signature(found.forward).parameters
    if {"input_ids", "pixel_values"} <= set(parameters):
        raise UserError(f"{key}.model: {folder}: {found.__name__} takes several modalities, but a tower takes one")
    if "pixel_values" in parameters:
        return "image"
    if "inputs_embeds" in parameters and "decoder_input_ids" not in parameters:
        return "text"
    raise UserError(
        f"{key}.model: {folder}: must be a model of images, of text (as BERT) or Whisper, but is {found.__name__}"
    )


def _image(processor: Any, side: int | None) -> ProcessedImageSpec:
    """As the model's image processor has it; with `side` the short side gets this length, and the centre is cut out."""
    if side is None:
        return processed_image(processor)
    mean, std = ((0.0,) * 3, (1.0,) * 3) if not processor.do_normalize else (processor.image_mean, processor.image_std)
    base = ImageSpec.of("vision", 3, side, tuple(mean), tuple(std))
    resampling = int(processor.resample)
    return ProcessedImageSpec("vision", base.shape, base.low, base.high, base.mean, base.std, (side,), resampling)


def _text(folder: Path, tokens: int | None, key: str) -> TokenSpec:
    config = import_transformers(key).AutoConfig.from_pretrained(folder, local_files_only=True)
    tokenizer = model_tokenizer(folder)
    if tokenizer.padding is None:
        raise UserError(f"{key}.model: {folder}: the tokenizer has no padding")
    longest = getattr(config, "max_position_embeddings", None) or LONGEST
    if config.model_type in COUNTED_FROM_PADDING:
        longest -= config.pad_token_id + 1
    if tokens is not None and tokens > longest:
        raise UserError(f"{key}.max_tokens: must be at most {longest}, but got {tokens}")
    width = token_table(folder, *WORD_TABLES).shape[1]
    return TokenSpec(
        "text",
        (min(TOKENS, longest) if tokens is None else tokens, width),
        -TEXT_LIMIT,
        TEXT_LIMIT,
        source=f"transformers {config.model_type}",  # the encoder's fingerprint covers the files
        start=tokenizer.start,
        end=tokenizer.end,
        padding=tokenizer.padding,
        open_table=functools.partial(token_table, folder, *WORD_TABLES),
        open_tokenizer=functools.partial(model_tokenizer, folder),
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
