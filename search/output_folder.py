"""Where the folders are that a search writes to, if their paths are relative."""

from __future__ import annotations

from pathlib import Path

from condense.system.errors import UserError

OF_A_JOB = ("runtime_resources", "working_dir_files")  # in the path of a Ray job's own folder


def placed(path: Path) -> Path:
    """`path`; in a Ray job a relative one is in the user's home, as with `ray submit`: Ray deletes a job's own folder.

    Raises UserError in a Ray job of a user without a home.
    """
    if path.is_absolute() or not _is_of_a_job(Path.cwd()):
        return path
    try:
        return Path.home() / path
    except RuntimeError:
        raise UserError(f"{path}: must be absolute, since Ray deletes this job's folder") from None


def _is_of_a_job(folder: Path) -> bool:
    parts = folder.parts
    return any(parts[i : i + 2] == OF_A_JOB for i in range(len(parts)))
