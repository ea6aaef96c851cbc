"""A tenant whose engine dies before it has joined joins the next one; it waits for a storage that does not answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from search.engine import client as module
from search.engine.client import ATTEMPTS, PAUSES, Client
from search.engine.state_files import StateUnreachable


class Pool:
    """Gives engines, of which the first few are dead; what `remote` returns is called by `ray.get`."""

    def __init__(self, dead: int) -> None:
        self.dead, self.given = dead, 0
        self.get = SimpleNamespace(remote=lambda *_: self._next)
        self.works = SimpleNamespace(remote=lambda _: None)

    def _next(self) -> tuple[int, Any]:
        self.given += 1
        calls = {
            "join": lambda *_: self._joined(self.given),
            "why_unfit": lambda: lambda: "",
        }  # it dies after that
        return self.given, SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in calls.items()})

    def _joined(self, number: int) -> Any:
        def answer() -> int:
            if number <= self.dead:
                raise ray.exceptions.ActorDiedError
            return 7

        return answer


@pytest.fixture(autouse=True)
def _get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.ray, "get", lambda call: call())


@pytest.mark.parametrize("dead", [0, 1, ATTEMPTS - 1])
def test_it_joins_the_first_engine_that_lives(dead: int) -> None:
    pool = Pool(dead)
    client = Client(pool, "trial 0", "node", "")
    client.join([], {}, [0], 10)
    assert client.step == 7 and pool.given == dead + 1


def test_it_gives_up_after_several() -> None:
    pool = Pool(100)
    with pytest.raises(ray.exceptions.ActorDiedError):
        Client(pool, "trial 0", "node", "").join([], {}, [0], 10)
    assert pool.given == ATTEMPTS


@pytest.mark.parametrize("failures", [1, len(PAUSES), len(PAUSES) + 1])
def test_it_waits_for_a_storage_that_does_not_answer(
    failures: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    pool, left = Pool(0), list(range(failures))

    def joined() -> int:
        if left:
            left.pop()
            raise StateUnreachable("s3://bucket/trial-0/20.pt: no route")
        return 20

    pool._joined = lambda number: joined  # type: ignore[method-assign]
    client = Client(pool, "trial 0", "node", "")
    if failures > len(PAUSES):
        with pytest.raises(StateUnreachable):
            client.join([], {}, [0], 100)
    else:
        client.join([], {}, [0], 100)
        assert client.step == 20
    assert slept == list(PAUSES[:failures])
    assert "trial 0: its state is out of reach; next attempt in 5 s: s3://bucket/trial-0/20.pt: no route" in caplog.text


def test_it_goes_on_from_an_earlier_checkpoint_and_tells_no_step_twice() -> None:
    """Its engine dies after a report without a checkpoint: the steps since the last one are taken again."""
    joined: list[Any] = []
    at = 0

    def join(tenant: str, tasks: Any, hyperparameters: Any, seeds: Any, steps: int, checkpoint: Any, *_: Any) -> Any:
        joined.append(checkpoint)
        return lambda: restart(0 if checkpoint is None else int(checkpoint))

    def restart(step: int) -> int:
        nonlocal at
        at = step
        return step

    def advance(tenant: str, steps: int) -> Any:
        def answer() -> dict[str, Any]:
            nonlocal at
            if at == 4 and len(joined) == 1:
                raise ray.exceptions.ActorDiedError
            told = list(range(at + 1, at + steps + 1))
            at += steps
            return {"step": at, "checkpoint": b"2" if at == 2 else None, "curve": {"step": told, "loss": told}}

        return answer

    calls = {"join": join, "advance": advance, "why_unfit": lambda: lambda: ""}
    engine = SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in calls.items()})
    pool = Pool(0)
    pool._next = lambda: (1, engine)  # type: ignore[method-assign]
    client = Client(pool, "trial 0", "node", "")
    client.join([], {}, [0], 8)
    curve: list[int] = []
    for target in (2, 4, 6, 8):
        client.start(target)
        curve += client.report()["curve"]["loss"]
    assert joined == [None, b"2"]
    assert curve == list(range(1, 9))
