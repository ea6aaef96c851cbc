"""Ctrl-C, SIGTERM (`scancel`, `docker stop`) and a lost connection, at a moment of the work's own choice."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interruption:
    """While it is entered, a signal raises KeyboardInterrupt: at once, or, if `waits`, from the next `check`.

    Where the work does not look, a second signal raises at once. Signals that the process ignores (`nohup`) stay ignored.
    Outside of the main thread, which alone gets signals, it does nothing.
    """

    def __init__(self, waits: bool = False) -> None:
        self.waits = waits
        self.asked = False
        self._before: dict[int, Any] = {}

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal has come."""
        if self.asked:
            raise KeyboardInterrupt

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _came(self, number: int, frame: FrameType | None) -> None:
        if not self.waits or self.asked:
            raise KeyboardInterrupt
        self.asked = True
