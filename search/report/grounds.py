"""What stands behind the verdict: how much of the gain is the learning rates', and how much was luck. Plain text."""

from __future__ import annotations

from collections.abc import Iterable

from search.report.model import Confirmation, Report
from search.report.text import difference, label, score

SAME = 0.0005  # differences of scores below are shown as 0.000


def grounds(report: Report) -> str:
    """How much of the gain the lambdas gave, whether the search's best trial was any better, and what a single seed would
    have chosen; empty where the recommended setting diverged on fresh seeds.
    """
    if report.confirmation.recommended.mean is None:
        return ""
    kept = report.verdict is not None and report.verdict.keep_default  # then there is no gain to be explained
    sentences = ["" if kept else _origin(report), _luck(report.confirmation), _one_seed(report.confirmation)]
    return " ".join(sentence for sentence in sentences if sentence)


def is_best(confirmation: Confirmation) -> bool:
    """Whether the recommended setting is the trial with the best score."""
    own, best = confirmation.recommended.trial, confirmation.best.trial
    return own is not None and own == best


def paper_is_better(confirmation: Confirmation) -> bool:
    """Whether the paper's default, which cannot be recommended, did better than the recommended setting."""
    paper = confirmation.differences.get("paper_default")
    return paper is not None and paper.mean is not None and paper.mean < 0


def _origin(report: Report) -> str:
    """A sentence on how much of the gain is the learning rates' and how much the others'; empty where unknown."""
    against, others = report.confirmation.differences, _beside_rates(report.space.search)
    rates, default = against.get("tuned_rates"), against.get("default")
    if rates is None or rates.mean is None:
        return ""
    told = difference(rates)
    if rates.interval is None:
        return f"Its difference to the default lambdas with tuned learning rates is {told} (no interval known)."
    if rates.sign < 0:
        return (
            f"The default lambdas with tuned learning rates do better than it, by {difference(rates, turned=True)}: "
            f"tuning {others} did not pay here."
        )
    alone = None if default is None or default.mean is None else default.mean - rates.mean
    if default is None or alone is None or alone <= 0 or default.sign <= 0:
        if rates.sign > 0:
            lead = f"It is {told} above the default lambdas with tuned learning rates"
            return f"{lead}: so much is due to {others}."
        return f"It cannot be told apart from the default lambdas with tuned learning rates ({told})."
    total = f"Of the {score(default.mean)} over the {label('default')}, tuning the learning rates alone gives"
    if rates.sign > 0:
        return f"{total} {score(alone)}; {others} add {told}."
    return f"{total} {score(alone)}; what {others} add, {told}, is within noise."


def _beside_rates(names: Iterable[str]) -> str:
    """What was searched beside learning rates, in words."""
    others = {name for name in names if not name.startswith("learning_rate")}
    lambdas = {name for name in others if name.startswith("lambda_")}
    if others - lambdas - {"frequency_scale"}:
        return "the other hyperparameters"
    return "the lambdas" if others and others == lambdas else "the lambdas and the frequency scale"


def _luck(confirmation: Confirmation) -> str:
    """A sentence on the search's best trial beside the recommended setting."""
    if is_best(confirmation):
        aside = ", the paper's default aside" if paper_is_better(confirmation) else ""
        return f"It is the search's best trial{aside}{_shrinkage(confirmation, '; its')}."
    entry = confirmation.differences.get("best")
    if entry is None or entry.mean is None:
        lost = _shrinkage(confirmation, "The best trial's")
        return f"{lost}." if lost else ""
    if entry.sign > 0:
        text = f"It is {difference(entry)} above the search's best trial"
    elif entry.sign < 0:
        text = f"It gives up {difference(entry, turned=True)} against the search's best trial"
    else:
        text = f"It cannot be told apart from the search's best trial ({difference(entry)})"
    return text + _shrinkage(confirmation, "; that trial's") + "."


def _shrinkage(confirmation: Confirmation, whose: str) -> str:
    """Half a sentence on the best trial's score in the search minus its confirmed score; empty where unknown."""
    lost = confirmation.shrinkage
    if lost is None:
        return ""
    if abs(lost) < SAME:
        return f"{whose} score in the search was the same as on fresh seeds"
    if lost < 0:
        return f"{whose} score in the search was {score(-lost)} lower, so it was not merely a lucky trial"
    return f"{whose} score in the search was {score(lost)} higher, because the best of many noisy scores is partly luck"


def _one_seed(confirmation: Confirmation) -> str:
    """A sentence on what a search with one run per setting would have chosen; empty where that is no worse."""
    entry, single = confirmation.differences.get("best_single_seed"), confirmation.best_single_seed
    if single is not None and single.trials and single.mean is None:
        return "Of the trials that single seeds would have chosen, one had a loss that was not finite on fresh seeds."
    if entry is None or entry.sign <= 0:
        return ""
    count = len(single.trials) if single is not None else 0
    mean = f", the mean over what {count} seeds would have chosen" if count > 1 else ""
    return f"Choosing by a single seed would have cost {difference(entry)}{mean}."
