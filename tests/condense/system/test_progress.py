"""The lines that say how far something is."""

from __future__ import annotations

import io
import math

import pytest

from condense.system import progress
from condense.system.progress import Progress, time_left


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def told(have: int, rate: float, left: str) -> str:
    return f"{have:,} of 200,000, {rate:.0f} items/s, {left}"


def go(clock: list[float], quiet: float = 0.0) -> None:
    with Progress(200_000, told, have=6_600, quiet=quiet) as shown:
        for second in range(1, 71):
            clock[0] = second / 2
            shown.show(6_600 + 155 * second)


def test_on_a_terminal_one_line_is_rewritten(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    go(clock, quiet=3.0)
    shown = progress.sys.stderr.getvalue()
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
    lines = shown.strip().split("\r")
    assert len(lines) == 33  # each second from the third on
    assert lines[17].strip() == "12,800 of 200,000, 310 items/s, 10 min left"


def test_elsewhere_there_is_a_line_every_half_minute(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    go(clock)
    assert capsys.readouterr().err == "15,900 of 200,000, 310 items/s, 10 min left\n"


def test_short_work_shows_nothing_and_its_end_where_that_is_wanted(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for quiet, lines in ((3.0, 0), (0.0, 1)):
        with Progress(10, told, quiet=quiet) as shown:
            clock[0] += 1.0
            shown.end(10)
        assert len(capsys.readouterr().err.splitlines()) == lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (math.inf, "stalled"),
        (0, "0 s left"),
        (119, "119 s left"),
        (130, "2 min left"),
        (7000, "117 min left"),
        (9000, "2.5 h left"),
    ],
)
def test_time_left(seconds: float, text: str) -> None:
    assert time_left(seconds) == text
