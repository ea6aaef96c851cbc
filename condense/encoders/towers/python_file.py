"""A tower from the user's own Python file: `spec(options)` and `build(options)`; or the file of a `python` encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from condense.config.towers import PythonTower
from condense.data.dataset import Dataset
from condense.encoders.checks import check_map
from condense.encoders.python_file import call_file, digest_file_and_options, load_file
from condense.encoders.towers.protocol import Tower
from condense.inputs.spec import InputSpec
from condense.storage.store import hash_of
from condense.system.errors import UserError

VERSION = 1


def python_tower_spec(config: PythonTower, modality: str, key: str) -> InputSpec:
    """The input that the file asks for. Raises UserError, naming the file, if it is none."""
    spec = _own_spec(config, modality, key)
    if not type(spec).__module__.startswith("condense."):
        type(spec).source_digest = digest_file_and_options(config)  # the class belongs to this import of the file
    return dataclasses.replace(spec, modality=modality)


def _own_spec(config: PythonTower, modality: str, key: str) -> InputSpec:
    """As the file names it: an encoder's file may call the modality otherwise if it has no more than one."""
    if hasattr(load_file(config), "spec"):
        found = call_file(config, "spec", config.options)
        if not isinstance(found, InputSpec):
            raise UserError(f"{config.path}: spec(options) must return an InputSpec, but returned {found!r:.80}")
        return found
    several = call_file(config, "specs", config.options)
    if not isinstance(several, Mapping) or not all(isinstance(spec, InputSpec) for spec in several.values()):
        raise UserError(
            f"{config.path}: specs(options) must return modality -> InputSpec, but returned {several!r:.80}"
        )
    if modality not in several and len(several) != 1:
        raise UserError(f"{key}: {config.path} has no input for {modality!r}, but for {', '.join(several)}")
    sole: InputSpec = several[modality] if modality in several else next(iter(several.values()))
    return sole


class PythonFileTower(Tower):
    """What the file's `build` has made; its features are tried once for their number."""

    def __init__(self, own: Callable[[Tensor], Tensor], module: Any, fingerprint: str) -> None:
        """`own`: the map; `module`: what holds its weights, if that is a module, which then moves to devices with this one."""
        super().__init__()
        self.module = module
        self.own = own
        self.fingerprint = fingerprint

    def forward(self, inputs: Tensor) -> Tensor:
        return self.own(inputs)


def build_python_tower(
    config: PythonTower, modality: str, spec: InputSpec, dataset: Dataset, precision: torch.dtype, key: str
) -> PythonFileTower:
    """Raises UserError, naming the file, if it fails or breaks a rule of `Tower`."""
    if precision != torch.float32:
        raise UserError(f"{key}: a tower of a Python file has a precision of its own: `precision` must be float32")
    if hasattr(load_file(config), "spec"):
        built = call_file(config, "build", config.options)
        if not callable(built):
            raise UserError(
                f"{config.path}: build(options) must return a module or function, but returned {built!r:.80}"
            )
        own, said = built, getattr(built, "fingerprint", "")
    else:
        name = _own_spec(config, modality, key).modality
        part = dataclasses.replace(dataset, specs={name: dataclasses.replace(spec, modality=name)})
        built = call_file(config, "build", config.options, part)
        if lacking := [each for each in ("embed", "fingerprint") if not hasattr(built, each)]:
            raise UserError(f"{config.path}: build(options, dataset): the encoder has no `{lacking[0]}`")
        own, said = (lambda inputs: built.embed(name, inputs)), built.fingerprint
    fingerprint = hash_of({"version": VERSION, "file": digest_file_and_options(config), "own": str(said)})
    tower = PythonFileTower(own, built, fingerprint)
    if isinstance(built, nn.Module):
        built.requires_grad_(False).eval()
    tower.width = check_map(f"{config.path}: {key}", tower, spec, None, unit=False)
    return tower
