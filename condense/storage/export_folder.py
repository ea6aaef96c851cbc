"""Whose the folder of a condensed dataset is. Imports nothing heavy: a search looks before it begins."""

from __future__ import annotations

from pathlib import Path

from condense.system.errors import UserError

RECORD = "condensed.json"


def check_replaceable(directory: Path) -> None:
    """Nothing of the user's may be deleted: raises UserError unless there is an earlier export, an empty folder, or nothing."""
    if directory.is_dir():
        if any(directory.iterdir()) and not (directory / RECORD).is_file():
            raise UserError(f"{directory}: holds other files: only an earlier condensed dataset may be replaced")
    elif directory.exists():
        raise UserError(f"{directory}: must be a folder, but is a file")
