"""The report's two tables: the recommended setting beside both defaults, and every trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from search import report_text as text
from search.report_figures import Trial, searched


def breakable(name: str) -> str:
    """A name as HTML that may break after an underscore, so that long ones fit a phone."""
    return escape(name).replace("_", "_<wbr>")


def settings_table(report: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """The recommended hyperparameters, their robust ranges and both defaults; empty without a recommendation."""
    recommended = report.get("recommended") or {}
    if not recommended:
        return ""
    region = report.get("robust_region") or {}
    varied = [name for name in searched(trials) if name in recommended] or list(recommended)
    named = {trial.get("name"): trial.get("params") or {} for trial in trials if trial.get("name")}
    columns = {
        key: values
        for key in ("default", "paper_default")
        if (values := {**named.get(key, {}), **(report.get(key) or {})}) and set(values) & set(varied)
    }
    head = '<th>hyper&shy;parameter</th><th class="n">use</th>'
    head += '<th class="n">robust range</th>' if region else ""
    head += "".join(f'<th class="n">{escape(text.label(key))}</th>' for key in columns)
    rows = []
    for name in varied:
        row = f'<td><code>{breakable(name)}</code></td><td class="n use">{escape(text.number(recommended[name]))}</td>'
        if region:
            bounds = region.get(name)
            told = " – ".join(map(text.number, bounds)) if isinstance(bounds, list | tuple) else text.number(bounds)
            row += f'<td class="n">{escape(told)}</td>'
        row += "".join(f'<td class="n">{escape(text.number(values.get(name)))}</td>' for values in columns.values())
        rows.append(f"<tr>{row}</tr>")
    fixed = [f"{name} {text.number(value)}" for name, value in recommended.items() if name not in varied]
    notes = [f"Fixed in this search: {', '.join(fixed)}."] if fixed else []
    if region:
        notes.append("Robust range: the score stays within one standard error of the best.")
    else:
        notes.append("No robust range was estimated in this search.")
    if "paper_default" in columns:
        notes.append(
            "The paper's default works in the paper's own loss scaling, so its numbers do not compare with ours."
        )
    return (
        f'<div class="scroll"><table class="setting"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'</div><p class="note">{escape(" ".join(notes))}</p>'
    )


def trials_table(trials: Sequence[Trial]) -> str:
    """Every trial, the best first, failed ones with their error; empty without trials."""
    if not trials:
        return ""
    names = list(dict.fromkeys(name for trial in trials for name in (trial.get("params") or {})))
    head = ["trial", "status", "score", "over seeds", "steps", "time", *names]
    cells = "".join(
        f"<th{' class=n' if i != 1 else ''}{' aria-sort=descending' if i == 2 else ''}>"
        f'<button type="button">{breakable(name)}</button></th>'
        for i, name in enumerate(head)
    )

    def rank(trial: Trial) -> tuple[bool, float]:
        score = text.finite(trial.get("score"))
        return score is None, -(score or 0.0)

    rows = "".join(_row(trial, names) for trial in sorted(trials, key=rank))
    return (
        '<p class="note">Click a column to sort by it. Score: robust score on validation data; over seeds: mean ± '
        f'standard deviation.</p><div class="trials" tabindex="0"><table class="sortable"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(trial: Trial, names: Iterable[str]) -> str:
    status = str(trial.get("status"))
    told = escape(status) + (f" · {escape(text.label(trial['name']))}" if trial.get("name") else "")
    if trial.get("error"):
        full = " ".join(str(trial["error"]).split())
        cut = full if len(full) <= 300 else full[:300] + " …"
        told += f'<div class="error" title="{escape(full)}">{escape(cut)}</div>'
    mean, std = trial.get("score_mean"), trial.get("score_std")
    params = trial.get("params") or {}
    cells = [
        (trial.get("number"), escape(str(trial.get("number", "")))),
        (status, told),
        (trial.get("score"), text.score(trial.get("score"))),
        (mean, text.spread(mean, std)),
        (trial.get("steps"), escape(text.number(trial.get("steps")))),
        (trial.get("seconds"), text.duration(trial.get("seconds"))),
        *((params.get(name), escape(text.number(params.get(name)))) for name in names),
    ]
    row = ""
    for position, (value, shown) in enumerate(cells):
        known = value if isinstance(value, str) else text.finite(value)
        key = escape("" if known is None else str(known))
        row += f'<td{"" if position == 1 else " class=n"} data-value="{key}">{shown}</td>'
    return f'<tr class="{escape(status)}">{row}</tr>'
