"""How the report words things: numbers, differences, names of settings.

Everything here returns plain text; the sections escape it for HTML.
"""

from __future__ import annotations

import math
from typing import Any

from search.report.model import Confirmed, Measured, PairedDifference, Racing, Report, Surrogate

SETTINGS = {
    "recommended": "recommended",
    "best": "best trial",
    "best_single_seed": "best trial by a single seed",
    "tuned_rates": "default lambdas, tuned learning rates",
    "default": "project's default",
    "paper_default": "paper's default",
    "random": "random choice",
    "majority": "always the most frequent class",
    "herding": "herding",
    "k_center": "k-center",
    "k_means": "k-means",
    "mmd": "MMD",
    "challenger": "best setting tried",
    "full_data": "full data",
}
METRICS = {"accuracy": "accuracy", "log_loss": "probability of the right class", "retrieval": "retrieval recall"}


def metric(judged_by: str) -> str:
    """`Report.metric` in words; `score` where tasks differ in what they are judged by."""
    return METRICS.get(judged_by, "score")


def label(key: str) -> str:
    """How the report calls a setting or baseline; unknown ones keep their own name."""
    return SETTINGS.get(key, str(key).replace("_", " "))


def finite(value: Any) -> float | None:
    """A number as float; None for anything else, NaN and infinity included (bools are no numbers here)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def number(value: Any) -> str:
    """Three significant digits, without an exponent where a person can do without; other values as they are."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−") if abs(value) < 1e15 else f"{value:.2e}".replace("-", "−")
    if abs(value) < 1e-4:
        return f"{value:.2e}".replace("-", "−")
    decimals = 2 - math.floor(math.log10(abs(value)))
    text = f"{value:.{max(decimals, 0)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def score(value: Any) -> str:
    """A score or an accuracy: three decimals, so that columns line up."""
    known = finite(value)
    return "–" if known is None else f"{known:.3f}".replace("-", "−")


def signed(value: float | None) -> str:
    """A difference of scores: `+0.012`."""
    told = score(value).replace("−0.000", "0.000")
    return told if told.startswith(("−", "–")) else f"+{told}"


def spread(mean: float | None, std: float | None) -> str:
    """`0.931 ± 0.012`, or the mean alone."""
    return score(mean) if finite(std) is None or finite(mean) is None else f"{score(mean)} ± {score(std)}"


def same_on_all(std: float | None, n: int) -> bool:
    """Whether no seed changes a score: MMD from herding draws nothing. That is no certainty, so no `± 0.000` is shown."""
    return n > 1 and std is not None and std < 1e-9


def measured(entry: Measured | None) -> str:
    """`0.931 ± 0.012` of runs; a dash where there are none, or not all of them were finite."""
    return "–" if entry is None else spread(entry.mean, entry.std)


def duration(seconds: Any) -> str:
    """`4 min 12 s`; two units at most."""
    known = finite(seconds)
    if known is None:
        return "–"
    if known < 60:
        return f"{number(known)} s"
    whole = round(known)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def difference(entry: PairedDifference, turned: bool = False) -> str:
    """`0.063 [0.051, 0.075]`, or the mean alone; `turned`: with the opposite sign."""
    mean, bounds = entry.mean, entry.interval
    if turned and mean is not None:
        mean, bounds = -mean, None if bounds is None else (-bounds[1], -bounds[0])
    return score(mean) if bounds is None else f"{score(mean)} {interval(bounds)}"


def interval(bounds: tuple[float, float]) -> str:
    """`[0.051, 0.075]`."""
    return f"[{score(bounds[0])}, {score(bounds[1])}]"


def has_no_effect(report: Report, name: str) -> bool:
    """Whether the score stays within noise over the whole range in which a hyperparameter was searched."""
    bounds, whole = report.modelled.robust_region.get(name), report.space.search.get(name)
    if bounds is None or None in bounds or whole is None or whole.low is None or whole.high is None:
        return False
    low, high = bounds
    assert low is not None and high is not None
    return low <= whole.low * (1 + 1e-9) and high >= whole.high * (1 - 1e-9)


def good_range(report: Report, name: str) -> str:
    """`good from 0.03 to 1.2`, or that no value is better than another; empty where nothing is known."""
    if has_no_effect(report, name):
        return "no effect seen over the range"
    low, high = report.modelled.robust_region.get(name, (None, None))
    return "" if low is None or high is None else f"good from {number(low)} to {number(high)}"


def has_own_scaling(report: Report) -> bool:
    """Whether the recommended setting is a published one whose weights and learning rates mean something else than ours."""
    verdict = report.verdict
    return verdict is not None and verdict.keep_default and verdict.published in ("mmd", "paper_default")


def is_kept(report: Report) -> bool:
    """Whether a published setting is recommended, as none is shown to be better."""
    return report.verdict is not None and report.verdict.keep_default


def marked(report: Report) -> tuple[str, dict[str, Any], Confirmed | None]:
    """What is marked on the trials' axes: what it is, its values, and its score on fresh seeds: the recommended setting, or the
    best one tried where ranges and curves are around that."""
    rows = report.confirmation
    if report.best_tried is None:
        return "recommended", comparable(report), rows.recommended
    itself = rows.challenger or (rows.best if rows.best.trial == report.best_tried.trial else None)
    return "best setting tried", dict(report.best_tried.params), itself


def comparable(report: Report) -> dict[str, Any]:
    """The recommended values that lie on the trials' axes: none where they are in another loss scaling."""
    return {} if has_own_scaling(report) else dict(report.recommended)


