"""What says how far something is: bars on terminals and in notebooks, lines elsewhere."""

from __future__ import annotations

import builtins
import contextlib
import errno
import logging
import math
import os
import pty
import subprocess
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from screen import Screen, Stream

from condense.system import progress
from condense.system.live_line import LiveLine
from condense.system.progress import Progress, time_left


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    return Screen.of(monkeypatch)


def told(have: int, rate: float, left: str) -> str:
    return f"{have:,} of 200,000, {rate:.0f} items/s, {left}"


def go(clock: list[float], quiet: float = 0.0) -> None:
    with Progress(200_000, told, have=6_600, quiet=quiet) as shown:
        for second in range(1, 71):
            clock[0] = second / 2
            shown.show(6_600 + 155 * second)


def bare(line: str) -> str:
    """Without the bar."""
    return line.lstrip("━╺╸ ")


# --- a piece of work


def test_on_a_terminal_a_bar_is_renewed_and_leaves_a_line(
    clock: list[float], screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", screen)  # here: pytest sets its own between fixtures and test
    seen = []
    with Progress(200_000, told, have=6_600, quiet=3.0) as shown:
        for second in range(1, 71):
            clock[0] = second / 2
            shown.show(6_600 + 155 * second)
            seen.append(screen.lines)
    assert seen[4] == [""]
    assert len({lines[0] for lines in seen}) == 34  # nothing, then each second from the third on
    assert seen[39][0].startswith("━")
    assert bare(seen[39][0]) == "12,800 of 200,000, 310 items/s, 10 min left"
    assert all(len(lines) == 1 for lines in seen)
    assert screen.lines == ["17,450 of 200,000, 310 items/s, 10 min left", ""]


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


def test_an_error_leaves_the_terminal_at_the_start_of_a_line(
    clock: list[float], screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", screen)  # here: pytest sets its own between fixtures and test
    with contextlib.suppress(KeyError), Progress(10, told) as shown:
        clock[0] += 1.0
        shown.show(5)
        raise KeyError
    assert screen.lines == ["5 of 200,000, 5 items/s, 1 s left", ""]
    assert sys.stderr is screen


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


# --- where it is shown


def test_what_is_printed_and_logged_meanwhile_stands_above(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, screen)
    handler = logging.StreamHandler()  # on the stderr of now
    log = logging.getLogger("a test of the live line")
    log.addHandler(handler)
    log.propagate = False
    line = LiveLine(screen)
    line.show("half", 1, 2)
    print("printed")
    log.warning("logged")
    line.say("said " * 30)
    assert [bare(text) for text in screen.lines] == ["printed", "logged", ("said " * 30).rstrip(), "half"]
    line.show("all", 2, 2)
    line.close("done")
    assert handler.stream is screen and sys.stdout is screen and sys.stderr is screen
    log.warning("logged afterwards")
    assert screen.lines[-3:] == ["done", "logged afterwards", ""]
    assert len(screen.lines) == 6
    log.removeHandler(handler)


def test_what_goes_to_a_file_does_not_come_to_the_terminal(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Stream()
    monkeypatch.setattr(sys, "stderr", file)
    line = LiveLine(screen)
    line.show("half", 1, 2)
    print("error: gone", file=sys.stderr)
    line.close("done")
    assert file.getvalue() == "error: gone\n"
    assert screen.lines == ["done", ""]


def test_a_second_bar_at_the_same_time_is_plain_lines(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen)  # here: pytest sets its own between fixtures and test
    first, second = LiveLine(screen), LiveLine(screen)
    first.show("first: 1 of 2", 1, 2)
    assert first.is_renewed and not second.is_renewed
    while_it_stands = LiveLine(sys.stderr)  # which is rich's now
    second.show("second: 1 of 2", 1, 2)
    while_it_stands.show("third: 1 of 2", 1, 2)
    assert [bare(line) for line in screen.lines] == ["second: 1 of 2", "third: 1 of 2", "first: 1 of 2"]
    first.close("first: done")
    second.show("second: 2 of 2", 2, 2)  # there is room for it now
    assert bare(screen.lines[-1]) == "second: 2 of 2" != screen.lines[-1]
    second.close("second: done")
    while_it_stands.close("")
    assert screen.lines == ["second: 1 of 2", "third: 1 of 2", "first: done", "second: done", ""]


def test_one_that_was_closed_has_no_bar_any_more(screen: Screen) -> None:
    line = LiveLine(screen)
    line.close("nothing was shown")
    assert screen.lines == [""]
    line.show("too late", 1, 2)
    assert screen.lines == ["too late", ""]


def test_any_thread_may_show_and_say(screen: Screen) -> None:
    line = LiveLine(screen)

    def work(number: int) -> None:
        for step in range(20):
            line.show(f"thread {number}: {step}", step, 20)
            line.say(f"said {number} {step}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    line.close("done")
    assert sorted(screen.lines[:-2]) == sorted(f"said {number} {step}" for number in range(4) for step in range(20))
    assert screen.lines[-2:] == ["done", ""]


@pytest.mark.parametrize(("columns", "rows"), [(100, 1), (45, 2), (20, 2)])
def test_a_narrow_terminal_has_the_bar_above_and_loses_the_end(
    monkeypatch: pytest.MonkeyPatch, columns: int, rows: int
) -> None:
    screen = Screen.of(monkeypatch, columns)
    line = LiveLine(screen)
    for have in range(3):
        line.show(f"{have} of 2 and so on, it is a long line", have, 2)
        assert len(screen.lines) == rows
        assert max(map(len, screen.lines)) <= columns
    assert ("long line" in screen.lines[-1]) == (columns > 20)
    line.close("done")
    assert screen.lines == ["done", ""]


def test_a_terminal_without_unicode_gets_what_it_can_show(screen: Screen) -> None:
    screen.encoding = "ascii"
    line = LiveLine(screen)
    line.show("naïve 数字: 1 of 2", 1, 2)
    assert screen.lines[0].startswith("---") and screen.lines[0].endswith("na?ve ??: 1 of 2")
    line.say("Größe")
    line.close("naïve")
    assert screen.lines == ["Gr??e", "na?ve", ""]


def test_a_file_without_unicode_gets_what_it_can_hold() -> None:
    file = Stream()
    file.encoding = "latin-1"
    LiveLine(file).show("Größe 数字", 1, 2)
    assert file.getvalue() == "Größe ??\n"


def test_colours_are_left_out_where_they_are_not_wanted(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, coloured in (("COLUMNS", "100", True), ("NO_COLOR", "1", False)):
        monkeypatch.setenv(name, value)
        line = LiveLine(screen)
        line.show("half", 1, 2)
        assert ("\x1b[38" in screen.getvalue()) == coloured
        assert bare(screen.lines[-1]) == "half" != screen.lines[-1]
        line.close("done")
        screen.seek(0)
        screen.truncate()


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("TTY_INTERACTIVE", "0")])
def test_a_terminal_that_cannot_renew_a_line_gets_plain_ones(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    line = LiveLine(screen)
    assert not line.is_renewed
    line.show("half", 1, 2)
    line.close("done")
    assert screen.getvalue() == "half\n"


def test_no_variable_brings_control_characters_into_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.setenv(name, "1")
    file = Stream()
    line = LiveLine(file)
    line.show("half", 1, 2)
    line.close("done")
    assert file.getvalue() == "half\n"


def test_a_process_without_a_stdout_is_no_trouble() -> None:
    line = LiveLine(None)
    line.show("half", 1, 2)
    line.say("a line")
    line.close("done")


class Gone(Screen):
    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_terminal_that_has_gone_raises_nothing(screen: Screen) -> None:
    for stream in (Gone(), screen):
        line = LiveLine(stream)
        line.show("half", 1, 2)
        line.say("a line")
        line.close("done")
    assert screen.lines == ["a line", "done", ""]


def test_a_notebook_has_a_bar_without_ipywidgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """As IPython is there: rich asks for the class of its shell, and a display is renewed by its handle."""
    shown: list[Any] = []

    class ZMQInteractiveShell:
        pass

    def display(item: Any, display_id: bool) -> Any:
        shown.append(item)
        return SimpleNamespace(update=lambda other: shown.__setitem__(0, other))

    for name in ("IPython", "IPython.display"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["IPython.display"].display = display  # type: ignore[attr-defined]
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    cell = Stream()
    monkeypatch.setattr(sys, "stderr", cell)
    line = LiveLine(cell)
    assert line.is_renewed
    assert not LiveLine(Stream()).is_renewed  # a file that somebody has opened
    for have in range(3):
        line.show(f"{have} of <2>", have, 2)
    mime = shown[0]._repr_mimebundle_(None, None)
    assert "━━━" in mime["text/html"] and "2 of &lt;2&gt;" in mime["text/html"]
    assert mime["text/plain"].strip().endswith("2 of <2>") and "\x1b" not in mime["text/plain"]
    line.say("a line")
    line.close("done")
    assert cell.getvalue() == "a line\n"
    assert len(shown) == 1
    assert shown[0]._repr_mimebundle_(None, None)["text/plain"].strip() == "done"


PROGRAM = """
import sys, time
from condense.system.live_line import LiveLine
line = LiveLine(sys.stderr)
for have in range(4):
    line.show(f"{have} of 3", have, 3)
    print("printed", have)
line.close("done")
print("after")
"""


def test_in_a_terminal_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the output of a process, as the kernel passes it on."""
    screen = Screen.of(monkeypatch)
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    content = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux says so at the end of a pseudo-terminal
            break
        if not part:
            break
        content += part
    os.close(ours)
    assert process.wait() == 0
    screen.write(content.decode())
    assert screen.lines == ["printed 0", "printed 1", "printed 2", "printed 3", "done", "after", ""]


def test_nothing_is_imported_that_shows_nothing() -> None:
    """Engines and trials start sooner without rich."""
    program = (
        "import sys, condense.system.progress as p; p.Progress(1, lambda *_: '').end(1); print('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
