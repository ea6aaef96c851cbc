"""`imagebind`: the six towers of ImageBind (Girdhar et al. 2023, arXiv:2305.05665), frozen.

The model is the official one (`imagebind_package`), with only the towers that the data needs. Only the last step of its
forward pass is our own: embeddings are normalised in float32, and not scaled (`output_scale` says by how much they would be).

Inputs, per item:

- vision (3, 224, 224); audio (1, 128, 204), a clip of 2 s, or (clips, 1, 128, 204): then the mean over the clips' unit
  embeddings, made a unit vector again; depth and thermal (1, 224, 224); imu (6, 2000)
- text (77, width): the embeddings of its tokens (`condense.inputs.tokens`), not the tokens
- videos (several frames per item) are not supported: an item of vision is one image
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from condense.config.models import MODALITIES, ImageBindEncoder
from condense.data.dataset import Dataset
from condense.encoders.imagebind_checkpoint import PARTS, identity, read_checkpoint, select_towers
from condense.encoders.imagebind_package import model_module, tokenizer
from condense.inputs.imagebind import file_specs
from condense.inputs.spec import InputSpec
from condense.inputs.tokens import TokenSpec, end_positions
from condense.storage.store import hash_of
from condense.system.errors import UserError

VERSION = 1
TOKENS, START, END, PADDING = 77, 49406, 49407, 0  # of CLIP's byte-pair vocabulary
TABLE = "modality_preprocessors.text.token_embedding.weight"
TEXT_WIDTH = {"huge": 1024, "small": 32}
_LAYERS = {"embed_dim": TEXT_WIDTH["small"], "num_blocks": 2, "num_heads": 2}
SMALL = {"out_embed_dim": 32, **{f"{m}_{name}": value for m in MODALITIES for name, value in _LAYERS.items()}}


def imagebind_specs(config: ImageBindEncoder) -> dict[str, InputSpec]:
    """The input of each of ImageBind's six modalities. Raises UserError if the checkpoint is missing."""
    return {
        **file_specs(config.audio_clips),
        "text": TokenSpec(
            "text",
            (TOKENS, TEXT_WIDTH[config.size]),
            -10.0,
            10.0,
            source=_weights(config),
            start=START,
            end=END,
            padding=PADDING,
            open_table=functools.partial(token_table, config),
            open_tokenizer=_tokenizer,
        ),
    }


class ImageBindTowers(nn.Module):
    """The encoder (see `Encoder`)."""

    def __init__(self, model: Any, specs: Mapping[str, InputSpec], fingerprint: str, precision: torch.dtype) -> None:
        """`model`: official, with towers for `specs` and float32 weights."""
        super().__init__()
        self.model = model
        self.specs = dict(specs)
        self.fingerprint = fingerprint
        layers = [layer for layer in model.modality_heads.modules() if isinstance(layer, nn.Linear)]
        self.dim = layers[-1].out_features  # all heads end in the same space
        self.output_scale = {m: _norm(model.modality_postprocessors[m]) for m in specs}
        self.precision = None if precision == torch.float32 else precision
        self.padding: Tensor | None
        self.register_buffer("padding", None, persistent=False)
        if "text" in specs:
            self.padding = model.modality_preprocessors["text"].token_embedding.weight[PADDING].detach().clone()

    def embed(self, modality: str, inputs: Tensor) -> Tensor:
        """(n, *shape) -> (n, D). Raises ValueError for any other shape: the model would take some for clips."""
        shape = self.specs[modality].shape
        if tuple(inputs.shape[1:]) != shape:
            raise ValueError(f"{modality} must be (n, {', '.join(map(str, shape))}), but got {tuple(inputs.shape)}")
        clips = shape[0] if modality == "audio" and len(shape) == 4 else 0
        output = self._project(modality, inputs.flatten(0, 1) if clips else inputs)
        unit = F.normalize(output.float() if output.dtype == torch.bfloat16 else output, dim=1)
        return F.normalize(unit.view(len(inputs), clips, -1).mean(1), dim=1) if clips else unit

    def _project(self, m: str, inputs: Tensor) -> Tensor:
        """A tower without its postprocessing."""
        x = inputs if self.precision is None else inputs.to(self.precision)
        preprocess = self.model.modality_preprocessors[m]
        if m == "text":  # text enters after the token embedding
            assert self.padding is not None
            body = {"tokens": x + preprocess.pos_embed, "attn_mask": preprocess.mask}
            head = {"seq_len": end_positions(inputs, self.padding)}
        else:
            prepared = preprocess(**{m: x})
            body, head = prepared["trunk"], prepared["head"]
        output: Tensor = self.model.modality_heads[m](self.model.modality_trunks[m](**body), **head)
        return output


