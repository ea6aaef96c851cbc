"""Two searches on one cluster: the second one waits, says so, and begins when the first has ended, or was killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from search.cluster import turns
from search.cluster.turns import pool_when_free
from search.engine.pool import EnginePool

OTHER = """
import sys, time, ray
from search.cluster.turns import pool_when_free
from search.engine.pool import EnginePool
ray.init(address=sys.argv[1], log_to_driver=False)
pool = pool_when_free(EnginePool, "first, into results/first", print, num_cpus=0)
ray.get(pool.owner.remote())
print("begun", flush=True)
time.sleep(100)
"""


@pytest.fixture
def address() -> Iterator[str]:
    ray.shutdown()
    cluster = Cluster()
    cluster.add_node(num_cpus=1, include_dashboard=False)
    ray.init(address=cluster.address, logging_level=40)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_a_search_waits_for_the_one_that_runs(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "UNHEARD", 0.5)
    monkeypatch.setattr(turns, "EVERY", 1.0)
    said: list[str] = []
    command = [sys.executable, "-c", OTHER, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None and first.stdout.readline() == "begun\n"

            def say(line: str) -> None:
                said.append(line)
                if len(said) == 2:
                    first.kill()

            second = pool_when_free(EnginePool, "second", say, num_cpus=0)
            assert ray.get(second.owner.remote()) == "second"
        finally:
            first.kill()
    assert len(said) >= 2
    assert all(
        line.startswith("waiting for the search that runs on this cluster: first, into results/first (")
        for line in said
    )
    ray.kill(second)  # as at the end of a search in a session that goes on
    third = pool_when_free(EnginePool, "third", said.append, num_cpus=0)
    assert ray.get(third.owner.remote()) == "third"
    ray.kill(third)
