"""Reports that have no checkpoint of their own, and a checkpoint that is of no use any more."""

from __future__ import annotations

from test_ledger import ledger, metrics, run, start, state  # noqa: F401  # a fixture

from search.ledger.ledger import Ledger


def test_reports_without_a_checkpoint_count_and_are_made_again(ledger: Ledger) -> None:  # noqa: F811
    start(ledger)
    for step, kept in ((20, False), (40, True), (60, False)):
        ledger.save(0, step, metrics(step), None, state(step) if kept else None)
        record = ledger.trial(0)
        assert record is not None and record.steps == step
    loaded = ledger.load(0)
    assert loaded is not None
    assert (loaded[0], [report.step for report in loaded[1]], loaded[2]) == (40, [20, 40], state(40))
    ledger.save(0, 60, metrics(60), None, None)
    ledger.finish(0, "pruned", 0.6)
    (record,) = Ledger(ledger.output).trials()
    assert (record.steps, [report.step for report in record.reports]) == (60, [20, 40, 60])


def test_a_trial_whose_state_is_lost_starts_again(ledger: Ledger) -> None:  # noqa: F811
    start(ledger, 0)
    start(ledger, 1)
    run(ledger, 0)
    ledger.finish(1, "failed", None)
    assert ledger.over([0, 1, 2]) == [1]
    ledger.restart(0)
    record = ledger.trial(0)
    assert record is not None and record.reports == ()
    assert ledger.load(0) is None
    ledger.save(0, 20, metrics(20), None, None)
    assert ledger.load(0) is None  # no checkpoint yet
