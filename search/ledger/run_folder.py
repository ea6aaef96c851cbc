"""Ownership of an output folder: one driver at a time, and the same search forever."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from condense.config.places import without_places
from condense.system.errors import UserError
from search.ledger.data_identity import known_tasks
from search.output_folder import placed

LOOKS = 4  # at a lock, before it counts as another driver's
# Keys that a resumed search may change: they alter how much is run, and what is proposed next, not what a trial is.
AMOUNTS = ("trials", "budget", "max_concurrent", "confirmation", "resources", "checkpoint_every", "storage")
PROPOSALS = ("search", "constraints", "sampler", "scheduler", "objectives", "warm_start")
CHANGEABLE = (*AMOUNTS, *PROPOSALS)


def absolute_folder(output: Path) -> Path:
    """See `placed`. Raises UserError for the address of an object store, which would become a folder named s3:."""
    if re.match(r"[a-z][a-z0-9+.-]*:/", str(output), re.IGNORECASE):  # Path turned // into /
        raise UserError(
            f"--output {output}: must be a local folder; docs/reliability.md shows how to copy it elsewhere"
        )
    return placed(output).absolute()


def task_suffix(task: int) -> str:
    """Suffix of files that exist per task: empty for the first."""
    return f"_task_{task}" if task else ""


def condensed_folder(output: Path, task: int) -> Path:
    """The folder for a task's condensed set."""
    return output / f"condensed{task_suffix(task)}"


def holds_search(output: Path) -> bool:
    """Whether a search has begun in this folder."""
    return (output / "search.json").exists()


def check_resumable(output: Path) -> None:
    """Raises UserError if there is no search to resume."""
    if not holds_search(output):
        raise UserError(f"{output}: holds no search to resume (there is no search.json)")


def check_search(output: Path) -> None:
    """Raises UserError if there is no search in `output`, or its record is damaged."""
    file = output / "search.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{output}: holds no search (there is no search.json)") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    if not isinstance(known, dict) or not isinstance(known.get("space"), dict):
        raise UserError(f"{file}: is damaged: it is not the record of a search")


def check_folder(output: Path, space: Mapping[str, Any], resume: bool, known: Mapping[str, Any] | None) -> None:
    """Raises UserError unless a search of `space` may be written to `output`. `known`: the content of its search.json."""
    file = output / "search.json"
    begun = any((output / "trials").glob("*/trial.json"))
    if not file.exists():
        if begun:
            raise UserError(f"{output}: holds trials but no search.json: choose another --output")
        return
    if not (begun or resume):
        return
    if known is None or not isinstance(known.get("space"), dict):
        raise UserError(f"{file}: is damaged: it does not hold the record of a search")
    there = known["space"]
    if known_tasks(output) is not None:  # what the data hold is compared once they are read
        there, space = tasks_without_places(there), tasks_without_places(space)
    difference = _difference(there, space, CHANGEABLE)
    if difference is not None:
        key, there, here = difference
        raise UserError(
            f"{output}: holds another search: `{key}` is {there} there but {here} here; --output OTHER --warm-start {output} "
            "begins one with what this has found"
        )
    if not resume:
        raise UserError(f"{output}: already holds this search: continue with --resume, or choose another --output")


def changed_proposals(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What a search goes on with that is not as it was: keys of its recorded space and of that of now."""
    return [key for key in PROPOSALS if key in there and there[key] != here.get(key)]


def tasks_without_places(space: Mapping[str, Any]) -> dict[str, Any]:
    """A space, as JSON, without where its data and encoders lie."""
    tasks = space.get("tasks")
    return {**space, "tasks": [without_places(task) for task in tasks] if isinstance(tasks, list) else tasks}


def _difference(there: Any, here: Any, skip: Iterable[str] = ()) -> tuple[str, str, str] | None:
    """The first place where two JSON values differ: its key, and both values as text."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(key for key in here if key not in there)]:
            if key in skip:
                continue
            if key not in there or key not in here:
                return key, "present" if key in there else "absent", "present" if key in here else "absent"
            inner = _difference(there[key], here[key])
            if inner is not None:
                return f"{key}.{inner[0]}" if inner[0] else key, inner[1], inner[2]
        return None
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        return _difference(dict(enumerate(there)), dict(enumerate(here)))
    return None if there == here else ("", json.dumps(there), json.dumps(here))


def is_in_use(output: Path) -> bool:
    """Whether a driver is at work on the search in `output`, on a file system that has locks."""
    try:
        with open(output / ".lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no driver has ever been there, or no locks
        return False
    return False


def lock_folder(output: Path) -> TextIO:
    """Locks the folder; the lock lives as long as the returned file. Raises UserError if another driver holds it."""
    file = open(output / ".lock", "a+")  # noqa: SIM115  # stays open: the lock lives as long as the file is open
    try:
        for more in reversed(range(LOOKS)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # `is_in_use` holds it for a moment
                if not more:
                    raise
                time.sleep(0.05)
    except OSError as error:
        file.seek(0)
        owner = " ".join(file.read(200).split()) or "unknown process"
        file.close()
        if isinstance(error, BlockingIOError):
            raise UserError(f"{output}: another search is writing to it ({owner})") from None
        raise
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file
