"""The best trials of a search, by its own scores."""

from __future__ import annotations

from collections.abc import Sequence

from search.analysis.metrics import replica_values
from search.analysis.scores import per_seed_means
from search.analysis.surrogate import of_space, seeds_of
from search.ledger.ledger import TrialRecord
from search.space.model import Space
from search.space.plan import Plan


def best_trials(records: Sequence[TrialRecord], top_k: int) -> list[TrialRecord]:
    """The trials worth confirming, best first: completed ones with the most seeds, then, if these are too few, those stopped
    latest (a confirmation runs all steps). Equal scores, as at the ceiling, are ordered by log-loss where it is known. The
    paper's default is excluded: its lambdas mean something else.
    """
    inside = [r for r in records if r.status in ("completed", "pruned") and r.name != "paper_default" and r.reports]

    def order(r: TrialRecord) -> tuple[bool, int, int, float, float]:
        return r.status != "completed", -seeds_of(r), -r.steps, -score_of(r), -r.metrics.get("log_loss", 0.0)

    return sorted(inside, key=order)[:top_k]


def can_conclude(space: Space, records: Sequence[TrialRecord]) -> bool:
    """Whether there is a trial that could be recommended, so that the search could end here."""
    return bool(best_trials(of_space(space, records), 1))


def score_of(record: TrialRecord) -> float:
    """A trial's robust score."""
    return record.metrics["score"] if record.score is None else record.score


def contenders(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Completed trials with the most seeds, in the search's own scaling."""
    completed = [r for r in records if r.status == "completed" and r.name != "paper_default" and r.reports]
    most = max(map(seeds_of, completed), default=0)
    return [r for r in completed if seeds_of(r) == most]


def best_by_single_seed(records: Sequence[TrialRecord], plan: Plan) -> list[TrialRecord]:
    """The choice with one run per setting: for each seed that all completed trials have (with racing, usually only the
    first), the trial with the highest mean over tasks."""
    known = [r for r in records if r.status == "completed" and r.name != "paper_default" and r.reports]
    by_seed = [per_seed_means(replica_values(r.metrics, plan), len(plan.tasks)) for r in known]
    return [known[max(range(len(known)), key=of.__getitem__)] for of in zip(*by_seed, strict=False)]


def best_trial(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial with the best robust score, in the search's own scaling: the luckiest one."""
    return max(contenders(records), key=score_of, default=None)
