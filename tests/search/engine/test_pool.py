"""Engines as Ray actors: who gets which, what happens when one dies, forgets a tenant, or has had nothing to do."""

from __future__ import annotations

import json
import os
import re
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

from condense.storage.cache_folder import VERIFY, verify_variables
from condense.storage.store import Store
from condense.system.errors import UserError
from search.engine.actor import EngineActor
from search.engine.client import Client
from search.engine.left_out import NoDeviceLeft
from search.engine.pool import EnginePool
from search.engine.preparation import fetch

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
def client(session: str, small_data: Path) -> Callable[..., Client]:
    """(pool, tenant) -> a client that has joined, with two seeds."""

    def take(pool: Any, tenant: str) -> Client:
        client = Client(pool, tenant, session, "")
        task = {"dataset": {"name": "tensors", "path": str(small_data)}, "encoder": ENCODER, "dpc": 1}
        client.join([task], H, [0, 1], 8)
        return client

    return take


def test_a_broken_connection_costs_no_engine(session: str, client: Callable[..., Client]) -> None:
    @ray.remote
    def broken() -> None:
        raise ray.exceptions.ActorUnavailableError("the connection broke", None)

    pool = ray.remote(EnginePool).options(num_cpus=0).remote()
    a, whole = client(pool, "a"), client(pool, "whole")
    whole.start(4)
    expected = whole.report()
    a.start(4)
    a.pending = broken.remote()
    assert {**a.report(), "checkpoint": b""} == {**expected, "checkpoint": b""}
    engine, a.engine = a.engine, SimpleNamespace(why_unfit=broken)
    a.renew_if_unfit()
    assert a.incarnation == 1 and ray.get(pool.get.remote(session, "")) == (1, engine)


def test_one_engine_per_device_and_a_new_one_for_a_dead_one(session: str, client: Callable[..., Client]) -> None:
    pool = ray.remote(EnginePool).options(num_cpus=0).remote()
    a, b = client(pool, "a"), client(pool, "b")
    assert a.engine == b.engine
    a.start(4)
    before = a.report()
    a.start(8)
    a.report()
    ray.kill(a.engine)  # beyond a's last report there was nothing; b had not begun
    b.start(4)
    assert b.report() == {**before, "checkpoint": b._checkpoint}
    assert b.incarnation == 2
    late = Client(pool, "late", session, "")
    assert late.engine == b.engine
    assert ray.get(pool.get.remote(session, "", 1))[0] == 2  # who comes late with bad news gets the new one
    (account,) = ray.get(pool.accounts.remote()).values()
    assert account["alive"] > account["steps"] > 0


def test_a_tenant_goes_on_after_its_engine_died_or_forgot_it(session: str, client: Callable[..., Client]) -> None:
    pool = ray.remote(EnginePool).options(num_cpus=0).remote()
    undisturbed = client(pool, "undisturbed")
    undisturbed.start(2)
    undisturbed.report()
    undisturbed.start(8)
    expected = undisturbed.report()

    a = client(pool, "a")
    a.start(2)
    a.report()
    ray.get(a.engine.leave.remote("a"))  # as if its lease had run out
    a.start(8)
    assert a.report()["curve"]["loss"] == pytest.approx(expected["curve"]["loss"], rel=1e-5)

    b = client(pool, "b")
    b.start(2)
    b.report()
    ray.kill(b.engine)
    b.start(8)
    report = b.report()
    assert report["curve"]["loss"] == pytest.approx(expected["curve"]["loss"], rel=1e-5)
    assert report["accuracies"] == pytest.approx(expected["accuracies"])


