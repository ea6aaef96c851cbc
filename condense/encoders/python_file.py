"""An encoder from the user's own Python file: `specs(options)` and `build(options, dataset)`. See docs/encoders.md."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from condense.config.modalities import KINDS, NAME_RULE, is_name
from condense.config.models import PythonEncoder
from condense.config.towers import PythonTower
from condense.data.dataset import Dataset
from condense.data.file_digests import digest_file
from condense.encoders.checks import check_map, one_line
from condense.encoders.protocol import Encoder
from condense.inputs.spec import InputSpec
from condense.storage.store import hash_of
from condense.system.errors import UserError

VERSION = 1


def python_specs(config: PythonEncoder) -> dict[str, InputSpec]:
    """The result of the file's `specs`. Raises UserError, one line naming the file, if it is invalid."""
    found = call_file(config, "specs", config.options)
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
            type(spec).source_digest = digest_file_and_options(config)  # the class belongs to this import of the file
    return dict(found)


def digest_file_and_options(config: PythonEncoder | PythonTower) -> str:
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
    own = call_file(config, "build", config.options, dataset)
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
        at = f"{config.path}: embed({name!r}, ...)"
        check_map(at, functools.partial(encoder.embed, name), spec, encoder.dim)
    return encoder


def call_file(config: PythonEncoder | PythonTower, name: str, *arguments: Any) -> Any:
    """The result of a function of the file. Raises UserError, one line naming the file, if there is none or it fails."""
    module = load_file(config)
    if not callable(getattr(module, name, None)):
        raise UserError(f"{config.path}: has no function `{name}`")
    try:
        return getattr(module, name)(*arguments)
    except Exception as error:
        raise UserError(f"{config.path}: {name}: {one_line(error)}") from error


def load_file(config: PythonEncoder | PythonTower) -> ModuleType:
    """The file, run. Raises UserError if it cannot be."""
    found = importlib.util.spec_from_file_location(f"condense_encoder_{config.path.stem}", config.path)
    if not config.path.is_file() or found is None or found.loader is None:
        raise UserError(f"{config.path}: no such Python file")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{config.path}: cannot be imported: {one_line(error)}") from error
    return module
