"""What other processes ask of a search that runs: files in its folder, which it looks for.

requests/conclude      end the trials now, confirm what there is
trials/00012/stop      end this trial at its next report, with the score that it has; kept, so that it holds after a kill
"""

from __future__ import annotations

from pathlib import Path

from search.ledger.atomic_files import write

FOLDER = "requests"
CONCLUDE = "conclude"
STOPPED = "stopped by --stop-trial"  # in the record of such a trial


def ask(output: Path, request: str) -> None:
    """Asks the search that runs in `output`."""
    (output / FOLDER).mkdir(exist_ok=True)
    write(output / FOLDER / request, b"")


def pending(output: Path) -> list[str]:
    """What has been asked and not been looked at."""
    folder = output / FOLDER
    return sorted(file.name for file in folder.iterdir() if file.name[0] != ".") if folder.is_dir() else []


def take(output: Path) -> list[str]:
    """As `pending`; each request is taken once. To be called by the search itself; also when it begins, since what was asked of
    an earlier process is over."""
    found = pending(output)
    for request in found:
        (output / FOLDER / request).unlink(missing_ok=True)
    return found


def stop_trial(output: Path, number: int) -> None:
    """Asks the search that runs in `output` to end a trial that has begun."""
    write(_mark(output, number), b"")


def is_to_stop(output: Path, number: int) -> bool:
    """Whether `stop_trial` has asked for it."""
    return _mark(output, number).exists()


def _mark(output: Path, number: int) -> Path:
    return output / "trials" / f"{number:05d}" / "stop"