def test_an_engine_without_tenants_ends(session: str, client: Callable[..., Client]) -> None:
    pool = ray.remote(EnginePool).options(num_cpus=0).remote(None, 3.0)
    a = client(pool, "a")
    time.sleep(4.5)
    a.start(2)
    a.report()
    assert a.incarnation == 1  # it had a tenant, though a silent one
    a.leave()
    deadline = time.monotonic() + 60
    while ray.get(pool.accounts.remote()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.get(pool.accounts.remote()) == {}
    again = client(pool, "a")
    assert again.incarnation == 2
    again.start(2)
    assert again.report()["step"] == 2


def test_an_engine_verifies_the_files_if_the_driver_does(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for since in ("", "1795943249943184255"):
        monkeypatch.setenv(VERIFY, since)
        carried = {"env_vars": verify_variables()}
        pool = ray.remote(EnginePool).options(num_cpus=0, runtime_env=carried).remote()
        _, engine = ray.get(pool.get.remote(session, ""))
        assert ray.get(engine.__ray_call__.remote(lambda _: os.environ.get("CONDENSE_VERIFY", ""))) == since
        ray.kill(pool)


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A cluster of two nodes with a cache of its own each; their ids, the driver's first."""
    with two_nodes_in(tmp_path) as nodes:
        yield nodes


@pytest.mark.parametrize("broken", ["gpu", pytest.param("thread", marks=pytest.mark.faults)])
def test_an_engine_whose_gpu_is_broken_ends_and_its_tenants_go_on(
    session: str, client: Callable[..., Client], tmp_path: Path, broken: str
) -> None:
    """What follows on a broken CUDA context fails for everybody; a new process has a new one. Nor would an engine be of use
    whose own thread has ended, for whatever reason."""
    once = tmp_path / "broken"

    class Fragile(EngineActor):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            take = self.tenants.step

            def step() -> None:
                if not once.exists() and any(m.target == 8 for m in self.tenants.tenants.values()):
                    import torch

                    once.touch()
                    if broken == "thread":
                        raise SystemExit
                    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
                take()

            self.tenants.step = step  # type: ignore[method-assign]

    class FragilePool(EnginePool):
        def _make(self, device: tuple[str, str]) -> Any:
            return ray.remote(Fragile).options(num_cpus=0, max_concurrency=100).remote(1)

    pool = ray.remote(FragilePool).options(num_cpus=0).remote()
    whole = client(ray.remote(EnginePool).options(num_cpus=0).remote(), "whole")
    a, b = client(pool, "a"), client(pool, "b")
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


def test_a_gpu_that_pytorch_cannot_use_is_no_reason_to_work_on_the_cpu(
    session: str, client: Callable[..., Client]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    pool = ray.remote(EnginePool).options(num_cpus=0).remote()
    trouble = r"Ray counts GPU 0 on \S+, but PyTorch \S+ there cannot use it"
    with pytest.raises(NoDeviceLeft, match=f"^{trouble}$"):
        Client(pool, "a", session, "0")
    (line,), none_left = ray.get(pool.left_out.remote())
    assert re.fullmatch(rf"\S+ \(node {session[:8]}, GPU 0\) is left out, as its engine cannot start: {trouble}", line)
    assert none_left == line and ray.get(pool.left_out.remote()) == ([], line)
    engine = ray.get(pool.get.remote(session, ""))[1]  # the same node without a GPU
    ray.get(engine.__ray_call__.remote(lambda self: setattr(self, "trouble", "it is out of order")))
    with pytest.raises(UserError, match=r"^it is out of order$"):
        fetch(engine.describe.remote({}))


def test_a_device_whose_engines_do_not_start_is_left_out(session: str, client: Callable[..., Client]) -> None:
    """After several in a row: another one stands in, on the same node if there is one."""

    class Broken(EngineActor):
        def __init__(self, *arguments: Any) -> None:
            raise OSError("the driver on this host is too old")

    class HalfBrokenPool(EnginePool):
        def _make(self, device: tuple[str, str]) -> Any:
            self.asked = [*getattr(self, "asked", []), device[1]]
            return (
                ray.remote(Broken if device[1] == "1" else EngineActor).options(num_cpus=0, max_concurrency=9).remote(1)
            )

        def asked_for(self) -> list[str]:
            return self.asked

    pool = ray.remote(HalfBrokenPool).options(num_cpus=0).remote()
    ray.get(pool.use.remote([("another node", ""), (session, ""), (session, "1")]))
    here = client(pool, "a")
    moved = Client(pool, "b", session, "1")
    assert moved.engine == here.engine and moved.incarnation == here.incarnation
    assert ray.get(pool.asked_for.remote()) == ["", "1", "1", "1"]
    (line,), none_left = ray.get(pool.left_out.remote())
    assert f"(node {session[:8]}, GPU 1) is left out" in line and line.endswith(
        "OSError: the driver on this host is too old"
    )
    assert none_left == ""
    for _ in range(3):  # at work: that is no reason to leave a device out
        killed = moved.incarnation
        ray.kill(moved.engine)
        while moved.incarnation == killed:  # it may still answer for a moment
            moved.renew_if_unfit()
    assert ray.get(pool.left_out.remote()) == ([], "")
    elsewhere = Client(pool, "c", session, "1", stays=True)  # the same node will do for what must be here
    assert elsewhere.incarnation == moved.incarnation


def test_what_one_node_has_embedded_reaches_the_others(
    two_nodes: tuple[str, str], tmp_path: Path, small_data: Path
) -> None:
    task = {"dataset": {"name": "tensors", "path": str(small_data)}, "encoder": ENCODER, "dpc": 1}
    head, worker = two_nodes
    here = NodeAffinitySchedulingStrategy(head, soft=False)
    pool = ray.remote(EnginePool).options(num_cpus=0, scheduling_strategy=here).remote()
    full = [ray.get(Client(pool, "a", head, "").engine.describe.remote(task))["full_score"]]
    entries = sorted((tmp_path / "head").glob("embeddings/*.safetensors"))
    assert len(entries) == 2
    store = Store(tmp_path / "head")
    for entry in entries:  # so that what is computed again would differ from what is passed on
        with safe_open(entry, framework="pt") as file:
            key = json.loads(file.metadata()["key"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        store.put("embeddings", key, {**tensors, "vision": tensors["vision"].roll(1, 1)})
    full.append(ray.get(Client(pool, "b", worker, "").engine.describe.remote(task))["full_score"])
    for entry in entries:
        assert (tmp_path / "worker/embeddings" / entry.name).read_bytes() == entry.read_bytes()
    assert full[1] == pytest.approx(full[0], abs=0.05)
