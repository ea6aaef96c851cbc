"""How far a long piece of work is, on stderr: a bar on a terminal and in a notebook, elsewhere a line every 30 s."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from condense.system.live_line import LiveLine

EVERY = 1.0  # seconds between two lines where they are renewed; 30 times that elsewhere
Describe = Callable[[int, float, str], str]  # what is done, per second, "7 min left" -> the line


class Progress:
    """Of one piece of work. As a context manager it leaves the terminal at the start of a line, after errors, too."""

    def __init__(self, total: int, describe: Describe, have: int = 0, quiet: float = 0.0) -> None:
        """`have`: what was there before, which says nothing of the rate. `quiet`: work that takes fewer seconds is not
        worth a line."""
        self.total, self.describe, self.have, self.start, self.quiet = total, describe, have, have, quiet
        self.started = self.shown = time.monotonic()
        self.news = LiveLine(sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.news.close(self.line())

    def show(self, have: int) -> None:
        """To be called as often as there is news."""
        self.have = have
        if self.is_due and time.monotonic() - self.shown >= (EVERY if self.news.is_renewed else 30 * EVERY):
            self._show()

    def end(self, have: int) -> None:
        """The last line."""
        self.have = have
        if self.is_due:
            self._show()

    @property
    def is_due(self) -> bool:
        """Whether it has taken long enough to be worth a line."""
        return time.monotonic() - self.started >= self.quiet

    @property
    def rate(self) -> float:
        """Per second."""
        return (self.have - self.start) / max(1e-9, time.monotonic() - self.started)

    @property
    def seconds_left(self) -> float:
        """Infinite while nothing moves."""
        return (self.total - self.have) / self.rate if self.rate else float("inf")

    def line(self) -> str:
        return self.describe(self.have, self.rate, time_left(self.seconds_left))

    def _show(self) -> None:
        self.shown = time.monotonic()
        self.news.show(self.line(), self.have, self.total)


def time_left(seconds: float) -> str:
    """`40 s left`, in minutes from two on, in hours from two on; infinite: nothing moves."""
    if seconds == float("inf"):
        return "stalled"
    if seconds < 120:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 7200 else f"{seconds / 3600:.1f} h left"
