"""What a trial that goes on tells again, and what the record makes of it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import TrialScheduler

from search.ledger.ledger import Ledger, PastReport, Report
from search.space.files import load_space
from search.tuning.early_stopping import build_scheduler, prefill
from search.tuning.searcher import SpaceSearcher

SPACE = load_space("quickstart", ["search={lambda_cross: {low: 0.1, high: 100, log: true}}"])


def test_a_stop_at_a_replayed_report_does_not_take_back_what_came_after(tmp_path: Path) -> None:
    """The rungs hold later trials when a resumed trial reports again: it keeps the score of where it stands."""
    with contextlib.closing(Ledger.open(tmp_path, SPACE.model_dump(mode="json"), resume=False)) as ledger:
        searcher = SpaceSearcher(SPACE, ledger)
        config = searcher.suggest("t0")
        assert isinstance(config, dict)
        for step, score in ((SPACE.steps // 2, 0.5), (SPACE.steps, 0.7)):
            ledger.save(config["number"], step, {"score": score, "step": step}, None, b"state")
        searcher.on_trial_complete("t0", {"step": SPACE.steps // 2, "score": 0.5})
        record = ledger.trial(config["number"])
        assert record is not None and (record.status, record.steps, record.score) == ("completed", SPACE.steps, 0.7)


def test_a_rung_that_a_trial_has_passed_is_not_judged_again() -> None:
    """But its value counts there, and where the trial stands it is judged as any other."""
    several = ["steps=80", "report_every=10", "scheduler={name: asha, grace_steps: 10, reduction_factor: 3}"]
    scheduler: Any = build_scheduler(load_space("quickstart", several))
    first, second = (milestone for milestone, _ in reversed(scheduler._brackets[0]._rungs[-2:]))

    def tell(name: str, step: int, score: float, replayed: bool = False) -> str:
        trial = SimpleNamespace(trial_id=name)
        if name not in scheduler._trial_info:
            scheduler.on_trial_add(None, trial)
        decision: str = scheduler.on_trial_result(None, trial, {"step": step, "score": score, "replayed": replayed})
        return decision

    for i in range(8):  # better ones that have come since
        tell(f"later {i}", first, 0.8 + i / 100)
    assert tell("fresh", first, 0.5) == TrialScheduler.STOP
    assert tell("resumed", first, 0.5, replayed=True) == TrialScheduler.CONTINUE
    assert scheduler._brackets[0]._rungs[-1][1]["resumed"] == 0.5
    for i in range(8):
        tell(f"later {i}", second, 0.8 + i / 100)
    assert tell("resumed", second, 0.5) == TrialScheduler.STOP


def test_a_new_scheduler_hears_of_a_raced_trial_what_the_old_one_did() -> None:
    """The reports of its first stage but the last one, and where it ended."""

    def past(number: int, steps: list[int], status: Any = "completed") -> list[PastReport]:
        reports = [Report(step, 1.0 + step, 1.0, {"score": number / 10 + step / 1000}) for step in steps]
        return [PastReport(number, r, status if r is reports[-1] else None) for r in reports]

    half, whole = SPACE.steps // 2, SPACE.steps
    raced, plain = build_scheduler(SPACE), build_scheduler(SPACE)
    prefill(raced, [*past(1, [half, whole, whole + half, 2 * whole]), *past(2, [half, whole])], whole)
    prefill(plain, [*past(1, [half, 2 * whole]), *past(2, [half, whole])], whole)

    def rungs(scheduler: Any) -> list[list[float]]:
        (bracket,) = scheduler._brackets
        return [list(recorded.values()) for _, recorded in bracket._rungs]

    assert rungs(raced) == rungs(plain)
    assert sum(map(len, rungs(raced))) >= 2


def test_a_trial_that_went_on_goes_on_though_its_replay_is_behind() -> None:
    """It had reported where the others of then, still under way now, are missing: judged again, it would be stopped there."""
    third = load_space("quickstart", ["steps=90", "report_every=30", "scheduler={name: asha, grace_steps: 30}"])
    history = [PastReport(n, Report(30, 1.0 + n, 1.0, {"score": 0.9}), "pruned") for n in range(3)]
    history += [PastReport(3, Report(step, 10.0 + step, 1.0, {"score": 0.1}), None) for step in (30, 60)]
    history += [PastReport(3, Report(90, 100.0, 1.0, {"score": 0.95}), "completed")]
    scheduler: Any = build_scheduler(third)
    prefill(scheduler, history, third.steps)
    assert [recorded.get("past_00003") for _, recorded in scheduler._brackets[0]._rungs][-1] == 0.1
    assert scheduler._trial_info == {}
