"""A cluster that loses its only worker, then its head; and the last word of a search that Ray or a signal ends at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from search_process import SearchProcess, reports, results

from search import conclusion as conclusion_module
from search import driver
from search.interruption import Stopped

BLOCK = """
import os, signal, sys
from search.interruption import announce_if_killed
with announce_if_killed("gone"):
    exec(sys.argv[1])
"""


@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_last_word_where_no_exception_comes(end: str, tmp_path: Path) -> None:
    """As Ray ends a driver whose cluster it has lost; stderr is closed when that was said."""
    done = subprocess.run([sys.executable, "-c", BLOCK, end], stderr=subprocess.PIPE, timeout=60)
    assert done.stderr == b"error: gone\n"


def test_no_last_word_where_the_search_itself_ends() -> None:
    for end in ("pass", "sys.exit(3)"):
        assert subprocess.run([sys.executable, "-c", BLOCK, end], stderr=subprocess.PIPE, timeout=60).stderr == b""
    failed = subprocess.run([sys.executable, "-c", BLOCK, "1 / 0"], stderr=subprocess.PIPE, timeout=60)
    assert b"ZeroDivisionError" in failed.stderr and b"gone" not in failed.stderr


@pytest.mark.parametrize("error", [ray.exceptions.ActorDiedError(), ray.exceptions.ActorUnschedulableError("no node")])
def test_engines_that_keep_dying_in_the_confirmation_end_it_with_a_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is how the loss of a whole cluster looks there, unless Ray ends the driver before. An engine whose node has gone
    cannot be scheduled: that is another error."""
    said: list[str] = []

    class Dying:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise error

    monkeypatch.setattr(conclusion_module, "Conclusion", Dying)
    search = driver.Search.__new__(driver.Search)
    search.space, search.started, search.say = None, 0.0, said.append  # type: ignore[assignment,method-assign]
    search.deadline, search.prepared = None, 0.0  # type: ignore[assignment]
    with pytest.raises(Stopped, match=r"the Ray cluster was lost.* --resume"):
        search._close(None, None, None, [], [], None, None)  # type: ignore[arg-type]
    assert len(said) == driver.ENGINE_DEATHS


def test_an_ablation_whose_engine_dies_is_begun_again_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    done: list[str] = []

    class Mortal:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def ablate(self) -> None:
            done.append("ablate")
            if len(done) < 3:
                raise ray.exceptions.ActorDiedError

    monkeypatch.setattr(conclusion_module, "Conclusion", Mortal)
    search = driver.Search.__new__(driver.Search)
    search.space, search.started, search.say = None, 0.0, said.append  # type: ignore[assignment,method-assign]
    search.deadline, search.prepared = None, 0.0  # type: ignore[assignment]
    search.request = SimpleNamespace(ablate=True)  # type: ignore[assignment]
    search._close(None, None, None, [], [], None, None)  # type: ignore[arg-type]
    assert done == ["ablate"] * 3 and len(said) == 2


@pytest.mark.faults
@pytest.mark.timeout(600)  # on a busy machine
def test_a_lost_worker_then_a_lost_head(
    boot: Callable[[int], Cluster],
    start: Callable[..., SearchProcess],
    write_space: Callable[..., Path],
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    space = write_space(tmp_path, trials=5, max_concurrent=1, confirmation={"top_k": 1, "seeds": 2})
    arguments = ("--space", space, "--output", output)
    cluster = boot(0)
    worker = cluster.add_node(num_cpus=1)
    search = start(*arguments, "--address", cluster.address)
    search.until(lambda: reports(output, "00001") > 0)
    cluster.remove_node(worker, allow_graceful=False)  # SIGKILL to its raylet
    before = len(results(output))
    cluster.add_node(num_cpus=1)
    search.until(lambda: len(results(output)) > before)  # trials go on where there is a worker
    cluster.shutdown()
    assert search.finish() == 1, search.said()
    (line,) = [line for line in search.err.read_text().splitlines() if line.startswith("error: ")]
    assert "its Ray cluster was lost" in line and "--resume" in line
    assert "Traceback" not in search.said()
    known = results(output)
    assert before < len(known) < 5

    search = start(*arguments, "--address", boot(1).address, "--resume")
    search.until(lambda: len(results(output)) > len(known))
    assert known.items() <= results(output).items()
    assert not any(b'"failed"' in content for content, _ in results(output).values())
