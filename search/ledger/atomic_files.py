"""Files that appear complete or not at all, even if a process is killed."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any


def read(path: Path) -> bytes:
    """A file's content; empty if it is absent."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if the file is absent or damaged."""
    try:
        content = json.loads(read(path))
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def write(path: Path, content: bytes) -> None:
    """Replaces a file atomically and durably: readers see the old content or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:  # usually a full disk: half a file would only fill it more
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        os.fsync(folder)
    os.close(folder)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as readable JSON, atomically and durably."""
    write(path, json.dumps(content, indent=2).encode())
