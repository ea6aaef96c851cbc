"""Reads and writes safetensors files; turns the library's error for a full disk into an OSError."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes contiguous tensors. Raises OSError, with the file's name, for errors of the operating system."""
    try:
        safetensors.torch.save_file(dict(tensors), path, None if metadata is None else dict(metadata))
    except SafetensorError as error:
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO):
            if f"(os error {code})" in str(error):
                raise OSError(code, os.strerror(code), str(path)) from error
        raise


def tensors_of(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file's content. Raises SafetensorError or ValueError if it is damaged."""
    tensors = safetensors.torch.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # the header, which holds the metadata
    return tensors, header.get("__metadata__") or {}
