"""What to use, how sure that is, and what it gains: the sections on fresh seeds and on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from search.report import html, text
from search.report.figures import ACCENT, FAINT, INK, MUTED, Trial, layout
from search.report.figures import escape as plain
from search.report.tables import candidates_table, settings_table
from search.report.tasks import name_of

CONFIRMED = (
    "recommended",
    "best",
    "best_single_seed",
    "tuned_rates",
    "default",
    "paper_default",
    "mmd",
)  # in the order of the figure


def what_to_use(report: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """The section that answers the question: verdict, values, confirmed scores, and what the choice was made from."""
    word = text.metric(report)
    caption = f"Share of full-data {word}: mean ± one standard deviation over fresh seeds (thin marks), "
    caption += "which the search has not seen."
    drawn = html.figure(confirmation(report), "Confirmed scores", caption)
    right = f"<div><h3>Confirmed score</h3>{drawn}</div>" if drawn else ""
    table = settings_table(report, trials)
    left = f"<div><h3>Recommended hyperparameters</h3>{table}</div>" if table else ""
    use = f"<h3>Use it</h3><pre><code>{escape(commands(report))}</code></pre>" if table else ""
    lead = f'<p class="lead">{escape(text.gain(report))}</p>'
    grounds = text.grounds(report)
    lead += f'<p class="grounds">{escape(grounds)}</p>' if grounds else ""
    why = candidates_table(report)
    return html.section("use", "What to use", lead, tiles(report), html.columns(left, right), use, why)


def commands(report: Mapping[str, Any]) -> str:
    """How to condense with the recommended setting, a line for each task."""
    tasks = report.get("tasks") or []
    if len(tasks) < 2:
        return "python -m condense run best.yaml --output my_condensed"
    lines = []
    for i, task in enumerate(tasks):
        end = f"_task_{i}" if i else ""
        run = f"python -m condense run best{end}.yaml --output my_condensed{end}"
        lines.append(f"# {' '.join(name_of(task, i).split())}\n{run}")
    return "\n".join(lines)


def on_test(report: Mapping[str, Any]) -> str:
    """The section on the test split: recommended setting, baselines at the same budget, full data."""
    told = text.verdict_on_test(report.get("test"), str(report.get("metric") or "accuracy"))
    lead = f'<p class="lead">{escape(told)}</p>' if told else ""
    caption = (
        "The test split was opened once, after the search. All but full data have the same number of items per class."
    )
    word = text.metric(report)
    drawn = html.figure(scores_on_test(report.get("test"), word), f"Test {word} of the condensed set", caption)
    return html.section("test", f"Test {word}", lead, drawn, missing="The test split has not been opened yet.")


def tiles(report: Mapping[str, Any]) -> str:
    """The few figures of the verdict, large."""
    entries = report.get("confirmation") or {}
    recommended = text.measurement(entries.get("recommended"))
    if recommended is None or not report.get("recommended"):
        return ""
    mean, std, n = recommended
    seeds = "fresh seeds" if n is None else f"{n} fresh seed{'s' if n != 1 else ''}"
    around = f"± {text.score(std)} over {seeds}" if std is not None else f"over {seeds}"
    shown = [("confirmed score", text.score(mean), around)]
    for setting, entry in text.differences(entries).items():
        if setting not in ("best", "best_single_seed"):
            bounds = text.interval(entry)
            told = f"95 %: [{text.score(bounds[0])}, {text.score(bounds[1])}]" if bounds else "no interval known"
            sign = "+" if entry["mean"] >= 0 else ""
            over = "tuned learning rates alone" if setting == "tuned_rates" else f"the {text.label(setting)}"
            shown.append((f"over {over}", f"{sign}{text.score(entry['mean'])}", told))
    perturbation = report.get("perturbation") or {}
    kept = text.finite((perturbation.get("recommended") or {}).get("quantile"))
    if kept is not None:
        shown.append(("all values moved", text.score(kept), f"reached by {text.most(perturbation.get('quantile'))}"))
    cells = "".join(
        f"<div{' class=first' if i == 0 else ''}><dt>{escape(title)}</dt>"
        f"<dd>{value}<small>{escape(small)}</small></dd></div>"
        for i, (title, value, small) in enumerate(shown)
    )
    return f'<dl class="tiles">{cells}</dl>'


def confirmation(report: Mapping[str, Any]) -> go.Figure | None:
    """Confirmed scores on fresh seeds: recommended, best of the search, the defaults, MMD where it was run."""
    entries = report.get("confirmation") or {}
    rows = []
    for key in CONFIRMED:
        known = text.measurement(entries.get(key))
        if known is not None:
            values = entries[key].get("values") if isinstance(entries[key], Mapping) else None
            single = [value for value in map(text.finite, values or []) if value is not None]
            rows.append((text.label(key), known[0], known[1], ACCENT if key == "recommended" else MUTED, single))
    return dots(rows, "score on fresh seeds") if rows else None


def scores_on_test(test: Mapping[str, Any] | None, word: str = "accuracy") -> go.Figure | None:
    """Accuracy (or what `word` says) on the test split: recommended and defaults, baselines at the same budget, full data."""
    order = ["recommended", "tuned_rates", "default", "paper_default"]
    order += [key for key in (test or {}) if key not in text.SETTINGS]
    order += ["mmd", "herding", "k_center", "random", "full_data"]
    rows = []
    for key in order:
        known = text.measurement((test or {}).get(key))
        if known is not None:
            colour = ACCENT if key == "recommended" else INK if key == "full_data" else MUTED
            rows.append((text.label(key), known[0], known[1], colour, ()))
    if not rows:
        return None
    figure = dots(rows, f"{word} on the test split")
    full = text.measurement((test or {}).get("full_data"))
    if full is not None:
        figure.add_vline(x=full[0], line={"color": FAINT, "width": 1, "dash": "dot"}, layer="below")
    return figure


Row = tuple[str, float, float | None, str, Sequence[float]]


def dots(rows: Sequence[Row], title: str) -> go.Figure:
    """One row per (label, mean, std, colour, single values), the first on top: dot, bar of one std, faint values."""
    figure = go.Figure()
    for index, (name, mean, std, colour, values) in enumerate(rows):
        if values:
            ticks = {"color": FAINT, "size": 6, "symbol": "line-ns-open", "line": {"width": 1.5}}
            figure.add_scatter(x=list(values), y=[index] * len(values), mode="markers", marker=ticks, hoverinfo="x")
        figure.add_scatter(
            x=[mean],
            y=[index],
            mode="markers",
            marker={"color": colour, "size": 11},
            error_x={"array": [std], "color": colour, "thickness": 2, "width": 0} if std is not None else None,
            hovertemplate=f"{plain(name)}: {text.spread(mean, std)}<extra></extra>",
        )
        figure.add_annotation(
            x=1,
            xref="paper",
            y=index,
            xanchor="left",
            xshift=10,
            showarrow=False,
            align="left",
            text=text.score(mean),
            font={"size": 12, "color": ACCENT if colour == ACCENT else INK},
        )
    names = [plain(name).replace(", ", ",<br>") if len(name) > 24 else plain(name) for name, *_ in rows]
    bold = [f"<b>{name}</b>" if row[3] == ACCENT else name for name, row in zip(names, rows, strict=True)]
    layout(figure, 64 + 34 * len(rows), showlegend=False, margin={"l": 8, "r": 56, "t": 4, "b": 8})
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=bold, range=[len(rows) - 0.5, -0.5], tickfont={"color": INK}
    )
    return figure.update_xaxes(title_text=title, nticks=6)
