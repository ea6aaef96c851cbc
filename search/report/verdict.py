"""The verdict of a search: what is recommended, how sure that is, against what, and what it gives on test."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from search.report import text
from search.report.grounds import SAME, is_best, paper_is_better
from search.report.model import Measured, PairedDifference, Report, TrialCounts

AGAINST = ("paper_default", "default", "tuned_rates")  # what the recommended setting has to beat, in this order
SETTINGS = {"recommended", "best", "best_single_seed", *AGAINST}  # what else is measured on test is a baseline
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

    @property
    def share(self) -> float | None:
        """Of what full data gives, in [0, 1] or above."""
        return self.score / self.full_data if self.full_data else None


@dataclass(frozen=True)
class Verdict:
    """The numbers that a search stands by, and four lines of text that say them.

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
                key: found
                for key in AGAINST
                if (found := confirmation.differences.get(key)) is not None and found.mean is not None
            },
            diverged=tuple(key for key in AGAINST if key in rows and rows[key].mean is None),
            test=_on_test(report.test, report.metric),
        )

    def lines(self) -> dict[str, str]:
        """label -> a line: `recommended`, `how sure`, `against`, `on test`."""
        return {
            "recommended": self.what,
            "how sure": self._how_sure(),
            "against": self._against(),
            "on test": self._on_test(),
        }

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
        told = f"{text.spread(self.score, self.std)} of full-data {text.metric(self.metric)} on {seeds}"
        if self.kept is None:
            return told
        return f"{told}; {self.kept_by} reach {text.score(self.kept)} with {self.moved}"

    def _against(self) -> str:
        parts = [compared(key, found) for key, found in self.differences.items()]
        if parts:
            parts[-1] += " (95 %, paired)"
        parts += [f"no score for {_name(key)}: not every loss was finite" for key in self.diverged]
        return "; ".join(parts) or "nothing: no other setting has a score"

    def _on_test(self) -> str:
        if self.test is None:
            return "no score: not every loss was finite"
        told = f"{text.metric(self.test.metric)} {text.score(self.test.score)}"
        if self.test.share is not None:
            told += f", {text.number(100 * self.test.share)} % of full data ({text.score(self.test.full_data)})"
        if self.test.baseline is not None and self.test.lead is not None:
            lead = self.test.lead
            apart = "level with" if abs(lead) < SAME else f"{text.score(abs(lead))} {'above' if lead > 0 else 'below'}"
            told += f"; {apart} the best baseline, {text.label(self.test.baseline)}"
        return told


def compared(setting: str, found: PairedDifference) -> str:
    """`+0.009 [0.007, 0.012] over the paper's default`, with a word where that is no gain, or none that is shown."""
    if found.sign < 0:
        return f"{text.difference(found, turned=True)} below {_name(setting)}"
    told = text.signed(found.mean)
    if found.interval is None:
        return f"{told} over {_name(setting)}, no interval known"
    shown = "" if found.sign else ": no difference is shown"
    return f"{told} {text.interval(found.interval)} over {_name(setting)}{shown}"


def _name(setting: str) -> str:
    return "tuned learning rates alone" if setting == "tuned_rates" else f"the {text.label(setting)}"


def _what(report: Report) -> str:
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


def _on_test(test: Mapping[str, Measured], metric: str) -> OnTest | None:
    known = {key: entry.mean for key, entry in test.items() if entry.mean is not None}
    if "recommended" not in known:
        return None
    own = known["recommended"]
    baselines = {key: mean for key, mean in known.items() if key not in {*SETTINGS, "full_data"}}
    best = max(baselines, key=lambda key: baselines[key], default=None)
    lead = None if best is None else own - baselines[best]
    return OnTest(metric, own, known.get("full_data"), best, lead)
