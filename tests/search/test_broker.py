"""Engines as Ray actors: who gets which, what happens when one dies, forgets a member, or has had nothing to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from conftest import ENCODER

from search.broker import Broker
from search.seat import Seat

pytestmark = pytest.mark.slow
H: dict[str, Any] = {"num_frequencies": 8, "frequency_pool": 16, "learning_rate": 0.5}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray session; the id of its node."""
    store = str(tmp_path_factory.mktemp("store"))
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"CONDENSE_CACHE": store}}, logging_level=40)
    yield ray.get_runtime_context().get_node_id()
    ray.shutdown()


@pytest.fixture
def seat(session: str, small_data: Path) -> Callable[..., Seat]:
    """(broker, member) -> a seat that has joined, with two seeds."""

    def take(broker: Any, member: str) -> Seat:
        seat = Seat(broker, member, session, "")
        task = {"dataset": {"name": "tensors", "path": str(small_data)}, "encoder": ENCODER, "dpc": 1}
        seat.join([task], H, [0, 1], 8)
        return seat

    return take


def test_one_engine_per_device_and_a_new_one_for_a_dead_one(session: str, seat: Callable[..., Seat]) -> None:
    broker = ray.remote(Broker).options(num_cpus=0).remote()
    a, b = seat(broker, "a"), seat(broker, "b")
    assert a.engine == b.engine
    a.start(4)
    before = a.report()
    a.start(8)
    a.report()
    ray.kill(a.engine)  # beyond a's last report there was nothing; b had not begun
    b.start(4)
    assert b.report() == {**before, "state": b._state}
    assert b.incarnation == 2
    late = Seat(broker, "late", session, "")
    assert late.engine == b.engine
    assert ray.get(broker.get.remote(session, "", 1))[0] == 2  # who comes late with bad news gets the new one
    (account,) = ray.get(broker.accounts.remote()).values()
    assert account["alive"] > account["steps"] > 0


def test_a_member_goes_on_after_its_engine_died_or_forgot_it(session: str, seat: Callable[..., Seat]) -> None:
    broker = ray.remote(Broker).options(num_cpus=0).remote()
    undisturbed = seat(broker, "undisturbed")
    undisturbed.start(2)
    undisturbed.report()
    undisturbed.start(8)
    expected = undisturbed.report()

    a = seat(broker, "a")
    a.start(2)
    a.report()
    ray.get(a.engine.leave.remote("a"))  # as if its lease had run out
    a.start(8)
    assert a.report()["curve"]["loss"] == pytest.approx(expected["curve"]["loss"], rel=1e-5)

    b = seat(broker, "b")
    b.start(2)
    b.report()
    ray.kill(b.engine)
    b.start(8)
    report = b.report()
    assert report["curve"]["loss"] == pytest.approx(expected["curve"]["loss"], rel=1e-5)
    assert report["accuracies"] == pytest.approx(expected["accuracies"])


def test_an_engine_without_members_ends(session: str, seat: Callable[..., Seat]) -> None:
    broker = ray.remote(Broker).options(num_cpus=0).remote(None, 1.0)
    a = seat(broker, "a")
    time.sleep(3)
    a.start(2)
    a.report()
    assert a.incarnation == 1  # it had a member, though a silent one
    a.leave()
    deadline = time.monotonic() + 60
    while ray.get(broker.accounts.remote()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.get(broker.accounts.remote()) == {}
    again = seat(broker, "a")
    assert again.incarnation == 2
    again.start(2)
    assert again.report()["step"] == 2
