"""The report's tables: the recommended setting beside both defaults, what it was chosen from, and every trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from search.analysis.robustness import QUANTILE
from search.confirmation.selection import PLATEAU
from search.report import html as report_html
from search.report import text
from search.report.html import breakable
from search.report.model import Candidate, Report
from search.report.trials import Trial

ROWS = 500  # of the table of all trials, at most


def settings_table(report: Report, trials: Sequence[Trial]) -> str:
    """The recommended hyperparameters, their robust ranges and both defaults."""
    tried, region, recommended = report.best_tried, report.modelled.robust_region, report.recommended
    varied = [name for name in report.space.search if name in recommended] or list(recommended)
    named = {trial.name: trial.params for trial in trials if trial.name}
    columns = {
        key: {**named.get(key, {}), **own}
        for key, own in (("default", report.default), ("paper_default", report.paper_default))
    }
    head = '<th>hyper&shy;parameter</th><th class="n">use</th>'
    head += '<th class="n">best tried</th>' if tried else ""
    head += f'<th class="n">{"its " if tried else ""}robust range</th>' if region else ""
    head += "".join(f'<th class="n">{escape(text.label(key))}</th>' for key in columns)
    rows = []
    for name in varied:
        row = f'<td><code>{breakable(name)}</code></td><td class="n use">{escape(text.number(recommended[name]))}</td>'
        if tried:
            row += f'<td class="n">{escape(text.number(tried.params.get(name)))}</td>'
        if region:
            bounds = " – ".join(map(text.number, region[name])) if name in region else "–"
            bounds = "no effect seen" if text.has_no_effect(report, name) else bounds
            row += f'<td class="n">{escape(bounds)}</td>'
        row += "".join(f'<td class="n">{escape(text.number(values.get(name)))}</td>' for values in columns.values())
        rows.append(f"<tr>{row}</tr>")
    fixed = [f"{name} {text.number(value)}" for name, value in recommended.items() if name not in varied]
    notes = [f"Fixed in this search: {', '.join(fixed)}."] if fixed else []
    if tried or not region:
        notes.append(text.no_range(report))
    if region:
        notes.append("Robust range: the score stays within one standard error of the best.")
        if any(text.has_no_effect(report, name) for name in varied):
            notes.append("No effect seen: it does so over the whole searched range.")
    notes.append(
        "The paper's default works in the paper's own loss scaling, so its numbers do not compare with ours; it draws its "
        "frequencies independently, as published."
    )
    return (
        f'<div class="scroll"><table class="setting"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'</div><p class="note">{escape(" ".join(notes))}</p>'
    )


def candidates_table(report: Report) -> str:
    """What was compared on fresh seeds before the choice, the chosen one marked; empty where that is not known."""
    known = report.candidates
    if not known:
        return ""
    names = list(dict.fromkeys(name for entry in known for name in entry.params))
    names = [name for name in names if len({repr(entry.params.get(name)) for entry in known}) > 1]
    moved = any(_kept(entry) is not None for entry in known)
    head = ["setting", "", "over seeds", "robust score", *(["when moved"] if moved else []), *map(breakable, names)]
    rows = []
    for entry in known:
        standing = "<b>chosen</b>" if entry.chosen else "tied" if entry.tied else "behind"
        cells = [escape(text.label(entry.label)), standing, text.measured(entry.confirmed), text.score(entry.score)]
        cells += [text.score(_kept(entry))] if moved else []
        cells += [escape(text.number(entry.params.get(name))) for name in names]
        rows.append(cells)
    marked = [i for i, entry in enumerate(known) if entry.chosen]
    return f"<h3>Why this setting</h3>{report_html.note(_choice(report))}" + report_html.table(
        head, rows, words=(0, 1), marked=marked
    )


def _kept(entry: Candidate) -> float | None:
    return entry.perturbed.quantile if entry.perturbed else None


def _choice(report: Report) -> str:
    """How the choice was made, as far as the numbers show it."""
    known, chosen = report.candidates, report.chosen
    counts = sorted({entry.confirmed.n for entry in known})
    seeds = text.count(counts[0], "fresh seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} fresh seeds"
    told = (
        f"{text.count(len(known), 'setting')} {'were' if len(known) != 1 else 'was'} compared on {seeds} of their own. "
    )
    if len(counts) > 1:
        told = told[:-2] + ", more where it was open which is better. "
    level = [entry for entry in known if entry.tied or entry.chosen]
    if report.verdict is not None and report.verdict.keep_default:
        told += (
            f"Published settings are kept unless another is shown to be better on new items, too, although it is the best of "
            f"{text.count(report.verdict.compared, 'setting')} on these. "
        )
    why = text.WHY_NO_MORE_SEEDS.get(report.confirmation.stopped or "decided", "")
    told += f"{why[:1].upper()}{why[1:]}. " if why else ""
    if len(level) > 1:
        told += f"{len(level)} of them cannot be told apart: their differences to the best are within noise"
        kept = [value for value in map(_kept, level) if value is not None]
        if chosen is not None and len(kept) > 1 and _kept(chosen) == max(kept):
            told += f", and of these “{chosen.label}” keeps the most when every value is moved at random"
        told += ". "
    if any(_kept(entry) is not None for entry in known):
        told += f"When moved: what {text.most(QUANTILE)} reach with every hyperparameter moved at random."
    if any(entry.label == PLATEAU and entry.trial is None for entry in known):
        told += (
            " “plateau”: what a model of all trials expects to lose least when moved, so it rests on no single trial; it is "
            "preferred to a trial unless these runs speak against it."
        )
    return told


def listed(trials: Sequence[Trial]) -> list[Trial]:
    """The trials in the table, the best first."""
    return sorted(trials, key=lambda trial: (trial.score is None, -(trial.score or 0.0)))[:ROWS]


def trials_table(trials: Sequence[Trial], signatures: Mapping[int, Sequence[str]]) -> str:
    """Every trial, the best first, failed ones with their error; empty without trials.

    `signatures`: trial number -> names of the failure signatures it shows.
    """
    if not trials:
        return ""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    words = ["status", *(["signatures"] if signatures else [])]
    head = ["trial", *words, "score", "over seeds", "steps", "time", *names]
    cells = "".join(
        f"<th{'' if 0 < i <= len(words) else ' class=n'}{' aria-sort=descending' if i == len(words) + 1 else ''}>"
        f'<button type="button">{breakable(name)}</button></th>'
        for i, name in enumerate(head)
    )
    ranked = listed(trials)
    rows = "".join(_row(trial, names, signatures) for trial in ranked)
    most = ""
    if len(trials) > ROWS:
        most = f'The best {ROWS:,} of {len(trials):,} trials; all of them are in <a href="trials.csv">trials.csv</a>. '
    return (
        f'<p class="note">{most}Click a column to sort by it. Score: robust score on validation data; over seeds: mean ± '
        f'standard deviation.</p><div class="trials" tabindex="0"><table class="sortable"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(trial: Trial, names: Iterable[str], signatures: Mapping[int, Sequence[str]]) -> str:
    told = escape(trial.status) + (f" · {escape(text.label(trial.name))}" if trial.name else "")
    if trial.error:
        full = " ".join(trial.error.split())
        cut = full if len(full) <= 300 else full[:300] + " …"
        told += f'<div class="error" title="{escape(full)}">{escape(cut)}</div>'
    words = [(trial.status, told)]
    if signatures:
        own = ", ".join(signatures.get(trial.number, ()))
        words.append((own, f'<div class="signatures">{escape(own)}</div>'))
    cells = [
        (trial.number, str(trial.number)),
        *words,
        (trial.score, text.score(trial.score)),
        (trial.score_mean, text.spread(trial.score_mean, trial.score_std)),
        (trial.steps, text.number(trial.steps)),
        (trial.seconds, text.duration(trial.seconds)),
        *((trial.params.get(name), escape(text.number(trial.params.get(name)))) for name in names),
    ]
    row = ""
    for position, (value, shown) in enumerate(cells):
        known = value if isinstance(value, str) else text.finite(value)
        key = escape("" if known is None else str(known))
        row += f'<td{"" if 0 < position <= len(words) else " class=n"} data-value="{key}">{shown}</td>'
    return f'<tr class="{escape(trial.status)}" id="trial-{trial.number}">{row}</tr>'
