"""Settings run on fresh seeds: each run once and kept, as many at a time as a device has memory for."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
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
from small_search import ENCODER, SMALL

from search.confirmation.reruns import Reruns, key_of
from search.confirmation.stages import ConfirmationStages
from search.engine.actor import EngineActor
from search.engine.pool import EnginePool
from search.space.model import Robust, Space
from search.space.plan import Plan

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
SPACE = Space.model_validate(SMALL)
STEPS = 3
H: dict[str, Any] = {"num_frequencies": 8, "frequency_pool": 16, "learning_rate": 0.5}
SETTINGS = {f"lambda {x}": H | {"lambda_cross": x} for x in (0.1, 1.0, 10.0)}
SEEDS = [5, 6, 7, 8]


class Cramped(EngineActor):
    """An engine that has memory for so many replicas, and believes to have more. Counts what it is asked for."""

    LIMIT = 3

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.joined: list[list[int]] = []

    def join(self, tenant: str, tasks: Any, hyperparameters: Any, seeds: Any, *more: Any) -> int:
        joined = sum(len(m.replicas) for m in self.tenants.tenants.values()) + len(seeds) * len(tasks)
        if joined > self.LIMIT:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.joined.append(list(seeds))
        return super().join(tenant, tasks, hyperparameters, seeds, *more)

    def leave(self, tenant: str) -> None:
        time.sleep(0.1)  # an engine that is at work, as long as it may be
        super().leave(tenant)

    def log(self) -> list[list[int]]:
        return self.joined


class CrampedPool(EnginePool):
    engine = Cramped

    def _make(self, device: tuple[str, str]) -> Any:
        return ray.remote(self.engine).options(num_cpus=0, max_concurrency=100).remote(1)


class TinyPool(CrampedPool):
    class engine(Cramped):
        LIMIT = 0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = str(tmp_path_factory.mktemp("store"))
    shared = os.pathsep.join(map(str, (HERE, HERE.parent)))  # where the cramped ones are, and what they import
    variables = {"CONDENSE_CACHE": store, "PYTHONPATH": shared}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": variables}, logging_level=40)
    yield ray.get_runtime_context().get_node_id()
    ray.shutdown()


@pytest.fixture
def make(node: str, small_data: Path, tmp_path: Path) -> Callable[..., Reruns]:
    """(pool class, folder) -> reruns on two tasks."""

    def make(pool: type[EnginePool] = EnginePool, folder: str = "runs") -> Reruns:
        dataset = {"name": "tensors", "path": str(small_data)}
        tasks = [{"dataset": dataset, "encoder": ENCODER, "dpc": dpc} for dpc in (1, 2)]
        plan = Plan(tasks, [0], [STEPS], Robust(), None)
        return Reruns(tmp_path / folder, ray.remote(pool).options(num_cpus=0).remote(), plan, [(node, "")])

    return make


def test_waves_change_no_result_and_nothing_runs_twice(make: Callable[..., Reruns], tmp_path: Path) -> None:
    whole = make(folder="whole").run(SETTINGS, SEEDS, "reporting", test=True)
    cramped = make(CrampedPool)
    result = cramped.run({**SETTINGS, "again": SETTINGS["lambda 0.1"]}, SEEDS, "reporting", test=True)
    for label in whole:
        for name in ("accuracies", "shares", "test"):
            assert result[label][name] == pytest.approx(whole[label][name], abs=1e-6), (label, name)
            assert len(result[label][name]) == 2 * len(SEEDS)
    assert result["again"] == result["lambda 0.1"]
    device = cramped.devices[0]
    assert cramped.room[device] == 1  # 12 runs of two replicas each, then 6, 3, 1: there is room for three replicas
    engine = ray.get(cramped.pool.get.remote(*device))[1]
    done = ray.get(engine.log.remote())
    assert len(done) >= 12

    # Another process, which wants more: only what is new is run.
    later = make(CrampedPool)
    later.room[device] = 1
    more = later.run(SETTINGS, [*SEEDS, 9], "reporting", test=True)
    assert ray.get(ray.get(later.pool.get.remote(*device))[1].log.remote()) == [[9], [9], [9]]
    for label in SETTINGS:
        expected = [result[label]["shares"][:4], result[label]["shares"][4:]]
        assert [more[label]["shares"][:4], more[label]["shares"][5:9]] == expected
    known = json.loads((tmp_path / "runs" / f"{key_of(SETTINGS['lambda 0.1'])}.json").read_text())
    assert {int(seed) for seed in known["runs"]} == {*SEEDS, 9}
    assert known["runs"]["9"]["stage"] == "reporting" and known["runs"]["9"]["node"] == device[0]


def test_a_stage_that_takes_long_says_how_far_it_is(
    make: Callable[..., Reruns], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.confirmation.reruns.SECONDS_BETWEEN_LINES", 0.02)
    reruns, said = make(), list[str]()
    reruns.say = said.append
    reruns.plan = dataclasses.replace(reruns.plan, report_steps=[200])
    reruns.run(SETTINGS, SEEDS, "tuned_rates")
    total = len(SETTINGS) * len(SEEDS)
    assert said
    assert all(re.match(rf"tuned rates: \d+ of {total} runs done after \d+ s", line) for line in said)
    assert all(re.search(r" s, about \d+ s left$", line) for line in said if not line.startswith("tuned rates: 0 of"))


def test_what_is_given_up_is_no_traceback(make: Callable[..., Reruns], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another device has died, and all begins again."""
    reruns = make()
    reruns.plan = dataclasses.replace(reruns.plan, report_steps=[10_000])

    def lost(running: Any, tell: Any) -> Any:
        raise ray.exceptions.RayActorError

    told: list[Exception] = []
    monkeypatch.setattr("ray._private.worker._unhandled_error_handler", told.append)
    monkeypatch.setattr("search.confirmation.reruns.first_ready", lost)
    try:
        reruns.run(SETTINGS, SEEDS, "reporting")
    except ray.exceptions.RayActorError:
        time.sleep(2)  # its traceback holds what was started for as long as it is dealt with
    gc.collect()
    time.sleep(1)
    assert not told


