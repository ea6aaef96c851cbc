"""News of a long piece of work: a bar that `rich` renews on a terminal and in a notebook; elsewhere plain lines.

There is room for one bar, so a second one in the process gets plain lines as well. While a bar stands, whatever this process
prints on that terminal, or logs, appears above it. Files and pipes get no control characters.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

# rich itself is imported where there is something to show: engines and trials, which show nothing, start without it.
if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

WIDEST_BAR, NARROWEST_BAR = 30, 10  # characters
NOTEBOOK_WIDTH = 100  # characters
_lock = threading.RLock()
_standing: LiveLine | None = None  # the one whose bar is on the terminal


class SteadyStream:
    """A text stream that raises nothing: what its encoding lacks becomes `?`, and what nobody can read any more is lost."""

    def __init__(self, stream: TextIO | None) -> None:
        """None: as sys.stdout is in a process that was started without."""
        self.stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return _is_terminal(self.stream)

    def write(self, text: str) -> int:
        if self.stream is not None:
            with contextlib.suppress(OSError):  # a terminal that has gone takes no search with it
                self.stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        if self.stream is not None:
            with contextlib.suppress(OSError):
                self.stream.flush()


class LiveLine:
    """Any thread may call its methods. Who has called `show` calls `close` in the end."""

    def __init__(self, stream: TextIO | None) -> None:
        """`stream`: for plain lines, and the terminal, if it is one."""
        stream = getattr(stream, "rich_proxied_file", stream)  # while another bar stands, sys.stderr is rich's
        self.stream = SteadyStream(stream)
        self.notebook = _Notebook() if _in_notebook(stream) else None
        self.console = None if self.notebook is not None else _console_of(self.stream)
        self.live: Live | None = None
        self.closed = False
        self.logs: list[tuple[logging.StreamHandler[Any], Any]] = []  # handlers, and the streams that they had

    @property
    def is_renewed(self) -> bool:
        """Whether news takes the place of the news before. Where it does not, it should be rare."""
        return self.notebook is not None or (self.console is not None and _standing in (None, self))

    def show(self, text: str, done: int, total: int, rows: Sequence[str] = ()) -> None:
        """`text` as a plain line; where that is renewed, a bar and `rows` instead (by default `text`), the first beside it."""
        with _lock:
            if self.notebook is not None:
                self.notebook.show(_with_bar(rows or [text], done, total, NOTEBOOK_WIDTH))
            elif self.console is not None and self._stand():
                assert self.live is not None
                self.live.update(_with_bar(rows or [text], done, total, self.console.width), refresh=True)
            else:
                self.say(text)

    def say(self, text: str) -> None:
        """A line that stays; above the bar, if one stands."""
        with _lock:
            if self.console is not None and _standing is not None and _standing.console is not None:
                from rich.text import Text

                _standing.console.print(Text(text), soft_wrap=True)
            else:
                self.stream.write(text + "\n")
                self.stream.flush()

    def close(self, text: str) -> None:
        """Leaves `text` in place of the bar, if there is one."""
        with _lock:
            self.closed = True
            if self.notebook is not None:
                self.notebook.close(text)
            elif self.live is not None:
                self._fall()
                self.say(text)

    def _stand(self) -> bool:
        """Whether the bar stands on the terminal, if need be from now on."""
        global _standing
        if self.live is None and _standing is None and not self.closed:
            from rich.live import Live

            before = [sys.stdout, sys.stderr]
            # No thread of its own. Output that goes elsewhere than to a terminal still goes there.
            self.live = Live(
                console=self.console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=_is_terminal(sys.stdout),
                redirect_stderr=_is_terminal(sys.stderr),
            )
            _standing = self
            self.live.start()
            for handler in _log_handlers():
                if handler.stream in before:
                    self.logs.append((handler, handler.stream))
                    handler.setStream([sys.stdout, sys.stderr][before.index(handler.stream)])
        return self.live is not None

    def _fall(self) -> None:
        global _standing
        live, self.live = self.live, None
        _standing = None
        for handler, stream in self.logs:
            handler.setStream(stream)
        self.logs.clear()
        if live is not None:
            live.stop()


class _Notebook:
    """An output of the cell that is renewed through IPython: rich's own way needs ipywidgets."""

    def __init__(self) -> None:
        self.handle: Any = None

    def show(self, renderable: RenderableType) -> None:
        from IPython.display import display
        from rich.console import Console
        from rich.jupyter import JUPYTER_HTML_FORMAT, JupyterRenderable

        console = Console(
            file=io.StringIO(),
            record=True,
            width=NOTEBOOK_WIDTH,
            color_system="truecolor",
            force_jupyter=False,
            force_terminal=True,
        )
        console.print(renderable)
        text = console.export_text(clear=False)
        shown = JupyterRenderable(console.export_html(inline_styles=True, code_format=JUPYTER_HTML_FORMAT), text)
        if self.handle is None:
            self.handle = display(shown, display_id=True)
        else:
            self.handle.update(shown)

    def close(self, text: str) -> None:
        if self.handle is not None:
            from rich.text import Text

            self.show(Text(text))


def _with_bar(rows: Sequence[str], done: int, total: int, width: int) -> RenderableType:
    """Beside the first row if that leaves room for it, else above. A row that is too long loses its end: what wraps could
    not be renewed."""
    from rich.cells import cell_len
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    texts = [Text(row, no_wrap=True, overflow="ellipsis") for row in rows if row]
    room = width - cell_len(rows[0]) - 2
    beside = [texts.pop(0)] if room >= NARROWEST_BAR else []
    first = Table.grid(padding=(0, 1))
    first.add_row(
        ProgressBar(total=total, completed=done, width=min(WIDEST_BAR, room if beside else width - 1)), *beside
    )
    return Group(first, *texts)


def _console_of(stream: SteadyStream) -> Console | None:
    """None for what is no terminal, or one that cannot move its cursor ($TERM is dumb)."""
    if not stream.isatty():
        return None
    from rich.console import Console

    class PlainConsole(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False  # it stays: a process that is killed could not bring it back

    console = PlainConsole(file=stream, force_jupyter=False)  # type: ignore[arg-type]
    return console if console.is_interactive else None


def _in_notebook(stream: TextIO | None) -> bool:
    if "IPython" not in sys.modules or not any(stream is standard for standard in (sys.stdout, sys.stderr)):
        return False
    from rich.console import Console

    return Console().is_jupyter


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


def _log_handlers() -> list[logging.StreamHandler[Any]]:
    """Those of all loggers that write to a stream, as logging.basicConfig makes them."""
    loggers = [
        logging.root,
        *(one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)),
    ]
    return [one for logger in loggers for one in logger.handlers if isinstance(one, logging.StreamHandler)]
