"""What ends a search before its time through nobody's mistake: a full disk, a lost cluster. It goes on with --resume."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from condense.system.errors import is_full_disk

PROBE = 1 << 20  # bytes; less than that is no room for anything
SECONDS_TO_ANSWER = 30.0  # that a living actor may take, on a busy machine
GO_ON = "what is done is kept: go on with the same command and --resume"
LOST = f"the search has ended: its Ray cluster was lost, or its process was killed; {GO_ON}"


class Stopped(Exception):
    """The search cannot go on now, but later; the message is a line for the user."""


def full(folder: Path, error: BaseException | None = None) -> Stopped:
    """What to raise for a full disk: that of the file which `error` names, or else that of the results' `folder`, unless
    another node has it."""
    found = full_disk(error)
    file = None if found is None else found.filename
    where = file or f"{folder}, or on another one in use"
    return Stopped(f"no space is left on the disk of {where}; {GO_ON} when there is")


def full_disk(error: BaseException | None) -> OSError | None:
    """The error of a full disk that led to `error` (in a Ray actor as well), or is it; None if none did."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and is_full_disk(error):
            return error
        inner = getattr(error, "cause", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return None


def says_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is that of a full disk."""
    return full_disk(error) is not None


@contextlib.contextmanager
def heeding_full_disks(folder: Path) -> Iterator[None]:
    """Raises Stopped for what a full disk has led to inside of the block; `folder`: the results'."""
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if not says_full(error):
            raise
        raise full(folder, error) from error


def check_room(folder: Path) -> None:
    """Raises Stopped if the disk of `folder` is full."""
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        probe.write_bytes(bytes(PROBE))
    except OSError as error:
        if says_full(error):
            raise full(folder, OSError(error.errno, error.strerror, str(folder))) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def check_actors(actors: Mapping[str, Any]) -> None:
    """Raises Stopped if one of these (name -> handle) has died: without them every trial fails. One that only takes long to
    answer is alive."""
    import ray

    for name, actor in actors.items():
        try:
            ray.get(actor.__ray_ready__.remote(), timeout=SECONDS_TO_ANSWER)
        except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError):
            continue
        except ray.exceptions.RayActorError:
            raise Stopped(f"the {name}'s process was killed, on the search's own host; {GO_ON}") from None


@contextlib.contextmanager
def last_word(text: str = LOST) -> Iterator[None]:
    """If this process ends inside of the block, a small other one says so on stderr.

    That it is killed is one way. The other: when its cluster is lost, Ray ends a driver from C++, where no `except` helps.
    """
    # It reads until this process leaves the block, which writes something, or ends, which closes the pipe. A session of
    # its own: what interrupts the search on a terminal is not for it.
    program = "import sys\nif not sys.stdin.read(): print('error:', sys.argv[1], file=sys.stderr)"
    herald = subprocess.Popen(
        [sys.executable, "-ISc", program, text],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it may have been killed
            herald.communicate(b"no")
