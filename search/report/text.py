"""How the report words things: numbers, names of settings, and the verdict, computed from the data.

Everything here returns plain text; `report.py` escapes it for HTML.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

SETTINGS = {
    "recommended": "recommended",
    "best": "best trial",
    "best_single_seed": "best trial by a single seed",
    "tuned_rates": "default lambdas, tuned learning rates",
    "default": "normalised default",
    "paper_default": "paper's default",
    "random": "random choice",
    "herding": "herding",
    "k_center": "k-center",
    "mmd": "MMD",
    "full_data": "full data",
}
METRICS = {"accuracy": "accuracy", "retrieval": "retrieval recall"}


def metric(report: Mapping[str, Any]) -> str:
    """What condensed sets are judged by, in words; `score` where tasks differ in it."""
    return METRICS.get(str(report.get("metric") or "accuracy"), "score")


def label(key: str) -> str:
    """How the report calls a setting or baseline; unknown ones keep their own name."""
    return SETTINGS.get(key, str(key).replace("_", " "))


def finite(value: Any) -> float | None:
    """A number as float; None for anything else, NaN and infinity included (bools are no numbers here)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def measurement(entry: Any) -> tuple[float, float | None, int | None] | None:
    """(mean, standard deviation, n) of a plain number or of {`mean`, `std`, `n`}; None where there is no mean."""
    if not isinstance(entry, Mapping):
        mean = finite(entry)
        return None if mean is None else (mean, None, None)
    mean = finite(entry.get("mean"))
    if mean is None:
        return None
    values = entry.get("values")
    n = finite(entry.get("n", len(values) if isinstance(values, list | tuple) else None))
    return mean, finite(entry.get("std")), None if n is None else int(n)


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


def spread(mean: Any, std: Any) -> str:
    """`0.931 ± 0.012`, or the mean alone."""
    return score(mean) if finite(std) is None or finite(mean) is None else f"{score(mean)} ± {score(std)}"


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


