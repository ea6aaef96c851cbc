"""The report's tables: the recommended setting beside both defaults, what it was chosen from, and every trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from search.report import html as report_html
from search.report import text
from search.report.figures import Trial, searched
from search.report.html import breakable


def settings_table(report: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """The recommended hyperparameters, their robust ranges and both defaults; empty without a recommendation."""
    recommended = report.get("recommended") or {}
    if not recommended:
        return ""
    region = report.get("robust_region") or {}
    names = text.searched(report) or searched(trials)
    varied = [name for name in names if name in recommended] or list(recommended)
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
            "The paper's default works in the paper's own loss scaling, so its numbers do not compare with ours; it draws its "
            "frequencies independently, as published."
        )
    return (
        f'<div class="scroll"><table class="setting"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'</div><p class="note">{escape(" ".join(notes))}</p>'
    )


def candidates_table(report: Mapping[str, Any]) -> str:
    """What was compared on fresh seeds before the choice, the chosen one marked; empty where that is not known."""
    known = [entry for entry in report.get("candidates") or [] if isinstance(entry, Mapping)]
    if not known:
        return ""
    names = list(dict.fromkeys(name for entry in known for name in (entry.get("params") or {})))
    names = [name for name in names if len({repr((entry.get("params") or {}).get(name)) for entry in known}) > 1]
    moved = any(_kept(entry) is not None for entry in known)
    head = ["setting", "", "over seeds", "robust score", *(["when moved"] if moved else []), *map(breakable, names)]
    rows = []
    for entry in known:
        mean, std, _ = text.measurement(entry.get("confirmed")) or (None, None, None)
        standing = "<b>chosen</b>" if entry.get("chosen") else "tied" if entry.get("tied") else "behind"
        cells = [
            escape(str(entry.get("label") or "–")),
            standing,
            text.spread(mean, std),
            text.score(entry.get("score")),
        ]
        cells += [text.score(_kept(entry))] if moved else []
        cells += [escape(text.number((entry.get("params") or {}).get(name))) for name in names]
        rows.append(cells)
    marked = [i for i, entry in enumerate(known) if entry.get("chosen")]
    quantile = (report.get("perturbation") or {}).get("quantile")
    return f"<h3>Why this setting</h3>{report_html.note(_choice(known, quantile))}" + report_html.table(
        head, rows, words=(0, 1), marked=marked
    )


def _kept(entry: Mapping[str, Any]) -> float | None:
    perturbed = entry.get("perturbed")
    return text.finite(perturbed.get("quantile")) if isinstance(perturbed, Mapping) else None


def _choice(known: Sequence[Mapping[str, Any]], quantile: Any) -> str:
    """How the choice was made, as far as the numbers show it."""
    counts = {n for entry in known if (n := (text.measurement(entry.get("confirmed")) or (0, 0, None))[2]) is not None}
    seeds = f"{counts.pop()} fresh seeds" if len(counts) == 1 else "fresh seeds"
    told = f"{len(known)} setting{'s were' if len(known) != 1 else ' was'} compared on {seeds} of their own. "
    level = [entry for entry in known if entry.get("tied") or entry.get("chosen")]
    chosen = next((entry for entry in known if entry.get("chosen")), None)
    if len(level) > 1:
        told += f"{len(level)} of them cannot be told apart: their differences to the best are within noise"
        kept = [value for value in map(_kept, level) if value is not None]
        if chosen is not None and len(kept) > 1 and _kept(chosen) == max(kept):
            told += f", and of these “{chosen.get('label')}” keeps the most when every value is moved at random"
        told += ". "
    if any(_kept(entry) is not None for entry in known):
        told += f"When moved: what {text.most(quantile)} reach with every hyperparameter moved at random."
    if any(entry.get("label") == "plateau" and entry.get("trial") is None for entry in known):
        told += (
            " “plateau”: what a model of all trials expects to lose least when moved, so it rests on no single trial; it is "
            "recommended unless these runs speak against it."
        )
    return told


def trials_table(trials: Sequence[Trial], signatures: Mapping[int, Sequence[str]] | None = None) -> str:
    """Every trial, the best first, failed ones with their error; empty without trials.

    `signatures`: trial number -> names of the failure signatures it shows.
    """
    if not trials:
        return ""
    names = list(dict.fromkeys(name for trial in trials for name in (trial.get("params") or {})))
    words = ["status", *(["signatures"] if signatures else [])]
    head = ["trial", *words, "score", "over seeds", "steps", "time", *names]
    cells = "".join(
        f"<th{'' if 0 < i <= len(words) else ' class=n'}{' aria-sort=descending' if i == len(words) + 1 else ''}>"
        f'<button type="button">{breakable(name)}</button></th>'
        for i, name in enumerate(head)
    )

    def rank(trial: Trial) -> tuple[bool, float]:
        score = text.finite(trial.get("score"))
        return score is None, -(score or 0.0)

    rows = "".join(_row(trial, names, signatures) for trial in sorted(trials, key=rank))
    return (
        '<p class="note">Click a column to sort by it. Score: robust score on validation data; over seeds: mean ± '
        f'standard deviation.</p><div class="trials" tabindex="0"><table class="sortable"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(trial: Trial, names: Iterable[str], signatures: Mapping[int, Sequence[str]] | None) -> str:
    status = str(trial.get("status"))
    told = escape(status) + (f" · {escape(text.label(trial['name']))}" if trial.get("name") else "")
    if trial.get("error"):
        full = " ".join(str(trial["error"]).split())
        cut = full if len(full) <= 300 else full[:300] + " …"
        told += f'<div class="error" title="{escape(full)}">{escape(cut)}</div>'
    mean, std = trial.get("score_mean"), trial.get("score_std")
    params = trial.get("params") or {}
    number = trial.get("number")
    words = [(status, told)]
    if signatures:
        own = ", ".join(signatures.get(number, ()) if isinstance(number, int) else ())
        words.append((own, f'<div class="signatures">{escape(own)}</div>'))
    cells = [
        (number, escape(str(trial.get("number", "")))),
        *words,
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
        row += f'<td{"" if 0 < position <= len(words) else " class=n"} data-value="{key}">{shown}</td>'
    anchor = f' id="trial-{number}"' if isinstance(number, int) else ""
    return f'<tr class="{escape(status)}"{anchor}>{row}</tr>'
