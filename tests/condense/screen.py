"""Streams that stand for a log file and for a terminal, which does what it is told to."""

from __future__ import annotations

import io
import re

import pytest


class Stream(io.StringIO):
    """A log file, or a pipe. `encoding` as of one that is opened for text."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return False


class Screen(Stream):
    """A terminal that knows the control sequences which move one row up and empty a row, and colours."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.row, self.column = [""], 0, 0
        self.renewed = 0  # writes that show something

    @staticmethod
    def of(monkeypatch: pytest.MonkeyPatch, columns: int = 100) -> Screen:
        """A terminal as rich sees it in the environment."""
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", str(columns))
        return Screen()

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """Without what is empty below the cursor."""
        lines = [row.rstrip() for row in self.rows]
        while len(lines) > self.row + 1 and not lines[-1]:
            lines.pop()
        return lines

    def write(self, text: str) -> int:
        text.encode(self.encoding)  # raises what a terminal would
        shows = False
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", text):
            if part == "\r":
                self.column = 0
            elif part == "\n":
                self.row, self.column = self.row + 1, 0
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif part == "\x1b[2K":
                self.rows[self.row] = ""
            elif part == "\x1b[1A":
                self.row -= 1
            elif not part.startswith("\x1b"):
                row = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = row[: self.column] + part + row[self.column + len(part) :]
                self.column += len(part)
                shows = True
            else:
                assert part.endswith("m"), f"an unknown control sequence: {part!r}"
        self.renewed += shows
        return super().write(text)
