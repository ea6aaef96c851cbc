"""An encoder from the user's own Python file: `specs(options)` and `build(options, dataset)`. See docs/encoders.md."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from condense.config.modalities import KINDS, NAME_RULE, is_name
from condense.config.models import PythonEncoder
from condense.data.dataset import Dataset
from condense.data.manifest import digest_file
from condense.encoders.protocol import Encoder
from condense.inputs.spec import InputSpec
from condense.storage.store import hash_of
from condense.system.errors import UserError

VERSION = 1


def python_specs(config: PythonEncoder) -> dict[str, InputSpec]:
    """The result of the file's `specs`. Raises UserError, one line naming the file, if it is invalid."""
    found = _call(config, "specs", config.options)
    if not isinstance(found, Mapping) or not all(isinstance(spec, InputSpec) for spec in found.values()):
        raise UserError(f"{config.path}: specs(options) must return modality -> InputSpec, but returned {found!r:.80}")
    for name, spec in found.items():
        at = f"{config.path}: specs(options): {name!r}"
        if not isinstance(name, str) or not is_name(name):
            raise UserError(f"{at}: a modality's name {NAME_RULE}")
        if spec.modality != name:
            raise UserError(f"{at}: its InputSpec is of the modality {spec.modality!r}: both must be the same")
        if spec.kind not in KINDS:
            raise UserError(f"{at}: its InputSpec needs a `kind`, one of {', '.join(KINDS)}, but has {spec.kind!r}")
        if not type(spec).__module__.startswith("condense."):
            type(spec).source_digest = _digest(config)  # the class belongs to this import of the file
    return dict(found)


def _digest(config: PythonEncoder) -> str:
    """Digest of the file and its options."""
    options = json.loads(json.dumps(config.options, default=str))
    return hash_of({"file": digest_file(config.path), "options": options})


class PythonFileEncoder(nn.Module):
    """The file's encoder, with a fingerprint that covers the file."""

    def __init__(self, own: Encoder, fingerprint: str) -> None:
        super().__init__()
        self.own = own  # if it is a module, it becomes a submodule and moves to devices with this one
        self.specs, self.dim, self.output_scale = dict(own.specs), own.dim, dict(own.output_scale)
        self.fingerprint = fingerprint

    def embed(self, modality: str, inputs: Tensor) -> Tensor:
        return self.own.embed(modality, inputs)


def build_python(config: PythonEncoder, dataset: Dataset) -> PythonFileEncoder:
    """The result of the file's `build`, frozen, and tested on random items of every modality.

    Raises UserError, one line naming the file, if it breaks a rule of `Encoder`.
    """
    own = _call(config, "build", config.options, dataset)
    lacking = [name for name in ("specs", "dim", "output_scale", "fingerprint", "embed") if not hasattr(own, name)]
    if lacking:
        raise UserError(f"{config.path}: build(options, dataset): the encoder has no `{lacking[0]}`")
    key = {
        "version": VERSION,
        "file": digest_file(config.path),
        "options": json.loads(json.dumps(config.options, default=str)),
        "own": str(own.fingerprint),
        "specs": {name: spec.describe() for name, spec in dataset.specs.items()},
    }
    encoder = PythonFileEncoder(own, hash_of(key)).requires_grad_(False).eval()
    for name, spec in dataset.specs.items():
        _try(config, encoder, name, spec)
    return encoder


def _call(config: PythonEncoder, name: str, *arguments: Any) -> Any:
    module = _load(config)
    if not callable(getattr(module, name, None)):
        raise UserError(f"{config.path}: has no function `{name}`")
    try:
        return getattr(module, name)(*arguments)
    except Exception as error:
        raise UserError(f"{config.path}: {name}: {_one_line(error)}") from error


def _load(config: PythonEncoder) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"condense_encoder_{config.path.stem}", config.path)
    if not config.path.is_file() or found is None or found.loader is None:
        raise UserError(f"{config.path}: no such Python file")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{config.path}: cannot be imported: {_one_line(error)}") from error
    return module


def _try(config: PythonEncoder, encoder: PythonFileEncoder, modality: str, spec: InputSpec) -> None:
    """Tests `embed` on two random items, together and alone."""
    generator = torch.Generator().manual_seed(0)
    items = torch.rand(2, *spec.shape, generator=generator) * (spec.high - spec.low) + spec.low
    items.requires_grad_()
    at = f"{config.path}: embed({modality!r}, ...)"
    try:
        embedded = encoder.embed(modality, items)
        gradient = torch.autograd.grad(embedded.square().cumsum(1).sum(), items)[0]
        alone = torch.cat([encoder.embed(modality, item[None]) for item in items.detach()])
    except Exception as error:
        raise UserError(f"{at}: {_one_line(error)}") from error
    if embedded.shape != (2, encoder.dim) or embedded.dtype != torch.float32:
        got = f"{str(embedded.dtype).removeprefix('torch.')} of shape {tuple(embedded.shape)}"
        raise UserError(f"{at}: must return float32 of shape (2, {encoder.dim}) for two items, but returned {got}")
    if not gradient.isfinite().all() or not embedded.isfinite().all():
        raise UserError(f"{at}: the embedding of a random item, or its gradient, is not finite")
    if (embedded.norm(dim=1) - 1).abs().max() > 1e-3:
        raise UserError(f"{at}: must have unit norm, but has {embedded[0].norm():.4g}")
    if (embedded - alone).abs().max() > 1e-3:
        raise UserError(f"{at}: an item's embedding must not depend on the other items of a batch")


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
