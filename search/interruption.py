"""Interruptions that are not the user's mistake: a full disk, a lost cluster. The search continues with --resume."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from condense.system.errors import is_full_disk

PROBE = 1 << 20  # bytes that must be free
SECONDS_TO_ANSWER = 30.0  # a live actor may take this long on a busy machine
GO_ON = "finished work is kept: continue with the same command and --resume"
LOST = f"the search has ended: its Ray cluster was lost, or its process was killed; {GO_ON}"


class Stopped(Exception):
    """The search cannot continue now, but can be resumed; the message is one line for the user."""


def stopped_by_full_disk(folder: Path, error: BaseException | None = None) -> Stopped:
    """The exception to raise for a full disk. It names the file in `error`, or else the results' `folder` (the full disk may
    then also be another node's)."""
    found = full_disk(error)
    file = None if found is None else found.filename
    where = file or f"{folder}, or of another folder in use"
    return Stopped(f"no space is left on the disk of {where}; {GO_ON} once there is space")


def full_disk(error: BaseException | None) -> OSError | None:
    """The full-disk error that is `error` or caused it (also inside a Ray actor); None if there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and is_full_disk(error):
            return error
        inner = getattr(error, "cause", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return None


def caused_by_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, is a full disk."""
    return full_disk(error) is not None


@contextlib.contextmanager
def stop_on_full_disk(folder: Path) -> Iterator[None]:
    """Turns any error that a full disk causes in the block into Stopped. `folder`: the results' folder."""
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if not caused_by_full_disk(error):
            raise
        raise stopped_by_full_disk(folder, error) from error


def check_room(folder: Path) -> None:
    """Raises Stopped if the disk of `folder` is full."""
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        probe.write_bytes(bytes(PROBE))
    except OSError as error:
        if caused_by_full_disk(error):
            raise stopped_by_full_disk(folder, OSError(error.errno, error.strerror, str(folder))) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def check_actors(actors: Mapping[str, Any]) -> None:
    """Raises Stopped if one of these actors (name -> handle) has died: without them every trial fails. An actor that is only
    slow to answer counts as alive."""
    import ray

    for name, actor in actors.items():
        try:
            ray.get(actor.__ray_ready__.remote(), timeout=SECONDS_TO_ANSWER)
        except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError):
            continue
        except ray.exceptions.RayActorError:
            # A cluster that is being stopped ends its actors first, and then this process.
            raise Stopped(
                f"the {name}'s process on the search's own host was killed, or its Ray cluster was lost; {GO_ON}"
            ) from None


@contextlib.contextmanager
def announce_if_killed(text: str = LOST) -> Iterator[None]:
    """Starts a small process that prints `text` on stderr if this process ends inside the block.

    This happens when it is killed, or when its cluster is lost: Ray then ends the driver from C++, past any `except`.
    """
    # It reads until this process leaves the block (which writes to the pipe) or ends (which closes it). It has its own
    # session, so that Ctrl-C on the terminal does not reach it.
    program = "import sys\nif not sys.stdin.read(): print('error:', sys.argv[1], file=sys.stderr)"
    watcher = subprocess.Popen(
        [sys.executable, "-ISc", program, text],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it may have been killed
            watcher.communicate(b"no")
