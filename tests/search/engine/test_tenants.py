"""Tenants of an engine: they step and report together, and what happens to one is told to that one only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_search import ENCODER

from condense.storage.store import Store
from search.engine.checkpoint import unpack_checkpoint
from search.engine.hits import unpack_hits
from search.engine.tenant_lost import TenantLost
from search.engine.tenants import Tenants

H: dict[str, Any] = {"num_frequencies": 8, "frequency_pool": 16, "learning_rate": 0.5}


class Answers:
    """What a tenant was told."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.errors: list[Exception] = []

    def __call__(self, report: dict[str, Any] | None, error: Exception | None) -> None:
        if error is not None:
            self.errors.append(error)
        if report is not None:
            self.reports.append(report)

    @property
    def done(self) -> bool:
        return bool(self.reports or self.errors)


@pytest.fixture
def task(small_data: Path) -> dict[str, Any]:
    return {"dataset": {"name": "tensors", "path": str(small_data)}, "encoder": ENCODER, "dpc": 1}


@pytest.fixture
def join(tmp_path: Path, task: dict[str, Any]) -> Callable[..., Tenants]:
    """(tenants or None, name, options) -> with this tenant in it: two seeds of one task."""

    def add(
        tenants: Tenants | None, name: str, checkpoint: bytes | None = None, lease: float | None = None, **options: Any
    ) -> Tenants:
        tenants = tenants or Tenants(torch.device("cpu"), Store(tmp_path / "store"))
        tenants.join(name, [task], {**H, **options}, [0, 1], 6, checkpoint, lease)
        return tenants

    return add


def advance(tenants: Tenants, steps: dict[str, int]) -> dict[str, Answers]:
    """Lets each take so many steps; what they were told."""
    answers = {name: Answers() for name in steps}
    for name, count in steps.items():
        tenants.advance(name, count, answers[name])
    for _ in range(100):
        if all(answer.done for answer in answers.values()):
            return answers
        tenants.step()
    raise AssertionError("no answer")


def test_a_report_is_the_same_beside_any_other_tenants_and_after_a_pause(join: Callable[..., Tenants]) -> None:
    alone = advance(join(None, "a"), {"a": 6})["a"].reports[0]

    tenants = join(None, "a")
    join(tenants, "b", frequency_scale=2.0)
    first = advance(tenants, {"a": 2, "b": 4})["a"].reports[0]
    assert (first["step"], first["curve"]["step"]) == (2, [1, 2])
    tenants.leave("b")
    checkpoint = first["checkpoint"]
    tenants.leave("a")
    join(tenants, "a", checkpoint=checkpoint)
    assert tenants.tenants["a"].step == 2
    join(tenants, "c", learning_rate=3.0)
    second = advance(tenants, {"a": 4, "c": 6})["a"].reports[0]
    assert second["step"] == 6
    assert first["curve"]["loss"] + second["curve"]["loss"] == pytest.approx(alone["curve"]["loss"], rel=1e-4)
    assert second["accuracies"] == pytest.approx(alone["accuracies"])
    for here, there in zip(
        unpack_checkpoint(second["checkpoint"]), unpack_checkpoint(alone["checkpoint"]), strict=True
    ):
        for m, x in here["inputs"].items():
            assert torch.allclose(x, there["inputs"][m], atol=1e-4)


def test_a_loss_that_is_not_finite_is_told_to_its_tenant(join: Callable[..., Tenants]) -> None:
    tenants = join(None, "good")
    join(tenants, "bad", learning_rate=1e39)
    told = advance(tenants, {"good": 6, "bad": 6})
    assert told["bad"].reports[0]["divergence"] == {"step": 2, "term": "uni", "seed": 0}
    assert told["good"].reports[0]["divergence"] is None
    assert told["good"].reports[0]["step"] == 6


def test_what_fails_in_one_tenant_is_told_to_that_one(join: Callable[..., Tenants]) -> None:
    tenants = join(None, "good")
    join(tenants, "bad")
    tenants.tenants["bad"].replicas[1].frequencies["vision"] = torch.zeros(3, 3)  # does not fit anything
    told = advance(tenants, {"good": 6, "bad": 6})
    assert len(told["bad"].errors) == 1
    assert told["bad"].reports == []
    assert told["good"].reports[0]["step"] == 6
    assert set(tenants.tenants) == {"good"}


def test_bad_requests_disturb_nobody(join: Callable[..., Tenants], task: dict[str, Any]) -> None:
    tenants = join(None, "good")
    waiting = Answers()
    tenants.advance("good", 4, waiting)
    tenants.step()
    with pytest.raises(TenantLost):
        tenants.advance("nobody", 1, Answers())
    with pytest.raises(ValueError, match="lambda_cross"):
        tenants.join("bad", [task], {**H, "lambda_cross": -1}, [0], 6, None, None)
    with pytest.raises(RuntimeError, match="already"):
        tenants.advance("good", 1, Answers())
    tenants.leave("nobody")
    for _ in range(4):
        tenants.step()
    assert waiting.reports[0]["step"] == 4


