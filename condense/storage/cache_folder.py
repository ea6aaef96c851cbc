"""The cache folder for expensive results. Imports nothing heavy, since light processes of a search use it too."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from condense.system.errors import UserError

KIND = re.compile(r"[a-z_]+")
NAME = re.compile(r"[0-9a-f]{32}\.safetensors")


def default_folder() -> Path:
    """`$CONDENSE_CACHE`, or the user's cache folder."""
    chosen = os.environ.get("CONDENSE_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser().absolute() / "condense"


def check_writable(folder: Path) -> None:
    """Creates the cache folder if needed. Raises UserError if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder}: the cache ($CONDENSE_CACHE) cannot be written: {error.strerror}") from None


def read_entry(folder: Path, kind: str, name: str) -> bytes | None:
    """The file of an entry of `condense.storage.store.Store`; None if it is missing. Raises ValueError for any other file."""
    if not (KIND.fullmatch(kind) and NAME.fullmatch(name)):
        raise ValueError(f"not an entry of a store: {kind}/{name}")
    try:
        return (folder / kind / name).read_bytes()
    except FileNotFoundError:
        return None
