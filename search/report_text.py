"""How the report words things: numbers, names of settings, and the verdict, computed from the data.

Everything here returns plain text; `report.py` escapes it for HTML.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

SETTINGS = {
    "recommended": "recommended",
    "best": "best trial",
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


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round values inside [low, high] for an axis, at most about six; decades, or 1-2-5 or 1-3, where `log`."""
    if log:
        decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        inside: list[float] = []
        for digits in ((1,), (1, 3), (1, 2, 5)):
            marks = [digit * 10.0**power for power in decades for digit in digits]
            candidate = [mark for mark in marks if low * 0.999 <= mark <= high * 1.001]
            if not inside or len(candidate) <= 6:
                inside = candidate
        return inside[:: math.ceil(len(inside) / 6)] if inside else [low, high]
    if high <= low:
        return [low]
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    return [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def differences(confirmation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{setting: {`mean`, `ci95`}}: the recommended setting minus that one, paper's default first.

    `differences` where the search wrote it, else `difference` against the setting it names (`against`), or `default`.
    """
    found: dict[str, dict[str, Any]] = {}
    single = confirmation.get("difference")
    if isinstance(single, Mapping):
        found[str(single.get("against") or "default")] = dict(single)
    several = confirmation.get("differences")
    if isinstance(several, Mapping):
        found |= {str(key): dict(value) for key, value in several.items() if isinstance(value, Mapping)}
    ordered = sorted(found, key=lambda key: (key != "paper_default", key != "default"))
    return {key: found[key] for key in ordered if finite(found[key].get("mean")) is not None}


def interval(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval of a difference, or None where it is missing."""
    bounds = entry.get("ci95")
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        return None
    low, high = finite(bounds[0]), finite(bounds[1])
    return None if low is None or high is None else (low, high)


def _clause(setting: str, entry: Mapping[str, Any]) -> str:
    mean, bounds = float(entry["mean"]), interval(entry)
    side = "above" if mean >= 0 else "below"
    if bounds is None:
        return f"{score(abs(mean))} {side} the {label(setting)} (no interval known)"
    low, high = bounds if mean >= 0 else (-bounds[1], -bounds[0])
    text = f"{score(abs(mean))} [{score(low)}, {score(high)}] {side} the {label(setting)}"
    return text + (" (the interval includes 0: no difference is shown)" if bounds[0] <= 0 <= bounds[1] else "")


def verdict(report: Mapping[str, Any]) -> str:
    """The first sentence of the page: the confirmed score and what it is worth against both defaults."""
    if not report.get("recommended"):
        return "There is no recommendation: the search has not chosen a setting."
    confirmation = report.get("confirmation") or {}
    recommended = measurement(confirmation.get("recommended"))
    if recommended is None:
        return (
            "Not confirmed yet: the recommended setting has not been run again on fresh seeds, "
            "so what it gains over the defaults is not known."
        )
    mean, std, n = recommended
    seeds = "fresh seeds" if n is None else f"{n} fresh seed{'s' if n != 1 else ''}"
    text = f"On {seeds} the recommended setting scores {spread(mean, std)} (share of full-data {metric(report)})"
    clauses = [_clause(setting, entry) for setting, entry in differences(confirmation).items()]
    if clauses:
        text += f", {' and '.join(clauses)}"
        some = [interval(entry) is not None for entry in differences(confirmation).values()]
        if any(some):
            text += (
                f" (95 % interval{'s' if sum(some) > 1 else ''} of the paired difference{'s' if sum(some) > 1 else ''})"
            )
    failed = [k for k in ("paper_default", "default") if k in confirmation and measurement(confirmation[k]) is None]
    if failed:
        text += (
            f"; the {' and the '.join(label(k) for k in failed)} {'have' if len(failed) > 1 else 'has'} no score: not"
        )
        text += " every loss was finite"
    return text + shrinkage(confirmation) + "."


def shrinkage(confirmation: Mapping[str, Any]) -> str:
    """Half a sentence on the search score minus the confirmed score; empty where it is not known."""
    entry = measurement(confirmation.get("shrinkage"))
    if entry is None:
        return ""
    lost = entry[0]
    if abs(lost) < 0.0005:
        return "; its score in the search was the same"
    if lost < 0:
        return f"; its score in the search was {score(-lost)} lower, so it was not merely a lucky trial"
    return f"; its score in the search was {score(lost)} higher, because the best of many noisy scores is partly luck"


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
    own = {"recommended", "best", "default", "paper_default", "full_data"}
    baselines = {key: value for key, value in known.items() if key not in own}
    if baselines:
        best = max(baselines, key=lambda key: baselines[key])
        lead = mean - baselines[best]
        text += f"; that is {score(abs(lead))} {'above' if lead >= 0 else 'below'} the best baseline, {label(best)}"
    return text + "."


def safe_uri(uri: Any) -> str:
    """A tracking URI without the user name and password it may hold."""
    text = str(uri or "")
    try:
        parts = urlsplit(text)
    except ValueError:
        return re.sub(r"//[^/@]*@", "//", text)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else text


def mlflow_command(uri: Any) -> str | None:
    """The shell command that opens the MLflow UI; None for a server, which has its own address."""
    text = safe_uri(uri)
    if not text or text.startswith(("http://", "https://", "databricks")):
        return None
    return f"mlflow ui --backend-store-uri {shlex.quote(text)}"
