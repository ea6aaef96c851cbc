"""What is told while a task is prepared: no half minute passes without a line, whatever the engine is at."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from search.engine import preparation
from search.engine.preparation import Preparation


class Answers:
    """A ray whose calls are answered at a certain time; `wait` lets the time pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def wait(self, calls: Sequence[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        first = min(at for at, _ in calls)
        self.now = max(self.now, min(first, self.now + timeout))
        return [call for call in calls if call[0] <= self.now], [call for call in calls if call[0] > self.now]

    def get(self, call: Any) -> Any:
        return call[1]

    def cancel(self, call: Any, recursive: bool) -> None: ...


@pytest.mark.parametrize("starting", [0.0, 70.0])
def test_it_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch, starting: float) -> None:
    """An engine that starts for `starting` seconds, reads data, trains an encoder, and encodes from 200 s on."""
    answers = Answers()
    monkeypatch.setattr(preparation, "ray", answers)
    monkeypatch.setattr(preparation.time, "monotonic", lambda: answers.now)

    def status() -> Any:
        doing = {"line": "encoding mine.csv", "key": {}, "seconds_left": 9.0} if answers.now > 200 else None
        return max(answers.now, starting), doing

    calls = {"identify": lambda task: (answers.now + 50, {}), "describe": lambda task: (300.0, {"items": {}})}
    engine = SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in calls.items()})
    engine.encoding_status = SimpleNamespace(remote=status)
    told: list[tuple[float, str]] = []
    client: Any = SimpleNamespace(engine=engine, node="here", gpu="")
    work = Preparation(None, client, lambda line: told.append((answers.now, line)), per_gpu=False)
    work.identify({})
    assert [line for _, line in told] == [f"data and encoder are being made ready, {s} s so far" for s in (15, 30, 45)]
    assert work.describe({}) == {"items": {}}
    times = [0.0, *(at for at, _ in told), 300.0]
    assert max(b - a for a, b in itertools.pairwise(times)) < 30
    assert {line for at, line in told if at > 225} == {"encoding mine.csv"}
