"""Engines as Ray actors: who gets which, what happens when one dies, forgets a member, or has had nothing to do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from safetensors import safe_open
from small_search import ENCODER, two_nodes_in

from condense.errors import UserError
from condense.store import Store
from search.broker import Broker
from search.engine_actor import EngineActor
from search.preparation import fetch
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


def test_a_broken_connection_costs_no_engine(session: str, seat: Callable[..., Seat]) -> None:
    @ray.remote
    def broken() -> None:
        raise ray.exceptions.ActorUnavailableError("the connection broke", None)

    broker = ray.remote(Broker).options(num_cpus=0).remote()
    a, whole = seat(broker, "a"), seat(broker, "whole")
    whole.start(4)
    expected = whole.report()
    a.start(4)
    a.pending = broken.remote()
    assert {**a.report(), "state": b""} == {**expected, "state": b""}
    engine, a.engine = a.engine, SimpleNamespace(work_done=broken)
    a.renew_if_dead()
    assert a.incarnation == 1 and ray.get(broker.get.remote(session, "")) == (1, engine)


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
    broker = ray.remote(Broker).options(num_cpus=0).remote(None, 3.0)
    a = seat(broker, "a")
    time.sleep(4.5)
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


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A cluster of two nodes with a cache of its own each; their ids, the driver's first."""
    with two_nodes_in(tmp_path) as nodes:
        yield nodes


@pytest.mark.parametrize("broken", ["gpu", pytest.param("thread", marks=pytest.mark.faults)])
def test_an_engine_whose_gpu_is_broken_ends_and_its_members_go_on(
    session: str, seat: Callable[..., Seat], tmp_path: Path, broken: str
) -> None:
    """What follows on a broken CUDA context fails for everybody; a new process has a new one. Nor would an engine be of use
    whose own thread has ended, for whatever reason."""
    once = tmp_path / "broken"

    class Fragile(EngineActor):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            take = self.members.step

            def step() -> None:
                if not once.exists() and any(m.target == 8 for m in self.members.members.values()):
                    import torch

                    once.touch()
                    if broken == "thread":
                        raise SystemExit
                    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
                take()

            self.members.step = step  # type: ignore[method-assign]

    class FragileBroker(Broker):
        def _make(self, device: tuple[str, str]) -> Any:
            return ray.remote(Fragile).options(num_cpus=0, max_concurrency=100).remote(1)

    broker = ray.remote(FragileBroker).options(num_cpus=0).remote()
    whole = seat(ray.remote(Broker).options(num_cpus=0).remote(), "whole")
    a, b = seat(broker, "a"), seat(broker, "b")
    for one in (a, whole):
        one.start(2)
        one.report()
    for one in (a, b, whole):
        one.start(8)
    expected, first, second = whole.report(), a.report(), b.report()
    assert once.exists() and (a.incarnation, b.incarnation) == (2, 2)
    assert first["curve"]["loss"] == pytest.approx(expected["curve"]["loss"], rel=1e-5)
    assert first["accuracies"] == pytest.approx(expected["accuracies"])
    assert len(second["curve"]["loss"]) == 8


def test_a_gpu_that_pytorch_cannot_use_is_no_reason_to_work_on_the_cpu(session: str, seat: Callable[..., Seat]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    broker = ray.remote(Broker).options(num_cpus=0).remote()
    engine = Seat(broker, "a", session, "0").engine
    with pytest.raises(UserError, match=r"^Ray counts GPU 0 on \S+, but PyTorch \S+ there cannot use it$"):
        fetch(engine.describe.remote({}))


def test_what_one_node_has_embedded_reaches_the_others(
    two_nodes: tuple[str, str], tmp_path: Path, small_data: Path
) -> None:
    task = {"dataset": {"name": "tensors", "path": str(small_data)}, "encoder": ENCODER, "dpc": 1}
    head, worker = two_nodes
    here = NodeAffinitySchedulingStrategy(head, soft=False)
    broker = ray.remote(Broker).options(num_cpus=0, scheduling_strategy=here).remote()
    full = [ray.get(Seat(broker, "a", head, "").engine.describe.remote(task))["full_score"]]
    entries = sorted((tmp_path / "head").glob("embeddings/*.safetensors"))
    assert len(entries) == 2
    store = Store(tmp_path / "head")
    for entry in entries:  # so that what is computed again would differ from what is passed on
        with safe_open(entry, framework="pt") as file:
            key = json.loads(file.metadata()["key"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        store.put("embeddings", key, {**tensors, "vision": tensors["vision"].roll(1, 1)})
    full.append(ray.get(Seat(broker, "b", worker, "").engine.describe.remote(task))["full_score"])
    for entry in entries:
        assert (tmp_path / "worker/embeddings" / entry.name).read_bytes() == entry.read_bytes()
    assert full[1] == pytest.approx(full[0], abs=0.05)
