"""States that are too large for reports: written by the engine when it is time, found again, and lost without harm."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from object_stores import ObjectStore, object_store
from test_tenants import Answers, advance, join, task  # noqa: F401  # fixtures

from condense.system.errors import UserError
from search.engine import state_files, tenants
from search.engine.checkpoint import pack_checkpoint, unpack_checkpoint
from search.engine.state_files import (
    StateFiles,
    StateLost,
    StateUnreachable,
    check_storage,
    discard,
    discard_ended,
)
from search.engine.tenants import Tenants
from search.space.plan import Keeping

STATES = [{"step": 3, "inputs": {"vision": torch.arange(12.0).view(3, 4)}, "divergence": None}]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()  # as every engine does


@pytest.fixture(params=["", "file", "s3", "gs"])
def keeping(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Keeping]:
    """On the node's disk, in a folder, and in object stores."""
    if request.param in ("", "file"):
        yield Keeping("abc", f"file://{tmp_path}/states" if request.param else None)
        return
    with object_store(request.param) as store:
        yield Keeping("abc", f"{store.address}/folder")


@pytest.fixture(params=["s3", "gs"])
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    with object_store(request.param) as store:
        yield store


@dataclasses.dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def files_of(keeping: Keeping) -> list[str]:
    system, folder = fsspec.core.url_to_fs(state_files.folder_of(keeping))
    named = [path.rsplit("/", 2)[1] + "/" + Path(path).name for path in system.find(folder)]
    return sorted(re.sub(r"-[0-9a-f]{8}\.pt$", ".pt", name) for name in named)


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


def test_what_is_written_when_its_trial_has_left_is_deleted(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that is stopped early leaves while the engine still writes; its earlier files stay, for it may join again."""
    files = StateFiles(keeping, "trial 3", 100)
    assert files.write(1, STATES, 0.0) is not None
    whole = state_files.write_states

    def leave_meanwhile(path: str, states: Any) -> bytes:
        checkpoint = whole(path, states)
        assert files_of(keeping) == ["trial-3/1.pt", "trial-3/2.pt"]
        files.close()
        return checkpoint

    monkeypatch.setattr(state_files, "write_states", leave_meanwhile)
    assert files.write(2, STATES, 0.0) is None
    assert files_of(keeping) == ["trial-3/1.pt"]
    monkeypatch.setattr(state_files, "write_states", lambda *_: pytest.fail("it has left"))
    assert files.write(3, STATES, 0.0) is None


def test_one_that_joins_again_does_not_write_to_the_files_of_before(keeping: Keeping) -> None:
    first, second = (StateFiles(keeping, "trial 3", 100).write(1, STATES, 0.0) for _ in range(2))
    assert first is not None and second is not None and first != second
    assert files_of(keeping) == ["trial-3/1.pt", "trial-3/1.pt"]


def test_files_of_other_nodes_are_seen_and_deleted(store: ObjectStore) -> None:
    """s3fs and gcsfs remember what is in a folder."""
    keeping = Keeping("abc", store.address)
    StateFiles(keeping, "trial 3", 100).write(1, STATES, 0.0)
    asked: list[list[int]] = []
    discard_ended(keeping, lambda numbers: asked.append(numbers) or [])  # type: ignore[func-returns-value]
    fsspec.get_filesystem_class(store.address[:2]).clear_instance_cache()
    other = fsspec.core.url_to_fs(store.address, skip_instance_cache=True)[0]
    other.pipe_file("states/abc/trial-7/1.pt", b"")
    discard_ended(keeping, lambda numbers: asked.append(numbers) or [7])  # type: ignore[func-returns-value]
    assert asked == [[3], [3, 7]]
    assert files_of(keeping) == ["trial-3/1.pt"]


def test_a_bucket_is_not_made_by_its_misspelt_name(store: ObjectStore) -> None:
    check_storage(store.address)
    check_storage(f"{store.address}/a/folder")
    for _ in range(2):
        with pytest.raises(UserError, match=f"storage {store.address}0/a/folder: there is no bucket states0"):
            check_storage(f"{store.address}0/a/folder")


def test_a_store_that_does_not_answer_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may come back: the file is not lost, and what cannot be deleted stays."""
    with object_store("s3") as store:
        keeping = Keeping("abc", store.address)
        files = StateFiles(keeping, "trial 3", 100)
        checkpoint = files.write(20, STATES, 0.0)
        assert checkpoint is not None
        store.stop()
        with pytest.raises(StateUnreachable, match=r"s3://states/abc/trial-3/20-\w+.pt: Could not connect"):
            unpack_checkpoint(checkpoint)
        assert files.write(21, STATES, 0.0) is None
        caplog.clear()
        discard_ended(keeping, lambda numbers: numbers)
        discard(keeping)
        assert caplog.text.count("not needed any more could not be deleted: Could not connect") == 2
        with pytest.raises(UserError, match="cannot be written to: Could not connect"):
            check_storage(store.address)


def test_a_file_that_this_node_may_not_read_is_lost_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = StateFiles(Keeping("abc", str(tmp_path)), "trial 3", 100)
    checkpoint = files.write(20, STATES, 0.0)
    assert checkpoint is not None

    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(state_files, "open", refuse, raising=False)  # root may read anything
    with pytest.raises(StateLost, match=r"20-\w+\.pt: Permission denied"):
        unpack_checkpoint(checkpoint)


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
    through.leave("trial 1")
    assert files.write(7, STATES, 0.0) is None


def told(of: Tenants, steps: dict[str, int]) -> dict[str, Any]:
    """A report that another thread may give; the engine goes on meanwhile, and drops nobody for silence."""
    (name,) = steps
    answers = Answers()
    of.advance(name, steps[name], answers)
    while not answers.done:
        if of.busy:
            of.step()
        of.drop_silent()
        time.sleep(0.001)  # for the thread that writes
    return answers.reports[0]
