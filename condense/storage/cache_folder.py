"""The cache folder for expensive results. Imports nothing heavy, since light processes of a search use it too."""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path

from condense.system.errors import UserError

KIND = re.compile(r"[a-z_]+")
NAME = re.compile(r"[0-9a-f]{32}\.safetensors")
VERIFY = "CONDENSE_VERIFY"  # ns since the epoch: what is known of files from before does not count


def default_folder() -> Path:
    """`$CONDENSE_CACHE`, or the user's cache folder."""
    chosen = os.environ.get("CONDENSE_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    chosen = os.path.expanduser(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    if chosen.startswith("~"):
        raise UserError(
            "this user has no home folder: set CONDENSE_CACHE to a folder for datasets, encoders and embeddings"
        )
    return Path(chosen).absolute() / "condense"


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


def begin_to_verify() -> None:
    """From now on, in this process and in those that it starts, no file counts as read before."""
    os.environ[VERIFY] = str(time.time_ns())


def verified_since() -> int:
    """Nanoseconds since the epoch: what was read of files before then does not count."""
    return int(os.environ.get(VERIFY) or 0)


def verify_variables() -> dict[str, str]:
    """The environment that carries `verified_since` to a process elsewhere; empty if everything counts."""
    return {VERIFY: os.environ[VERIFY]} if os.environ.get(VERIFY) else {}
