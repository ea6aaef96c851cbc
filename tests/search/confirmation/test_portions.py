"""Devices of different speeds, which are simulated: they take runs as they get free, and end at about the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.confirmation import reruns as module
from search.confirmation.portions import Portions
from search.confirmation.reruns import Reruns, Running
from search.space.model import Robust
from search.space.plan import Plan


class Engines:
    """A device takes `fixed` seconds for any number of runs that it takes together, and `each` for every one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fixed: float, each: dict[str, float], room: int = 100) -> None:
        self.now, self.fixed, self.each, self.room = 0.0, fixed, each, room
        self.taken: list[tuple[str, int]] = []
        self.ends: dict[str, float] = {}
        monkeypatch.setattr(module, "Client", self._client)
        monkeypatch.setattr(module, "first_ready", self._first_ready)
        monkeypatch.setattr(module, "give_up", lambda *_: None)
        monkeypatch.setattr(module.ray, "get", lambda value: value)

    def _client(self, pool: Any, tenant: str, node: str, gpu: str) -> Any:
        engine = SimpleNamespace(room=SimpleNamespace(remote=lambda tasks: self.room))
        seeds: list[int] = []

        def join(tasks: Any, hyperparameters: Any, own: Sequence[int], *_: Any, **__: Any) -> None:
            seeds.extend(own)

        def report() -> dict[str, Any]:
            return {"divergence": None, "accuracies": [0.5] * len(seeds), "shares": [0.5] * len(seeds), "hits": None}

        return SimpleNamespace(
            engine=engine, node=node, join=join, start=lambda steps: None, report_or_join_again=report
        )

    def _first_ready(self, running: Sequence[Running], tell: Callable[[], None]) -> Running:
        for some in running:
            if some.device[0] not in self.ends:
                self.taken.append((some.device[0], some.wave))
                self.ends[some.device[0]] = self.now + self.fixed + some.wave * self.each[some.device[0]]
        first = min(running, key=lambda some: self.ends[some.device[0]])
        self.now = self.ends[first.device[0]]
        if sum(some.device == first.device for some in running) == 1:
            del self.ends[first.device[0]]
        return first


def ended_at(engines: Engines, folder: Path, runs: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds that so many runs take on all devices."""
    plan = Plan([{}], [0], [3], Robust(), None)
    devices = [(name, "") for name in engines.each]
    reruns = Reruns(folder / "runs", None, plan, devices)
    reruns.portions = Portions(devices, lambda: engines.now)
    monkeypatch.setattr(
        reruns, "_result", lambda known, seeds, test: {"runs": len(known["runs"])}
    )  # what they say does not matter
    began = engines.now
    (told,) = reruns.run({"a": {"lambda_cross": 1.0}}, range(runs), "choosing").values()
    assert told["runs"] == runs
    return engines.now - began


@pytest.fixture(autouse=True)
def _hits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PARTS", ("accuracies", "shares"))


@pytest.mark.parametrize("slow", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("first", ["slow", "fast"])
def test_a_slow_device_does_not_set_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: float, first: str
) -> None:
    each = {"slow": slow, "fast": 1.0}
    engines = Engines(monkeypatch, 0.0, each if first == "slow" else dict(reversed(each.items())))
    took = ended_at(engines, tmp_path, 32, monkeypatch)
    at_best = 32 / (1 + 1 / slow)
    dealt = 16 * slow
    assert took <= 1.3 * at_best
    assert slow < 4 or took < 0.6 * dealt


def test_equal_devices_take_two_portions_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More would cost what runs save that go through together."""
    engines = Engines(monkeypatch, 5.0, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0})
    ended_at(engines, tmp_path, 64, monkeypatch)
    counts = [sum(name == device for device, _ in engines.taken) for name in engines.each]
    assert counts == [2, 2, 2, 2]


def test_one_device_takes_all_that_it_has_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = Engines(monkeypatch, 5.0, {"a": 1.0})
    ended_at(engines, tmp_path, 20, monkeypatch)
    assert engines.taken == [("a", 20)]


def test_speeds_are_remembered_from_stage_to_stage() -> None:
    now = 0.0
    portions = Portions(["slow", "fast"], lambda: now)
    portions.begin_stage(8)
    for device, seconds in (("slow", 8.0), ("fast", 2.0)):
        portions.took(device, 4)
        now += seconds
        portions.ended(device)
    portions.begin_stage(20)
    assert portions.of("fast", 20) == 8  # half of 16
    portions.took("fast", 8)
    assert portions.of("slow", 12) == 2  # half of 4
