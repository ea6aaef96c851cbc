"""Opens `imagebind_huge.pth` without reading it, checks it against the model, and identifies it by a hash."""

from __future__ import annotations

import functools
import hashlib
import pickle
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condense.config.models import MODALITIES
from condense.system.errors import UserError

PARTS = ("preprocessors", "trunks", "heads", "postprocessors")  # what a tower consists of
CHUNK = 1 << 20  # bytes


def fetch(path: Path) -> str:
    """Advice for a missing or incomplete checkpoint."""
    return f"`python -m condense download imagebind --to {path}` fetches the official one"


def prefixes(modalities: Collection[str]) -> tuple[str, ...]:
    """How the keys of these modalities' towers begin."""
    return tuple(f"modality_{part}.{modality}." for part in PARTS for modality in modalities)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Its tensors by key. Memory-mapped: a tensor is read from disk when it is used.

    Raises UserError if the file is missing or incomplete, or holds anything but tensors.
    """
    _check_file(path)
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"  # written by torch.save since 1.6; older files cannot be mapped
    if zipped and not zipfile.is_zipfile(path):  # its directory is at the end
        raise UserError(f"{path}: is cut off after {path.stat().st_size:,} bytes: {fetch(path)}")
    try:
        content = torch.load(path, map_location="cpu", mmap=zipped, weights_only=True)
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: cannot be read as a checkpoint of PyTorch ({reason}): {fetch(path)}") from None
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: must hold tensors by name, as imagebind_huge.pth does: {fetch(path)}")
    return content


def select_towers(
    tensors: Mapping[str, Tensor], needed: Mapping[str, Tensor], modalities: Collection[str], path: Path
) -> dict[str, Tensor]:
    """The weights for the towers of `modalities`. `needed`: the state dict of a model with only these.

    Raises UserError if a tensor is missing, has another shape, or belongs to no tower of ImageBind.
    """
    known, wanted = prefixes(MODALITIES), prefixes(modalities)
    for key in tensors:
        if not key.startswith(known) or (key.startswith(wanted) and key not in needed):
            raise UserError(f"{path}: is not a checkpoint of this model: the model has no `{key}`")
    for key, own in needed.items():
        if key not in tensors:
            raise UserError(f"{path}: is not a checkpoint of this model: `{key}` is missing")
        if tensors[key].shape != own.shape:
            shapes = f"{tuple(own.shape)}, but got {tuple(tensors[key].shape)}"
            raise UserError(f"{path}: is not a checkpoint of this model: `{key}` must have shape {shapes}")
        if not tensors[key].is_floating_point():
            raise UserError(f"{path}: `{key}` must hold floating-point numbers, but holds {tensors[key].dtype}")
    return {key: tensors[key] for key in needed}


def identity(path: Path) -> str:
    """A hash of size, beginning and end, which identifies the content: the end holds the CRC-32 of every tensor.

    Raises UserError if there is no such file.
    """
    _check_file(path)
    status = path.stat()
    return _identity(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _identity(path: Path, size: int, _: Any) -> str:
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(CHUNK))
        file.seek(max(0, size - CHUNK))
        digest.update(file.read(CHUNK))
    return digest.hexdigest()[:32]


def _check_file(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: {fetch(path)}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
