"""Checks that an export may replace a folder. Imports nothing heavy, since a search checks before it starts."""

from __future__ import annotations

from pathlib import Path

from condense.system.errors import UserError

RECORD = "condensed.json"


def check_replaceable(directory: Path) -> None:
    """Raises UserError unless `directory` is an earlier export, empty or missing: the user's files must not be deleted."""
    if directory.is_dir():
        if any(directory.iterdir()) and not (directory / RECORD).is_file():
            raise UserError(f"{directory}: holds other files: only an earlier condensed dataset may be replaced")
    elif directory.exists():
        raise UserError(f"{directory}: must be a folder, but is a file")
