"""A trial whose state cannot be had where it goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from search.engine.left_out import NoDeviceLeft
from search.engine.state_files import StateLost, StateUnreachable
from search.engine.tenant_lost import TenantLost
from search.ledger.ledger import Report
from search.space.model import Robust
from search.space.plan import Keeping, Plan
from search.tuning import trainable


def test_a_trial_starts_again_where_its_state_is_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path))
    monkeypatch.setattr(trainable.ray, "get", lambda value: value)
    restarted: list[int] = []
    known = (2, [Report(2, 1.0, 1.0, {"score": 0.5})], b'{"url": "/elsewhere/2.pt"}')
    ledger = SimpleNamespace(
        load=SimpleNamespace(remote=lambda number: known), restart=SimpleNamespace(remote=restarted.append)
    )
    plan = Plan([{}], [0], [2, 4, 6], Robust(), None, keeping=Keeping("abc"))
    running = trainable._Running({"number": 3, "name": None}, None, ledger, plan)
    asked: list[Any] = []

    def stage(number: int, before: Any, done: int, checkpoint: bytes | None) -> None:
        asked.append((done, checkpoint))
        if checkpoint is not None:
            raise StateLost

    monkeypatch.setattr(running, "stage", stage)
    monkeypatch.setattr(running, "tell", lambda *given, **more: None)
    running.run()
    assert asked == [(2, known[2]), (0, None)]
    assert restarted == [3]


@pytest.mark.parametrize("error", [StateUnreachable, NoDeviceLeft, TenantLost, ValueError])
def test_a_trial_does_not_fail_by_what_is_not_its_fault(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """However often the same error came before: Tune tries it again, and --resume does."""
    monkeypatch.setattr(trainable.ray, "get", lambda value: value)
    ended: list[str] = []
    ledger = SimpleNamespace(
        set_fault=SimpleNamespace(remote=lambda *_: 99),
        finish=SimpleNamespace(remote=lambda number, status, *_: ended.append(status)),
    )

    def join(*_: Any, **__: Any) -> None:
        raise error("nothing to be done")

    client = SimpleNamespace(join=join, leave=lambda: None, step=0)
    monkeypatch.setattr(trainable.Client, "here", lambda pool, tenant: client)
    running = trainable._Running({"number": 3, "name": None}, None, ledger, Plan([{}], [0], [2], Robust(), None))
    monkeypatch.setattr(running, "tell", lambda *given, **more: None)
    if error is ValueError:
        assert running.stage(0, None, 0, None) is None
        assert ended == ["failed"]
    else:
        with pytest.raises(error):
            running.stage(0, None, 0, None)
        assert ended == []