def build_imagebind(config: ImageBindEncoder, dataset: Dataset) -> ImageBindTowers:
    """The frozen encoder for the modalities of `dataset`.

    Raises UserError if the package, the checkpoint or a part of it is missing.
    """
    modalities = dataset.modalities
    specs = imagebind_specs(config)
    for modality in modalities:
        if modality not in specs:
            raise UserError(f"encoder imagebind: takes only {', '.join(specs)}, but the dataset has {modality}")
    model = load_towers(config, modalities)
    key = {
        "version": VERSION,
        "weights": _weights(config),
        "towers": sorted(modalities),
        "precision": config.precision,
        "specs": {name: spec.describe() for name, spec in dataset.specs.items()},
    }
    precision: torch.dtype = getattr(torch, config.precision)
    encoder = ImageBindTowers(model, dataset.specs, hash_of(key), precision)
    model.to(precision)
    return encoder.requires_grad_(False).eval()


def load_towers(config: ImageBindEncoder, modalities: Collection[str]) -> Any:
    """The official model with only the towers of `modalities`, its weights float32 and, from a checkpoint, not yet read.

    Raises UserError if the package, the checkpoint or a part of it is missing.
    """
    if config.checkpoint is None:
        return keep_towers(random_model(config.size, config.seed), modalities)
    tensors = read_checkpoint(config.checkpoint)
    model = keep_towers(empty_model(config.size), modalities)
    state = select_towers(tensors, model.state_dict(), modalities, config.checkpoint)
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()}, assign=True)
    return model


def empty_model(size: str) -> Any:
    """The official model without memory for its weights, on the meta device."""
    module = model_module()
    with torch.device("meta"), _LinspaceOnCpu():
        return _construct(module, size)


def random_model(size: str, seed: int) -> Any:
    """The official model with its random initial weights."""
    module = model_module()
    with torch.random.fork_rng(devices=[]):  # modules draw from the global generator when they are made
        torch.random.default_generator.manual_seed(seed)
        return _construct(module, size)


def keep_towers(model: Any, modalities: Collection[str]) -> Any:
    """`model`, all other towers taken out of it."""
    for part in PARTS:
        towers = getattr(model, f"modality_{part}")
        for modality in set(towers) - set(modalities):
            del towers[modality]
    return model


@functools.lru_cache(maxsize=2)
def token_table(config: ImageBindEncoder) -> Tensor:
    """(49408, width) float32: the embeddings of all tokens.

    Raises UserError if the package, the checkpoint or this part of it is missing.
    """
    if config.checkpoint is None:
        table: Tensor = load_towers(config, ("text",)).state_dict()[TABLE]
        return table
    tensors = read_checkpoint(config.checkpoint)
    if TABLE not in tensors:
        raise UserError(f"{config.checkpoint}: is not a checkpoint of this model: `{TABLE}` is missing")
    return tensors[TABLE].float()


@functools.lru_cache(maxsize=1)
def _tokenizer() -> Any:
    return tokenizer()


def _construct(module: Any, size: str) -> Any:
    return module.imagebind_huge(pretrained=False) if size == "huge" else module.ImageBindModel(**SMALL)


def _weights(config: ImageBindEncoder) -> str:
    """Identifies these weights."""
    drawn = f"seed {config.seed}" if config.checkpoint is None else identity(config.checkpoint)
    return f"imagebind {config.size} {drawn}"


def _norm(postprocessor: nn.Module) -> float:
    """The factor by which the official model scales unit vectors."""
    with torch.no_grad():
        return float(postprocessor(torch.eye(2)[:1]).norm())


class _LinspaceOnCpu(TorchFunctionMode):
    """Makes `torch.linspace` return real numbers (drop rates) while the model is built on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)
