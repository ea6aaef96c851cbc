"""What a trial that goes on tells again, and what the record makes of it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from search.ledger import Ledger, PastReport, Report
from search.sampling import SpaceSearcher
from search.scheduling import build_scheduler, prefill
from search.space_file import load_space

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