def best_tried(trial: int | None) -> str:
    """The best setting that was searched, in a sentence."""
    which = "the plateau's setting" if trial is None else f"trial {trial}"
    return f"the best setting tried, {which}"


def no_range(report: Report) -> str:
    """Why there is no robust range."""
    model = report.surrogate
    if model is not None and not model.trusted:
        return f"No robust range is shown by the data: {not_trusted(model)}."
    if is_kept(report):
        own = "; its numbers are in a loss scaling of its own, and best.yaml has the whole setting"
        told = (
            "No robust range was estimated around the setting that is kept: it lies outside of what was searched, and a model of "
            f"the trials knows nothing of there{own if has_own_scaling(report) else ''}."
        )
        tried = report.best_tried
        return told if tried is None else f"{told} Ranges and curves are those around {best_tried(tried.trial)}."
    return "No robust range was estimated in this search."


def not_trusted(model: Surrogate) -> str:
    """What the leave-one-out check of a model found, as a clause."""
    found = f"r² {share(model.loo_r2)}, a share of {share(model.coverage)} within the 95 % bands"
    return (
        f"a model of {modelled(model)} cannot be trusted, which predicts trials left out too badly ({found}); only "
        "real runs count"
    )


def trusted(report: Report) -> str:
    """What the leave-one-out check of the model found; empty without a model that is trusted."""
    model = report.surrogate
    if model is None or not model.trusted:
        return ""
    return (
        f"The model is of {modelled(model)}; one left out is predicted to {number(model.loo_rmse)} "
        f"(r² {share(model.loo_r2)}), a share of {share(model.coverage)} lies within its 95 % band."
    )


def modelled(model: Surrogate) -> str:
    """`508 trials (the best ones and an even spread of the others; 4,492 are left out)`: what a model is of."""
    rest = (
        f" (the best ones and an even spread of the others; {model.left_out:,} are left out)" if model.left_out else ""
    )
    return f"{count(model.trials, 'trial')}{rest}"


def share(value: Any) -> str:
    """`0.67`; a dash where it is not known."""
    known = finite(value)
    return "–" if known is None else f"{known:.2f}"


def count(n: int, kind: str) -> str:
    """`10 fresh seeds`, `1 fresh seed`."""
    return f"{n:,} {kind}{'s' if n != 1 else ''}"


def what_moved(report: Report) -> str:
    """`every hyperparameter`, or where there are choices, `every numeric hyperparameter`."""
    numeric = any(dimension.choices is not None for dimension in report.space.search.values())
    return f"every {'numeric ' if numeric else ''}hyperparameter"


def how_far(decades: float, report: Report) -> tuple[str, str]:
    """How far the hyperparameters were moved: `a factor of 2`, or `30 % of its range` where none is logarithmic; and, where
    some are, how far the others are moved.
    """
    ranges = [dimension for dimension in report.space.search.values() if dimension.choices is None]
    share = f"{number(100 * decades)} % of its range"
    if not any(dimension.log for dimension in ranges):
        return share, ""
    rest = "" if all(dimension.log for dimension in ranges) else f"{share} where that is not logarithmic"
    return f"a factor of {number(round(10**decades, 1))}", rest


def moved(decades: float, report: Report) -> str:
    """`every hyperparameter moved at random by up to a factor of 2 either way`: which ones were moved, and how far."""
    far, rest = how_far(decades, report)
    return f"{what_moved(report)} moved at random by up to {far} either way{f' ({rest})' if rest else ''}"


def most(quantile: float) -> str:
    """`nine runs in ten`: those above a quantile."""
    words = {90: "nine runs in ten", 80: "four runs in five", 75: "three runs in four", 50: "half of the runs"}
    return words.get(round(100 * (1 - quantile)), f"{number(100 * (1 - quantile))} % of the runs")


def robust_rule(report: Report) -> str:
    """What the robust score is, by the rule of the search's space."""
    robust = report.space.robust
    rules = {
        "mean": "the mean over seeds",
        "worst_case": "the lowest of all seeds and tasks",
        "cvar": f"the mean of the lowest {number(100 * robust.fraction)} % of seeds and tasks",
        "mean_std": f"mean minus {number(robust.k)} standard deviation{'' if robust.k == 1 else 's'} over seeds",
    }
    folds = None if report.validation is None else report.validation.folds
    return f"Robust score: {rules[robust.rule]}, on validation data{f' in {folds} folds' if folds else ''}."


WHY_NO_MORE_SEEDS = {
    "decided": "",
    "items": "more seeds would not change that, more held-out items might",
    "budget": "the budget for it was spent before more seeds could tell; `confirmation.budget` raises it",
    "time": "the time was over before more seeds could tell; `--time` gives more",
    "seeds": "as many seeds as are allowed would not tell; `confirmation.seeds` raises that",
}


def racing(known: Racing | None) -> str:
    """A sentence on how many seeds trials were run on, and what that saved; empty where trials did not race."""
    counts = sorted((int(seeds), trials) for seeds, trials in known.seeds.items() if trials) if known else []
    if known is None or not counts:
        return ""
    parts = [f"{trials:,} on {count(seeds, 'seed')}" for seeds, trials in counts]
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    told = f"Seeds were given to the trials that could still win: {listed}"
    if known.full:
        share = 100 * known.replica_steps / known.full
        told += f"; that took {known.replica_steps:,} replica-steps instead of {known.full:,} ({share:.0f} %)"
    return told + "."