def test_who_leaves_while_somebody_waits_is_told(join: Callable[..., Tenants]) -> None:
    tenants = join(None, "a")
    waiting = Answers()
    tenants.advance("a", 4, waiting)
    tenants.leave("a")
    assert "has left" in str(waiting.errors[0])
    assert tenants.busy == []


def test_a_lease_runs_out_only_in_silence(join: Callable[..., Tenants], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("search.engine.tenants.time.monotonic", lambda: clock[0])
    tenants = join(None, "driver's")
    join(tenants, "silent", lease=60.0)
    join(tenants, "waiting", lease=60.0)
    waiting = Answers()
    tenants.advance("waiting", 6, waiting)
    clock[0] += 59
    tenants.drop_silent()
    assert set(tenants.tenants) == {"driver's", "silent", "waiting"}
    clock[0] += 2
    tenants.drop_silent()
    assert set(tenants.tenants) == {"driver's", "waiting"}
    while not waiting.done:
        tenants.step()
    clock[0] += 59  # counted from the report
    tenants.drop_silent()
    assert "waiting" in tenants.tenants
    clock[0] += 2
    tenants.drop_silent()
    assert set(tenants.tenants) == {"driver's"}
    with pytest.raises(TenantLost):
        tenants.advance("waiting", 1, Answers())


def test_time_is_accounted_for(join: Callable[..., Tenants]) -> None:
    tenants = join(None, "a")
    advance(tenants, {"a": 6})
    assert tenants.seconds.keys() == {"steps", "validation", "joins"}
    assert all(seconds > 0 for seconds in tenants.seconds.values())
    assert tenants.replica_steps == 12


@pytest.mark.parametrize(
    ("granted", "cores"), [((0.5, 0.5), 1), ((0.5, 1.0), 2), ((0.25,), 1), ((3.0, 3.0, 3.0), 8), ((0.5, None), 8)]
)
def test_cores_are_those_that_tenants_have_been_granted(
    join: Callable[..., Tenants], task: dict[str, Any], granted: tuple[float | None, ...], cores: int
) -> None:
    tenants = join(None, "0")
    tenants.leave("0")
    for i, cpus in enumerate(granted):
        tenants.join(str(i), [task], H, [0], 6, None, None, cpus)
    assert tenants.cores(8) == cores


def test_room_is_for_what_replicas_keep(
    join: Callable[..., Tenants], task: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three items each of an image of 64 and a sound of 1,024 values, in six copies; half of the memory is for them."""
    tenants = join(None, "a")
    replica = 4 * 6 * 3 * (64 + 1024)
    kept = sum(x.nbytes for r in tenants.tenants["a"].replicas[:1] for x in (*r.inputs.values(), *r.velocity.values()))
    assert 3 * kept == replica  # inputs and velocity are two of the copies
    monkeypatch.setattr("search.engine.tenants.memory.budget", lambda device: 10 * replica)
    assert tenants.room([task]) == 5
    assert tenants.room([task, {**task, "dpc": 4}]) == 1
    monkeypatch.setattr("search.engine.tenants.memory.budget", lambda device: 1)
    assert tenants.room([task]) == 1  # less than one there cannot be


def test_who_cannot_resume_gets_no_checkpoint(join: Callable[..., Tenants], task: dict[str, Any]) -> None:
    tenants = join(None, "a")
    tenants.join("b", [task], H, [0], 6, None, None, resumable=False)
    told = advance(tenants, {"a": 2, "b": 2})
    assert told["a"].reports[0]["checkpoint"] and told["b"].reports[0]["checkpoint"] is None


def test_the_items_that_were_right_agree_with_the_score(join: Callable[..., Tenants], task: dict[str, Any]) -> None:
    """On validation and on test, of replicas and of coresets; trials' reports go without."""
    tenants = join(None, "trial")
    tenants.join("confirmed", [task], H, [0, 1], 6, None, None, resumable=False)
    told = advance(tenants, {"trial": 6, "confirmed": 6})
    assert told["trial"].reports[0]["hits"] is None
    count = {split: tenants.items(task, split)["count"] for split in ("validation", "test")}
    assert tenants.items(task, "validation").items() >= {"count": count["validation"], "groups": None}.items()

    def check(scores: list[float], hits: list[str], split: str) -> None:
        means = [float(unpack_hits(text, count[split]).mean()) for text in hits]
        assert means == pytest.approx(scores, abs=1e-6) and len(means) > 0

    check(told["confirmed"].reports[0]["accuracies"], told["confirmed"].reports[0]["hits"], "validation")
    final = tenants.finals("confirmed")
    check(final["scores"], final["hits"], "test")
    for own in tenants.baselines(task, [3, 4]).values():
        check(own["scores"], own["hits"], "test")