def differences(confirmation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{setting: {`mean`, `ci95`}}: the recommended setting minus that one, paper's default first.

    `differences` where the search wrote it, else `difference` against the setting it names (`against`), or `default`.
    """
    single, several = confirmation.get("difference"), confirmation.get("differences")
    if not isinstance(several, Mapping):
        several = {single.get("against") or "default": single} if isinstance(single, Mapping) else {}
    found = {str(key): dict(value) for key, value in several.items() if isinstance(value, Mapping)}
    first = ("paper_default", "default", "tuned_rates")
    ordered = sorted(found, key=lambda key: first.index(key) if key in first else len(first))
    return {key: found[key] for key in ordered if finite(found[key].get("mean")) is not None}


def interval(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval of a difference, or None where it is missing."""
    bounds = entry.get("ci95")
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        return None
    low, high = finite(bounds[0]), finite(bounds[1])
    return None if low is None or high is None else (low, high)


def difference(entry: Mapping[str, Any], turned: bool = False) -> str:
    """`0.063 [0.051, 0.075]`, or the mean alone; `turned`: with the opposite sign."""
    mean, bounds = float(entry["mean"]), interval(entry)
    if turned:
        mean, bounds = -mean, None if bounds is None else (-bounds[1], -bounds[0])
    return score(mean) if bounds is None else f"{score(mean)} [{score(bounds[0])}, {score(bounds[1])}]"


def shown(entry: Mapping[str, Any]) -> int:
    """1 or -1 where a difference's 95 % interval is above or below 0; 0 where it holds 0 or is missing."""
    bounds = interval(entry)
    return 0 if bounds is None else int(bounds[0] > 0) - int(bounds[1] < 0)


def _clause(setting: str, entry: Mapping[str, Any]) -> str:
    below = float(entry["mean"]) < 0
    text = f"{difference(entry, turned=below)} {'below' if below else 'above'} the {label(setting)}"
    if interval(entry) is None:
        return f"{text} (no interval known)"
    return text if shown(entry) else f"{text} (the interval includes 0: no difference is shown)"


def gain(report: Mapping[str, Any]) -> str:
    """The first sentence of the page: the confirmed score and what it is worth against both defaults."""
    if not report.get("recommended"):
        return "There is no recommendation: the search has not chosen a setting."
    confirmation = report.get("confirmation") or {}
    recommended = measurement(confirmation.get("recommended"))
    entry = confirmation.get("recommended")
    if recommended is None and isinstance(entry, Mapping) and finite(entry.get("n")):
        return f"{_on_seeds(int(entry['n']))} not every loss of the recommended setting was finite: do not trust it."
    if recommended is None:
        return (
            "Not confirmed yet: the recommended setting has not been run again on fresh seeds, "
            "so what it gains over the defaults is not known."
        )
    return _confirmed(recommended, confirmation, metric(report))


def verdict(report: Mapping[str, Any]) -> str:
    """All of it in a few sentences: the confirmed score and its gain, where that comes from, and how steady it is."""
    return f"{gain(report)} {grounds(report)}".strip()


def grounds(report: Mapping[str, Any]) -> str:
    """How much of the gain the lambdas gave, whether the search's best trial was any better, and what is left when the
    values are not met exactly; empty where nothing of it is known.
    """
    confirmation = report.get("confirmation") or {}
    if not report.get("recommended") or measurement(confirmation.get("recommended")) is None:
        return ""
    sentences = [
        _origin(differences(confirmation), _beside_rates(searched(report))),
        _luck(confirmation),
        _one_seed(confirmation),
        _steadiness(report),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _confirmed(recommended: tuple[float, float | None, int | None], confirmation: Mapping[str, Any], word: str) -> str:
    mean, std, n = recommended
    text = f"{_on_seeds(n)} the recommended setting scores {spread(mean, std)} (share of full-data {word})"
    told_later = ("tuned_rates", "best", "best_single_seed")
    against = {key: entry for key, entry in differences(confirmation).items() if key not in told_later}
    if against:
        text += f", {' and '.join(_clause(setting, entry) for setting, entry in against.items())}"
        some = sum(interval(entry) is not None for entry in against.values())
        if some:
            text += f" (95 % interval{'s' if some > 1 else ''} of the paired difference{'s' if some > 1 else ''})"
    settings = ("paper_default", "default", "tuned_rates")
    failed = [f"the {label(k)}" for k in settings if confirmation.get(k) and measurement(confirmation[k]) is None]
    if failed:
        text += f"; {' and '.join(failed)} {'have' if len(failed) > 1 else 'has'} no score: not every loss was finite"
    return text + ("" if _luck(confirmation) else shrinkage(confirmation)) + "."


def _on_seeds(n: int | None) -> str:
    return "On fresh seeds" if n is None else f"On {n} fresh seed{'s' if n != 1 else ''}"


def searched(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """hyperparameter -> its range or choices, by the search's space; {} where that is not known."""
    space = report.get("space")
    return dict((space.get("search") if isinstance(space, Mapping) else None) or {})


def _beside_rates(names: Iterable[str]) -> str:
    """What was searched beside learning rates, in words."""
    others = {name for name in names if not name.startswith("learning_rate")}
    lambdas = {name for name in others if name.startswith("lambda_")}
    if others - lambdas - {"frequency_scale"}:
        return "the other hyperparameters"
    return "the lambdas" if others and others == lambdas else "the lambdas and the frequency scale"


def _origin(against: Mapping[str, Mapping[str, Any]], others: str) -> str:
    """A sentence on how much of the gain is the learning rates' and how much the `others'`; empty where unknown."""
    rates, default = against.get("tuned_rates"), against.get("default")
    if rates is None:
        return ""
    told = difference(rates)
    if interval(rates) is None:
        return f"Its difference to the default lambdas with tuned learning rates is {told} (no interval known)."
    if shown(rates) < 0:
        return (
            f"The default lambdas with tuned learning rates do better than it, by {difference(rates, turned=True)}: "
            f"tuning {others} did not pay here."
        )
    alone = None if default is None else float(default["mean"]) - float(rates["mean"])
    if default is None or alone is None or alone <= 0 or shown(default) <= 0:
        if shown(rates) > 0:
            lead = f"It is {told} above the default lambdas with tuned learning rates"
            return f"{lead}: so much is due to {others}."
        return f"It cannot be told apart from the default lambdas with tuned learning rates ({told})."
    total = f"Of the {score(default['mean'])} over the {label('default')}, tuning the learning rates alone gives"
    if shown(rates) > 0:
        return f"{total} {score(alone)}; {others} add {told}."
    return f"{total} {score(alone)}; what {others} add, {told}, is within noise."


def _luck(confirmation: Mapping[str, Any]) -> str:
    """A sentence on the search's best trial beside the recommended setting; empty where nothing is known of it."""
    known = differences(confirmation)
    entry, paper = known.get("best"), known.get("paper_default")
    if _is_best(confirmation):
        aside = "" if paper is None or float(paper["mean"]) >= 0 else ", the paper's default aside"
        return f"It is the search's best trial{aside}{shrinkage(confirmation, '; its')}."
    if entry is None:
        return ""
    if shown(entry) > 0:
        text = f"It is {difference(entry)} above the search's best trial"
    elif shown(entry) < 0:
        text = f"It gives up {difference(entry, turned=True)} against the search's best trial"
    else:
        text = f"It cannot be told apart from the search's best trial ({difference(entry)})"
    return text + shrinkage(confirmation, "; that trial's") + "."


def _one_seed(confirmation: Mapping[str, Any]) -> str:
    """A sentence on what a search with one run per setting would have chosen; empty where that is no worse."""
    entry, single = differences(confirmation).get("best_single_seed"), confirmation.get("best_single_seed") or {}
    trials = single.get("trials") or []
    if trials and measurement(single) is None:
        return "Of the trials that single seeds would have chosen, one had a loss that was not finite on fresh seeds."
    if entry is None or shown(entry) <= 0:
        return ""
    mean = f", the mean over what {len(trials)} seeds would have chosen" if len(trials) > 1 else ""
    return f"Choosing by a single seed would have cost {difference(entry)}{mean}."


def _is_best(confirmation: Mapping[str, Any]) -> bool:
    """Whether the recommended setting is the trial with the best score, as far as is known."""
    own, best = (confirmation.get(key) for key in ("recommended", "best"))
    numbers = [entry.get("trial") if isinstance(entry, Mapping) else None for entry in (own, best)]
    return numbers[0] is not None and numbers[0] == numbers[1]


def moved(report: Mapping[str, Any]) -> str:
    """`every hyperparameter moved at random by up to a factor of 2 either way`: which ones were moved, and how far."""
    known, search = finite((report.get("perturbation") or {}).get("decades")), searched(report)
    ranges = [of for of in search.values() if not of.get("choices")]
    told = f"every {'numeric ' if len(ranges) < len(search) else ''}hyperparameter moved at random "
    if known is None:
        return told + "a little"
    share = f"{number(100 * known)} % of its range"
    if ranges and not any(of.get("log") for of in ranges):
        return f"{told}by up to {share} either way"
    told += f"by up to a factor of {number(round(10**known, 1))} either way"
    return told if all(of.get("log") for of in ranges) else f"{told} ({share} where that is not logarithmic)"


def most(quantile: Any) -> str:
    """`nine runs in ten`: those above a quantile."""
    known = finite(quantile)
    if known is None:
        return "most runs"
    words = {90: "nine runs in ten", 80: "four runs in five", 75: "three runs in four", 50: "half of the runs"}
    return words.get(round(100 * (1 - known)), f"{number(100 * (1 - known))} % of the runs")


def _steadiness(report: Mapping[str, Any]) -> str:
    """A sentence on runs with the hyperparameters moved at random; empty where there were none."""
    perturbation = report.get("perturbation")
    known = perturbation if isinstance(perturbation, Mapping) else {}
    entry = known.get("recommended")
    kept = finite(entry.get("quantile")) if isinstance(entry, Mapping) else None
    if kept is None:
        return ""
    runs = entry.get("values") if isinstance(entry, Mapping) else None
    of = f" (a quantile of {len(runs)} runs)" if isinstance(runs, list) else ""
    return f"With {moved(report)}, {most(known.get('quantile'))} still reach {score(kept)}{of}."


def robust_rule(report: Mapping[str, Any]) -> str:
    """What the robust score is, by the rule of the search's space."""
    space = report.get("space")
    robust = (space.get("robust") if isinstance(space, Mapping) else None) or {}
    rules = {
        "mean": "the mean over seeds",
        "worst_case": "the lowest of all seeds and tasks",
        "cvar": f"the mean of the lowest {number(100 * (finite(robust.get('fraction')) or 0.25))} % of seeds and tasks",
    }
    k = finite(robust.get("k"))
    usual = f"mean minus {'k' if k is None else number(k)} standard deviation{'' if k == 1 else 's'} over seeds"
    return f"Robust score: {rules.get(str(robust.get('rule')), usual)}, on validation data."


def racing(known: Any) -> str:
    """A sentence on how many seeds trials were run on, and what that saved; empty where trials did not race."""
    given = known.get("seeds") if isinstance(known, Mapping) else None
    counts = [(int(seeds), int(count)) for seeds, count in (given or {}).items() if count and str(seeds).isdigit()]
    if not counts:
        return ""
    parts = [f"{count:,} on {seeds:,} seed{'s' if seeds != 1 else ''}" for seeds, count in sorted(counts)]
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    told = f"Seeds were given to the trials that could still win: {listed}"
    taken, full = finite(known.get("replica_steps")), finite(known.get("full"))
    if taken is not None and full:
        told += f"; that took {taken:,.0f} replica-steps instead of {full:,.0f} ({100 * taken / full:.0f} %)"
    return told + "."


def shrinkage(confirmation: Mapping[str, Any], whose: str = "") -> str:
    """Half a sentence on the best trial's score in the search minus its confirmed score; empty where unknown."""
    entry = measurement(confirmation.get("shrinkage"))
    if entry is None:
        return ""
    if not whose and measurement(confirmation.get("best")) is not None and not _is_best(confirmation):
        whose = "; the best trial's"
    whose = whose or "; its"
    lost = entry[0]
    if abs(lost) < 0.0005:
        return f"{whose} score in the search was the same as on fresh seeds"
    if lost < 0:
        return f"{whose} score in the search was {score(-lost)} lower, so it was not merely a lucky trial"
    return f"{whose} score in the search was {score(lost)} higher, because the best of many noisy scores is partly luck"


def verdict_on_test(test: Mapping[str, Any] | None, judged_by: str = "accuracy") -> str:
    """The test accuracy (or what else it is judged by) of the recommended setting against full data and the best baseline;
    empty where unknown."""
    known = {key: found[0] for key, entry in (test or {}).items() if (found := measurement(entry)) is not None}
    if "recommended" not in known:
        return ""
    mean, word = known["recommended"], METRICS.get(judged_by, "score")
    article = "an" if word[0] in "aeiou" else "a"
    text = f"On test data the recommended setting reaches {article} {word} of {score(mean)}"
    full = known.get("full_data")
    if full:
        text += f", {number(100 * mean / full)} % of what full data gives ({score(full)})"
    own = {"recommended", "best", "best_single_seed", "tuned_rates", "default", "paper_default", "full_data"}
    baselines = {key: value for key, value in known.items() if key not in own}
    if baselines:
        best = max(baselines, key=lambda key: baselines[key])
        lead = mean - baselines[best]
        apart = "level with" if abs(lead) < 0.0005 else f"{score(abs(lead))} {'above' if lead > 0 else 'below'}"
        text += f"; that is {apart} the best baseline, {label(best)}"
    return text + "."
