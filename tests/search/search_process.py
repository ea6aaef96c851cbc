"""A search as users start it: `python search/run.py ...` in a process of its own, watched, interrupted, killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

RUN = Path(__file__).parents[2] / "search" / "run.py"
SECONDS = 400  # that one search of the tests may take on a busy machine; half a minute on an idle one


class SearchProcess:
    """`python search/run.py *arguments`, in a session of its own; its output goes to files, which Ray's outlive."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        """`folder`: where it runs, and where its output is kept."""
        self.out, self.err = folder / "stdout.txt", folder / "stderr.txt"
        with self.out.open("w") as out, self.err.open("w") as err:
            command = [sys.executable, str(RUN), *arguments]
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=out, stderr=err, start_new_session=True, preexec_fn=heed_signals
            )

    def finish(self) -> int:
        """Waits for its end; the exit status."""
        return self.process.wait(SECONDS)

    def until(self, condition: Callable[[], Any]) -> Any:
        """Waits until `condition` is true, and returns its value; fails if the search ends or takes too long."""
        deadline = time.monotonic() + SECONDS
        while not (value := condition()):
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.said()}"
            assert time.monotonic() < deadline, f"nothing after {SECONDS} s: {self.said()}"
            time.sleep(0.02)
        return value

    def said(self) -> str:
        return self.out.read_text() + self.err.read_text()

    def interrupt(self) -> None:
        """What Ctrl-C does on a terminal: SIGINT to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def descendants(self, title: str = "") -> list[psutil.Process]:
        """The living processes that it started, at any depth, whose title starts so."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if process.cmdline()[:1] and process.cmdline()[0].startswith(title):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill(self) -> None:
        """SIGKILL to it and all that it started, Ray's daemons included. No one gets to say goodbye."""
        if self.process.poll() is not None:
            return
        tree = [*self.descendants(), psutil.Process(self.process.pid)]
        for process in tree:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(30)
        psutil.wait_procs(tree, timeout=30)


def heed_signals() -> None:
    """As in a terminal, also where the tests run in a shell's background or under nohup."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def results(output: Path) -> dict[str, tuple[bytes, int]]:
    """What is final in a search's folder: trial -> result.json's content and time of change (ns)."""
    files = sorted((output / "trials").glob("*/result.json"))
    return {file.parent.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def reports(output: Path, trial: str) -> int:
    """How many reports a trial has saved."""
    file = output / "trials" / trial / "progress.jsonl"
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def table(output: Path) -> list[dict[str, Any]]:
    """trials.csv without the times, numbers as numbers."""
    with (output / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: _value(text) for key, text in row.items() if key != "seconds"} for row in rows]


def _value(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def has_run(output: Path, stage: str) -> bool:
    """Whether a setting has been run on fresh seeds for a stage of the confirmation."""
    return any(f'"stage": "{stage}"' in file.read_text() for file in (output / "confirmation").glob("*.json"))


def report(output: Path) -> dict[str, Any]:
    """report.json; fails where it holds what JSON has not."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in report.json")

    content: dict[str, Any] = json.loads((output / "report.json").read_text(), parse_constant=refuse)
    return content


def near(a: Any, b: Any) -> bool:
    """Equal, numbers but for rounding."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(near(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(near, a, b))
    return bool(a == pytest.approx(b, rel=1e-6, abs=1e-6)) if isinstance(a, float) else bool(a == b)
