"""States that are too large for reports: written by the engine when it is time, found again, and lost without harm."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from test_tenants import Answers, advance, join, task  # noqa: F401  # fixtures

from condense.system.errors import UserError
from search.engine import state_files, tenants
from search.engine.checkpoint import pack_checkpoint, unpack_checkpoint
from search.engine.state_files import StateFiles, StateLost, check_storage, discard, discard_ended
from search.engine.tenants import Tenants
from search.space.plan import Keeping

STATES = [{"step": 3, "inputs": {"vision": torch.arange(12.0).view(3, 4)}, "divergence": None}]


@pytest.fixture(params=["", "file://", "memory://"])
def keeping(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeping]:
    """On the node's disk, in a folder, and in what behaves as an object store."""
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    yield Keeping("abc", f"{request.param}{tmp_path}/states" if request.param else None)
    fsspec.filesystem("memory").store.clear()


@dataclasses.dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def files_of(keeping: Keeping) -> list[str]:
    system, folder = fsspec.core.url_to_fs(state_files.folder_of(keeping))
    return sorted(path.rsplit("/", 2)[1] + "/" + Path(path).name for path in system.find(folder))


def test_a_state_is_found_again(keeping: Keeping) -> None:
    files = StateFiles(keeping, "trial 3 stage 1", 100)
    checkpoint = files.write(20, STATES, 0.0)
    assert checkpoint is not None
    (found,) = unpack_checkpoint(checkpoint)
    assert found["step"] == 3 and torch.equal(found["inputs"]["vision"], STATES[0]["inputs"]["vision"])
    system, path = fsspec.core.url_to_fs(json.loads(checkpoint)["url"])
    content = system.cat_file(path)
    assert json.loads(checkpoint)["sha256"] == hashlib.sha256(content).hexdigest()
    system.pipe_file(path, content[:-1])
    with pytest.raises(StateLost, match="damaged"):
        unpack_checkpoint(checkpoint)
    system.rm_file(path)
    with pytest.raises(StateLost):
        unpack_checkpoint(checkpoint)
    assert unpack_checkpoint(pack_checkpoint(STATES))[0]["step"] == 3  # small ones


def test_old_files_go_and_those_of_ended_trials(keeping: Keeping) -> None:
    files = StateFiles(keeping, "trial 3", 100)
    for step in range(5):
        files.write(step, STATES, 0.0)
    for name in ("trial 4", "trial 4 stage 1", "trial 41"):
        StateFiles(keeping, name, 100).write(1, STATES, 0.0)
    assert files_of(keeping)[:3] == ["trial-3/2.pt", "trial-3/3.pt", "trial-3/4.pt"]
    asked: list[list[int]] = []
    discard_ended(keeping, lambda numbers: asked.append(numbers) or [4])  # type: ignore[func-returns-value]
    assert asked == [[3, 4, 41]]
    assert files_of(keeping)[3:] == ["trial-41/1.pt"]
    discard(keeping)
    assert files_of(keeping) == []
    discard_ended(keeping, lambda numbers: pytest.fail("there is nothing to ask about"))


def test_writing_takes_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    files = StateFiles(Keeping("abc"), "trial 0", int(3 * state_files.FIRST_RATE), clock)

    def write(path: str, states: Any) -> bytes:
        clock.now += 7.0
        return b"{}"

    monkeypatch.setattr(state_files, "write_states", write)
    clock.now = 299.0
    assert not files.is_due
    clock.now = 301.0  # 3 s are 1 % of it
    assert files.is_due
    files.write(1, STATES, clock.now - 1.0)  # after a second of copying
    assert files.cost == 8.0
    spent, reports = 8.0, 1
    while clock.now < 40_000:
        clock.now += 20.0
        if files.is_due:
            before = clock.now
            files.write(1, STATES, before)
            spent, reports = spent + clock.now - before, reports + 1
    assert reports > 20
    assert spent / clock.now < 0.0105


def test_minutes_hold_unless_the_steps_are_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    files = StateFiles(Keeping("abc", every=2.0), "trial 0", 0, clock)
    clock.now = 119.0
    assert not files.is_due
    clock.now = 120.0
    assert files.is_due
    files.cost = 130.0
    assert not files.is_due


def test_a_checkpoint_that_cannot_be_written_costs_no_trial(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    files = StateFiles(Keeping("abc", f"{tmp_path}/file"), "trial 0", 0)
    assert files.write(1, STATES, 0.0) is None
    assert "a checkpoint could not be written" in caplog.text
    with pytest.raises(UserError, match="cannot be written to"):
        check_storage(f"{tmp_path}/file/folder")
    with pytest.raises(UserError, match="must be an absolute path"):
        check_storage("states")
    with pytest.raises(UserError, match="nonsense"):
        check_storage("nonsense://bucket")
    check_storage(f"{tmp_path}/new/folder")
    check_storage(None)


def test_a_large_state_continues_bit_for_bit(
    join: Callable[..., Tenants],  # noqa: F811
    task: dict[str, Any],  # noqa: F811
    keeping: Keeping,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tenants, "LARGE", 1)

    def joined(checkpoint: bytes | None = None) -> Tenants:
        others = join(None, "other")
        others.join("trial 1", [task], {"num_frequencies": 8}, [0, 1], 6, checkpoint, None, keeping=keeping)
        return others

    def state(of: Tenants) -> list[torch.Tensor]:
        return [x.clone() for r in of.tenants["trial 1"].replicas for x in (*r.inputs.values(), *r.velocity.values())]

    through = joined()
    files = through.tenants["trial 1"].files
    assert files is not None
    files._since = math.inf
    first = advance(through, {"trial 1": 2})["trial 1"].reports[0]
    assert first["checkpoint"] is None  # it is not time yet
    files._since = -math.inf
    second = told(through, {"trial 1": 2})
    assert second["checkpoint"].startswith(b"{") and len(second["checkpoint"]) < 1000
    last = advance(through, {"trial 1": 2})["trial 1"].reports[0]
    assert last["checkpoint"] == b""
    again = joined(second["checkpoint"])
    assert again.tenants["trial 1"].step == 4
    assert advance(again, {"trial 1": 2})["trial 1"].reports[0]["accuracies"] == last["accuracies"]
    assert all(torch.equal(a, b) for a, b in zip(state(again), state(through), strict=True))


def told(of: Tenants, steps: dict[str, int]) -> dict[str, Any]:
    """A report that another thread may give; the engine goes on meanwhile, and drops nobody for silence."""
    (name,) = steps
    answers = Answers()
    of.advance(name, steps[name], answers)
    while not answers.done:
        if of.busy:
            of.step()
        of.drop_silent()
    return answers.reports[0]
