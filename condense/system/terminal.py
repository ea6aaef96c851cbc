"""What is printed reaches any terminal."""

from __future__ import annotations

import io
import sys


def print_anything() -> None:
    """From now on characters that a terminal or a log file cannot take, such as "±" in ASCII, are escaped instead of ending the
    program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook or a test may have put another one there
            stream.reconfigure(errors="backslashreplace")