def test_what_does_not_fit_alone_is_an_error(make: Callable[..., Reruns]) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        make(TinyPool).run(SETTINGS, SEEDS, "choosing")


def test_a_setting_that_diverges_is_nan_whatever_the_waves(make: Callable[..., Reruns]) -> None:
    bad = {"bad": H | {"scaling": "paper", "lambda_uni": 1e38}, "good": SETTINGS["lambda 1.0"]}
    for folder, room in (("one", 1), ("all", 100)):
        reruns = make(folder=folder)
        reruns.room[reruns.devices[0]] = room
        result = reruns.run(bad, SEEDS, "choosing")
        assert all(map(math.isnan, result["bad"]["shares"])) and len(result["bad"]["shares"]) == 2 * len(SEEDS)
        assert result["bad"]["divergence"]["seed"] in SEEDS
        assert all(map(math.isfinite, result["good"]["shares"]))
        before = {file: file.stat().st_mtime_ns for file in reruns.folder.iterdir()}
        again = reruns.run(bad, SEEDS, "choosing")  # known: nothing is run again
        assert again["good"] == result["good"] and again["bad"]["divergence"] == result["bad"]["divergence"]
        assert {file: file.stat().st_mtime_ns for file in reruns.folder.iterdir()} == before


def test_a_setting_goes_on_in_another_engine_when_its_own_dies(make: Callable[..., Reruns], node: str) -> None:
    def longer(folder: str) -> Reruns:  # so that the first is not over before the next is looked at
        reruns = make(folder=folder)
        reruns.plan = dataclasses.replace(reruns.plan, report_steps=[100])
        return reruns

    reruns = longer("runs")
    expected = longer("expected").run(SETTINGS, SEEDS, "choosing")
    original, collect, ended = Reruns._start, reruns._collect, list[bool]()

    def collected(*arguments: Any) -> bool:
        ended.append(collect(*arguments))
        return ended[-1]

    def start(self: Reruns, *arguments: Any) -> Any:
        running = original(self, *arguments)
        ray.kill(running[0].client.engine)
        return running

    reruns._start = start.__get__(reruns)  # type: ignore[method-assign]
    reruns._collect = collected  # type: ignore[method-assign]
    result = reruns.run(SETTINGS, SEEDS, "choosing")
    for label in SETTINGS:
        assert result[label]["shares"] == pytest.approx(expected[label]["shares"], abs=1e-6)
    assert ended[:2] == [False, False] and sorted(ended) == [False] * 3 + [True] * 3  # they go on together


def test_the_engine_that_shows_items_may_have_ended(make: Callable[..., Reruns], node: str, tmp_path: Path) -> None:
    """As it does where others do the work, and it has had nothing to do for a while."""
    reruns = make()
    confirmation = ConfirmationStages(SPACE, SimpleNamespace(output=tmp_path), reruns.pool, reruns.plan)  # type: ignore[arg-type]
    ray.kill(confirmation.client.engine)
    steps = [
        (step, ray.get(confirmation.client.engine.overview.remote(tenant, 0))[1:4])
        for step, tenant in confirmation.shown("0", reruns.plan.tasks[0], SETTINGS["lambda 0.1"], 5, [0, SPACE.steps])
    ]
    assert steps == [(0, b"PNG"), (SPACE.steps, b"PNG")]
    ray.kill(confirmation.client.engine)
    found = confirmation.baselines(confirmation.reporting_seeds)
    assert set(found) >= {"random", "herding", "k_center", "k_means", "full_data"}
