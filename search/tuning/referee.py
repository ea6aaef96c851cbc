"""Who goes on in a race: judged where the records are, so that only the answer travels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from search.analysis.metrics import replica_values
from search.analysis.scores import per_seed_means
from search.ledger.ledger import Ledger
from search.ledger.records import TrialRecord
from search.ledger.requests import is_to_stop
from search.space.plan import Plan
from search.tuning.racing import Judgement, Runner, judge


class Referee(Ledger):
    """The ledger as trials know it: an actor on the driver's host. The record of a trial that has ended is read once."""

    def __init__(self, output: Path) -> None:
        super().__init__(output)
        self._rivals: dict[int, Runner | None] = {}  # None: ended, but nobody's rival

    def judged(self, plan: Plan, number: int, metrics: Mapping[str, float]) -> Judgement:
        """A trial with these metrics, against those that have all seeds of `plan` by now, which has racing. One that --stop-trial
        asked to end does not go on."""
        assert plan.racing is not None
        for other in self.numbers():
            if other not in self._rivals and (record := self.ended(other)) is not None:
                self._rivals[other] = _rival(record, plan)
                self._ended.pop(other, None)  # large: its curves are in it
        rivals = [rival for rival in map(self._rivals.get, sorted(self._rivals)) if rival is not None]
        own = per_seed_means(replica_values(dict(metrics), plan), len(plan.tasks))
        judgement = judge(own, rivals, plan.racing.tolerance)
        return replace(judgement, goes_on=judgement.goes_on and not is_to_stop(self.output, number))


def _rival(record: TrialRecord, plan: Plan) -> Runner | None:
    if record.status != "completed" or record.score is None or record.name == "paper_default":  # cannot be recommended
        return None
    if int(record.metrics["seeds"]) != len(plan.seeds):
        return None
    return Runner(record.score, tuple(per_seed_means(replica_values(record.metrics, plan), len(plan.tasks))))
