"""The verdict of a search: what is recommended, how sure that is, against what, and what it gives on test.

Where no setting tried is shown to be better than the best published one, that one is recommended: it is kept.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.analysis.saturation import WHAT_HELPS, at_limit
from search.report import text
from search.report.grounds import SAME, is_best, paper_is_better
from search.report.model import Judgement, PairedDifference, Report, TrialCounts

# What the recommended setting has to beat, in this order; the challenger where a published setting is kept.
AGAINST = ("paper_default", "default", "mmd", "tuned_rates", "challenger")
# What else is measured on test is a baseline, MMD among them.
SETTINGS = {"recommended", "best", "best_single_seed", *AGAINST} - {"mmd"}
INDENT = 15  # of the lines, beside their labels
UNBROKEN, WHOLE = r"\[.*?\]|\d (?:%|failed)", "\0"  # what no line ends within, and its spaces meanwhile


@dataclass(frozen=True)
class OnTest:
    """The recommended setting on the test split."""

    metric: str  # accuracy, retrieval, or score where tasks differ
    score: float  # mean over seeds
    full_data: float | None  # what all real items give
    baseline: str | None  # the best of those with as many items per class
    lead: float | None  # of the recommended setting over that one
    ci95: tuple[float, float] | None = None  # of the score
    over_paper: PairedDifference | None = None
    over_baseline: PairedDifference | None = None
    balanced: float | None = None  # accuracy, mean over classes; None where these are about as large as one another

    @property
    def share(self) -> float | None:
        """Of what full data gives, in [0, 1] or above."""
        return self.score / self.full_data if self.full_data else None


@dataclass(frozen=True)
class Verdict:
    """The numbers that a search stands by, and four lines of text that say them; another one where a published setting is kept of
    whose surroundings nothing is known, and one where the score is saturated.

    Scores are shares of what full data gives on validation; a number is None where it is not known or was not finite.
    """

    what: str  # which setting is recommended, in a phrase
    trial: int | None  # the one that it was; None for the plateau's setting
    trials: TrialCounts
    metric: str
    score: float | None  # mean over fresh seeds; None if a loss was not finite
    std: float | None
    n: int  # fresh seeds
    kept: float | None  # what `kept_by` reach with all hyperparameters moved at once
    kept_by: str  # `nine runs in ten (of 16)`
    moved: str  # which were moved, and how far
    differences: Mapping[str, PairedDifference]  # to settings of `AGAINST`
    diverged: tuple[str, ...]  # settings of `AGAINST` whose loss was not finite
    test: OnTest | None
    judgement: Judgement | None = None  # None: of an earlier version
    tried: str | None = None  # the best setting tried, and its ranges; None: those of the recommended one are known
    groups: int | None = None  # of validation items
    folds: int | None = None  # None: a single split

    @property
    def keep_default(self) -> bool:
        """Whether a published setting is recommended, because none is shown to be better."""
        return self.judgement is not None and self.judgement.keep_default

    @property
    def saturated(self) -> bool:
        """Whether the score is at its ceiling or floor."""
        return self.judgement is not None and self.judgement.saturated

    @classmethod
    def of(cls, report: Report) -> Verdict:
        """What a report comes down to."""
        confirmation, perturbation = report.confirmation, report.perturbation
        rows = confirmation.rows()
        own = confirmation.recommended
        return cls(
            what=_what(report),
            trial=own.trial,
            trials=report.trials,
            metric=report.metric,
            score=own.mean,
            std=own.std,
            n=own.n,
            kept=perturbation.recommended.quantile if perturbation else None,
            kept_by=f"{text.most(perturbation.quantile)} (of {len(perturbation.recommended.values)})"
            if perturbation
            else "",
            moved=_moved(report),
            differences={
                key: found for key in AGAINST if (found := to_setting(report, key)) and found.mean is not None
            },
            diverged=tuple(key for key in AGAINST if key in rows and rows[key].mean is None),
            test=_on_test(report),
            judgement=report.verdict,
            tried=_best_tried(report),
            groups=None if report.validation is None else report.validation.groups,
            folds=None if report.validation is None else report.validation.folds,
        )

    def lines(self) -> dict[str, str]:
        """label -> a line: `recommended`, `how sure`, `against`, `on test`; `searched` where a published setting is kept, and
        `beware` where the score is saturated."""
        told = {
            "recommended": self.what,
            "how sure": self._how_sure(),
            "against": self._against(),
            "on test": self._on_test(),
        }
        if self.tried is not None:
            told["searched"] = self.tried
        if self.judgement is not None and self.judgement.saturated and self.judgement.limit is not None:
            limit = self.judgement.limit
            told["beware"] = f"{at_limit(limit, 'the best quarter of the trials')}; what helps: {WHAT_HELPS[limit]}"
        return told

    def wrapped(self, width: int) -> dict[str, str]:
        """label -> its line, label included, broken to `width` characters with a hanging indent."""
        return {
            label: textwrap.fill(
                re.sub(UNBROKEN, lambda found: found[0].replace(" ", WHOLE), line),
                max(width, INDENT + 30),
                initial_indent=f"{label:<{INDENT}}",
                subsequent_indent=" " * INDENT,
                break_long_words=False,
                break_on_hyphens=False,
            ).replace(WHOLE, " ")
            for label, line in self.lines().items()
        }

    def __str__(self) -> str:
        """The four lines, unbroken."""
        return "\n".join(f"{label:<{INDENT}}{line}" for label, line in self.lines().items())

    def _how_sure(self) -> str:
        seeds = text.count(self.n, "fresh seed")
        if self.score is None:
            return f"do not trust it: not every loss was finite on {seeds}"
        same = text.same_on_all(self.std, self.n)
        value = text.spread(self.score, None if same else self.std)
        told = f"{value} of full-data {text.metric(self.metric)}{', the same' if same else ''} on {seeds}"
        if self.kept is None:
            return told
        return f"{told}; {self.kept_by} reach {text.score(self.kept)} with {self.moved}"

    def _against(self) -> str:
        parts = [compared(self._name(key), found) for key, found in self.differences.items()]
        if parts:
            parts[-1] += f" ({covered(next(iter(self.differences.values())).covers, self.groups, self.folds)})"
        parts += [f"no score for {self._name(key)}: not every loss was finite" for key in self.diverged]
        return "; ".join(parts) or "nothing: no other setting has a score"

    def _on_test(self) -> str:
        if self.test is None:
            return "no score: not every loss was finite"
        told = f"{text.metric(self.test.metric)} {text.score(self.test.score)}"
        if self.test.ci95 is not None:
            told += f" {text.interval(self.test.ci95)}"
        if self.test.balanced is not None:
            told += f" (mean over classes: {text.score(self.test.balanced)})"
        if self.test.share is not None:
            told += f", {text.number(100 * self.test.share)} % of full data ({text.score(self.test.full_data)})"
        paper, baseline = self.test.over_paper, self.test.over_baseline
        if paper is not None or baseline is not None:
            parts = [] if paper is None else [compared(name_of("paper_default"), paper)]
            if baseline is not None and self.test.baseline is not None:
                parts.append(compared(f"{text.label(self.test.baseline)}, the best baseline", baseline))
            return f"{told}; {'; '.join(parts)} ({covered((paper or baseline).covers, None)})"  # type: ignore[union-attr]
        if self.test.baseline is not None and self.test.lead is not None:
            lead = self.test.lead
            apart = "level with" if abs(lead) < SAME else f"{text.score(abs(lead))} {'above' if lead > 0 else 'below'}"
            told += f"; {apart} the best baseline, {text.label(self.test.baseline)}"
        return told

    def _name(self, setting: str) -> str:
        if setting != "challenger" or self.judgement is None:
            return name_of(setting)
        return text.best_tried(self.judgement.trial)


def to_setting(report: Report, setting: str) -> PairedDifference | None:
    """The recommended setting minus another one on the reporting seeds; earlier versions had that to MMD in its row only."""
    row, found = report.confirmation.rows().get(setting), report.confirmation.differences.get(setting)
    return row.difference if found is None and report.verdict is None and row is not None else found


def compared(name: str, found: PairedDifference) -> str:
    """`+0.009 [0.007, 0.012] over the paper's default`, with a word where that is no gain, or none that is shown."""
    if found.sign < 0:
        return f"{text.difference(found, turned=True)} below {name}"
    told = text.signed(found.mean)
    if found.interval is None:
        return f"{told} over {name}, no interval known"
    shown = "" if found.sign else ": no difference is shown"
    return f"{told} {text.interval(found.interval)} over {name}{shown}"


def covered(covers: Sequence[str], groups: int | None, folds: int | None = None) -> str:
    """`95 %, paired, over seeds and groups`: what intervals say something of. `groups`, `folds`: of validation, if any."""
    if folds is not None and len(covers) > 1:
        return f"{covered(covers, groups)}, in {folds} folds"
    if not covers:
        return "95 %, paired"
    if covers == ["seeds"]:
        return "95 %, paired, over seeds, on these items"
    if "groups" in covers:
        return f"95 %, paired, over {' and '.join(covers)}"
    few = "" if groups is None else f" of {text.count(groups, 'group')} only"
    return f"95 %, paired, over {' and '.join(covers)}{few}"


def name_of(setting: str) -> str:
    """A setting in a sentence: `the paper's default`, `MMD`."""
    alone = {"tuned_rates": "tuned learning rates alone", "mmd": "MMD"}
    return alone.get(setting, f"the {text.label(setting)}")


def _kept(report: Report, judgement: Judgement) -> str:
    """A published setting, and why it is kept."""
    known = judgement.published or "default"
    told = f"keep {name_of(known)}"
    if judgement.unlike_fixed:
        told += " (unlike what the space fixes: "
        told += f"{', '.join(f'{name} {text.number(value)}' for name, value in judgement.unlike_fixed.items())})"
    found, tried = judgement.difference, text.best_tried(judgement.trial)
    if found is None or found.mean is None:
        return f"{told}: no setting tried could be compared with it"
    told += ": no setting tried is better by more than the data can show"
    why = text.WHY_NO_MORE_SEEDS.get(report.confirmation.stopped or "decided", "")
    why = f"; {why}" if why else ""
    if found.interval is None:
        return f"{told} ({tried}: {text.signed(found.mean)}, no interval known){why}"
    return (
        f"{told} ({tried}: {text.signed(found.mean)} {text.interval(found.interval)} over it, 95 % for the best of "
        f"{text.count(judgement.compared, 'setting')}){why}"
    )


def _best_tried(report: Report) -> str | None:
    """`the best setting tried, trial 5: lambda_cross 0.3, good from 0.1 to 2; ...`"""
    tried = report.best_tried
    if tried is None or not tried.robust_region:
        return None
    ranges = [
        f"{name} {text.number(tried.params[name])}, {text.good_range(report, name)}" for name in tried.robust_region
    ]
    return f"{text.best_tried(tried.trial)}: {'; '.join(ranges)}"


def _what(report: Report) -> str:
    if report.verdict is not None and report.verdict.keep_default:
        return _kept(report, report.verdict)
    own, best, trials = report.confirmation.recommended.trial, report.confirmation.best.trial, report.trials
    ended = f"{trials.pruned:,} stopped early, {trials.failed:,} failed"
    completed = text.count(trials.completed, "completed trial")
    if own is None:
        return f"the plateau's setting, from a model of all trials ({trials.completed:,} completed, {ended})"
    if is_best(report.confirmation):
        aside = ", the paper's default aside" if paper_is_better(report.confirmation) else ""
        return f"trial {own}, the best of {completed}{aside} ({ended})"
    told = (
        f"trial {own}, beside {completed} ({ended})" if best is None else f"trial {own}, one of {completed} ({ended})"
    )
    return told if best is None else f"{told}; the best score of the search was trial {best}'s"


def _moved(report: Report) -> str:
    if report.perturbation is None:
        return ""
    far, rest = text.how_far(report.perturbation.decades, report)
    which = text.what_moved(report).replace("hyperparameter", "value")
    return f"{which} moved by up to {far}{f' ({rest})' if rest else ''}"


def _on_test(report: Report) -> OnTest | None:
    test = report.test
    known = {key: entry.mean for key, entry in test.items() if entry.mean is not None}
    if "recommended" not in known:
        return None
    entry, own = test["recommended"], known["recommended"]
    baselines = {key: mean for key, mean in known.items() if key not in {*SETTINGS, "full_data"}}
    best = entry.baseline or max(baselines, key=lambda key: baselines[key], default=None)
    lead = None if best is None else own - baselines[best]
    low, high = entry.ci95 or (None, None)
    interval = None if low is None or high is None else (low, high)
    itself = report.verdict is not None and report.verdict.keep_default and report.verdict.published == "paper_default"
    paper = None if itself else entry.difference.get("paper_default")
    to_best = entry.difference.get("best_baseline")
    return OnTest(report.metric, own, known.get("full_data"), best, lead, interval, paper, to_best, entry.balanced)
