"""Progress lines of a benchmark, on stderr: what goes on, since when, and again every 25 s."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

STARTED = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:5.0f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def told(text: str, every: float = 25.0) -> Iterator[None]:
    """Says what goes on at its beginning, and again every so many seconds."""
    done = Event()

    def remind() -> None:
        while not done.wait(every):
            say(f"{text} ...")

    say(text)
    thread = Thread(target=remind, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
