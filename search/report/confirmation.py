"""What to use, how sure that is, and what it gains: the sections on fresh seeds and on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from search.report import html, text
from search.report.figures import ACCENT, FAINT, INK, MUTED, layout
from search.report.figures import escape as plain
from search.report.grounds import grounds
from search.report.model import Confirmation, Measured, Report
from search.report.tables import candidates_table, settings_table
from search.report.trials import Trial
from search.report.verdict import Verdict, name_of

CONFIRMED = (
    "recommended",
    "challenger",
    "best",
    "best_single_seed",
    "tuned_rates",
    "default",
    "paper_default",
    "mmd",
)  # in the order of the figure
Row = tuple[str, float, float | None, str, Sequence[float]]  # label, mean, std, colour, single values


def what_to_use(report: Report, trials: Sequence[Trial]) -> str:
    """The section that answers the question: verdict, values, confirmed scores, and what the choice was made from."""
    caption = f"Share of full-data {text.metric(report.metric)}: mean ± one standard deviation over fresh seeds (thin marks), "
    caption += "which the search has not seen."
    drawn = html.figure(confirmation(report.confirmation), "Confirmed scores", caption)
    behind = html.paragraph(grounds(report), "grounds")
    heading = "Where the gain comes from" if not Verdict.of(report).keep_default else "The best trial, and luck"
    return html.section(
        "use",
        "What to use",
        told(Verdict.of(report)),
        tiles(report),
        html.columns(
            f"<div><h3>Recommended hyperparameters</h3>{settings_table(report, trials)}</div>",
            f"<div><h3>Confirmed score</h3>{drawn}</div>" if drawn else "",
        ),
        f"<h3>{heading}</h3>{behind}" if behind else "",
        f"<h3>Use it</h3><pre><code>{escape(commands(report))}</code></pre>",
        candidates_table(report),
    )


def told(verdict: Verdict) -> str:
    """The verdict's lines."""
    rows = "".join(f"<dt>{escape(label)}</dt><dd>{escape(line)}</dd>" for label, line in verdict.lines().items())
    return f'<dl class="verdict">{rows}</dl>'


def commands(report: Report) -> str:
    """How to condense with the recommended setting, a line for each task."""
    if len(report.tasks) < 2:
        return "python -m condense run best.yaml --output my_condensed"
    lines = []
    for i, task in enumerate(report.tasks):
        end = f"_task_{i}" if i else ""
        run = f"python -m condense run best{end}.yaml --output my_condensed{end}"
        lines.append(f"# {' '.join(task.name.split())}\n{run}")
    return "\n".join(lines)


def on_test(report: Report) -> str:
    """The section on the test split: recommended setting, baselines at the same budget, full data."""
    line = Verdict.of(report).lines()["on test"]
    caption = (
        "The test split was opened once, after the search. All but full data have the same number of items per class."
    )
    word = text.metric(report.metric)
    drawn = html.figure(scores_on_test(report.test, word), f"Test {word} of the condensed set", caption)
    return html.section("test", f"Test {word}", html.paragraph(f"{line[:1].upper()}{line[1:]}.", "lead"), drawn)


def tiles(report: Report) -> str:
    """The few figures of the verdict, large."""
    verdict = Verdict.of(report)
    if verdict.score is None:
        return ""
    seeds = text.count(verdict.n, "fresh seed")
    around = f"± {text.score(verdict.std)} over {seeds}" if verdict.std is not None else f"over {seeds}"
    around = f"the same on {seeds}" if text.same_on_all(verdict.std, verdict.n) else around
    shown = [("confirmed score", text.score(verdict.score), around)]
    for setting, found in verdict.differences.items():
        small = f"95 %: {text.interval(found.interval)}" if found.interval else "no interval known"
        small += ", not shown" if found.interval and not found.sign else ""
        shown.append((f"over {name_of(setting)}", text.signed(found.mean), small))
    if verdict.kept is not None:
        shown.append(("all values moved", text.score(verdict.kept), f"reached by {verdict.kept_by}"))
    cells = "".join(
        f"<div{' class=first' if i == 0 else ''}><dt>{escape(title)}</dt>"
        f"<dd>{value}<small>{escape(small)}</small></dd></div>"
        for i, (title, value, small) in enumerate(shown)
    )
    return f'<dl class="tiles">{cells}</dl>'


def confirmation(entries: Confirmation) -> go.Figure | None:
    """Confirmed scores on fresh seeds: recommended, best of the search, the defaults, MMD where it was run."""
    rows: list[Row] = []
    known = entries.rows()
    if "challenger" in known and known["challenger"].trial == entries.best.trial:
        del known["challenger"]
    for key in CONFIRMED:
        entry = known.get(key)
        if entry is not None and entry.mean is not None:
            single = [value for value in entry.values if value is not None]
            rows.append((text.label(key), entry.mean, entry.std, ACCENT if key == "recommended" else MUTED, single))
    return dots(rows, "score on fresh seeds") if rows else None


def scores_on_test(test: Mapping[str, Measured], word: str = "accuracy") -> go.Figure | None:
    """Accuracy (or what `word` says) on the test split: recommended and defaults, baselines at the same budget, full data."""
    order = ["recommended", "challenger", "tuned_rates", "default", "paper_default"]
    order += [key for key in test if key not in text.SETTINGS]
    order += ["mmd", "herding", "k_center", "k_means", "random", "majority", "full_data"]
    rows: list[Row] = []
    for key in order:
        entry = test.get(key)
        if entry is not None and entry.mean is not None:
            colour = ACCENT if key == "recommended" else INK if key == "full_data" else MUTED
            rows.append((text.label(key), entry.mean, entry.std, colour, ()))
    if not rows:
        return None
    figure = dots(rows, f"{word} on the test split")
    full = test.get("full_data")
    if full is not None and full.mean is not None:
        figure.add_vline(x=full.mean, line={"color": FAINT, "width": 1, "dash": "dot"}, layer="below")
    return figure


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
