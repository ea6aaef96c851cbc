"""The exceptions that trials raise, with their tracebacks, and how often in a row an attempt ended with the same one."""

from __future__ import annotations

import re
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from search.ledger.atomic_files import read_json, write_json

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Fault:
    """An exception that ended an attempt at a trial."""

    text: str  # `RuntimeError: the camera is off`, one line
    trace: str  # its traceback, of the process that raised it
    times: int = 1  # attempts of the trial in a row that it ended


def record_fault(folder: Path, text: str, trace: str) -> Fault:
    """Keeps it in a trial's folder, and counts."""
    before = read_fault(folder)
    fault = Fault(text, trace, before.times + 1 if before is not None and before.text == text else 1)
    write_json(folder / "fault.json", asdict(fault))
    return fault


def read_fault(folder: Path) -> Fault | None:
    """The last exception that a trial has raised, in this attempt or an earlier one; None if there was none."""
    known = read_json(folder / "fault.json")
    return None if known is None else Fault(**known)


def described(error: Exception) -> tuple[str, str]:
    """(text, traceback) of an exception; of one that came from an actor, those of the actor."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):  # Ray's: its own text is the actor's traceback
        return f"{type(cause).__name__}: {cause}", COLOURS.sub("", str(error))
    return f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
