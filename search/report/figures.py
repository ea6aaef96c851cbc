"""The report's figures, each as a Plotly figure, or None where the data for it is missing.

Colours come from one palette: one accent for what is recommended, greys for the rest. Figures are built in the
light colours; the page swaps them one for one for the dark ones. The symbol says how a trial ended.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import plotly.graph_objects as go

from search.report import text
from search.report.trials import POINTS, Trial, comparable, drawn, evenly, scored

PALETTE = {  # role: (light, dark); the light values are all different, as the page maps light to dark by value
    "page": ("#ffffff", "#14181c"),
    "panel": ("#f5f7f8", "#1d2328"),
    "ink": ("#1c2126", "#e8ebee"),
    "muted": ("#5c6771", "#9ba6b0"),
    "faint": ("#b4bdc5", "#56626d"),
    "line": ("#dfe3e7", "#2f373e"),
    "accent": ("#1766a8", "#64b2f2"),
    "band": ("#dceaf6", "#1c3549"),
    "shade_1": ("#cdd4da", "#36414b"),
    "shade_2": ("#9db6cb", "#43647f"),
    "shade_3": ("#5c93be", "#5189b7"),
}
INK, MUTED, FAINT, LINE, PAGE = (PALETTE[role][0] for role in ("ink", "muted", "faint", "line", "page"))
ACCENT, BAND = PALETTE["accent"][0], PALETTE["band"][0]
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
SYMBOLS = {"completed": "circle", "pruned": "circle-open", "failed": "x-thin"}
LOG_FROM = 20  # an axis is logarithmic where the largest value is more than this many times the smallest


def escape(value: object) -> str:
    """Text for a figure: Plotly reads a subset of HTML in every label, so a user's text must not be taken for tags."""
    return html.escape(str(value), quote=False)


def layout(figure: go.Figure, height: int, **more: Any) -> go.Figure:
    """The look that all figures share."""
    figure.update_layout(
        height=height,
        autosize=True,
        template="none",
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor=PAGE,
        plot_bgcolor=PAGE,
        margin={"l": 8, "r": 16, "t": 8, "b": 8},
        hoverlabel={"bgcolor": PAGE, "bordercolor": LINE, "font": {"color": INK, "size": 12}, "align": "left"},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        hovermode="closest",
    )
    axis = {"gridcolor": LINE, "linecolor": LINE, "zeroline": False, "automargin": True, "tickfont": {"color": MUTED}}
    figure.update_xaxes(**axis, title_standoff=8, title_font={"color": MUTED, "size": 12})
    figure.update_yaxes(**axis, title_standoff=8, title_font={"color": MUTED, "size": 12})
    return figure.update_layout(**more)


def crowd(count: int) -> float:
    """Factor in (0, 1] that makes marks and lines finer where there are more than about a hundred of them."""
    return min(1.0, (100 / max(count, 1)) ** 0.5)


def marks(status: str, colour: str, count: int) -> dict[str, Any]:
    """The mark of a trial that ended so, among `count` others."""
    edge = {"width": 2 if status == "failed" else 1.5, "color": colour}
    return {"symbol": SYMBOLS[status], "color": colour, "size": 3 + 5 * crowd(count), "line": edge}


def short(value: object, limit: int = 18) -> str:
    """A category as a tick label, cut where it would push the figure aside."""
    words = str(value)
    return escape(words if len(words) <= limit else words[: limit - 1] + "…")


def hover(trial: Trial) -> str:
    """What a trial's mark says under the pointer."""
    name = f" ({text.label(trial.name)})" if trial.name else ""
    lines = [f"<b>trial {trial.number}</b>{escape(name)}, {escape(trial.status)}"]
    lines.append(f"score {text.score(trial.score)}")
    if trial.score_mean is not None:
        lines.append(f"over seeds {text.spread(trial.score_mean, trial.score_std)}")
    if trial.accuracies:
        lines.append(f"per seed {' '.join(map(text.score, trial.accuracies))}")
    lines += [f"{escape(key)} {escape(text.number(value))}" for key, value in trial.params.items()]
    return "<br>".join(lines)


def pointed(numbers: Sequence[int | None]) -> dict[str, Any]:
    """Of a trace of trials, by point: the page says under the pointer what `hover` says, which it holds once for each trial."""
    return {"customdata": list(numbers), "hoverinfo": "text", "meta": "trials"}


def history(trials: Sequence[Trial]) -> go.Figure | None:
    """Score over trial number, the best completed one so far, both defaults as lines."""
    shown = drawn(trials)
    scores = [score for _, score in scored(trials)]
    if not trials:
        return None
    figure = go.Figure()
    last = max(trial.number for trial in trials)
    for status, colour in (("pruned", MUTED), ("completed", MUTED)):
        some = scored(shown, status)
        if some:
            figure.add_scatter(
                x=[trial.number for trial, _ in some],
                y=[score for _, score in some],
                mode="markers",
                name=status,
                marker=marks(status, colour, len(shown)),
                **pointed([trial.number for trial, _ in some]),
            )
    failed = [trial for trial in shown if trial.status == "failed"]
    if failed:
        floor = min(scores, default=0.0)
        floor -= 0.06 * (max(scores, default=1.0) - floor)
        figure.add_scatter(
            x=[trial.number for trial in failed],
            y=[floor] * len(failed),
            mode="markers",
            name="failed (no score)",
            marker=marks("failed", INK, len(failed)),
            **pointed([trial.number for trial in failed]),
        )
    for name, dash in (("default", "dash"), ("paper_default", "dot")):
        for score in (score for trial, score in scored(trials, "completed") if trial.name == name):
            figure.add_scatter(
                x=[-0.5, last + 0.5],
                y=[score] * 2,
                mode="lines",
                hoverinfo="skip",
                name=f"{text.label(name)} {text.score(score)}",
                line={"color": INK, "width": 1.2, "dash": dash},
            )
    completed = comparable(trials, "completed")
    if completed:
        best = list(accumulate((score for _, score in completed), max))
        steps = [i for i in range(len(best)) if i == 0 or best[i] > best[i - 1]]
        figure.add_scatter(
            x=[*(completed[i][0].number for i in steps), last + 0.5],
            y=[*(best[i] for i in steps), best[-1]],
            mode="lines",
            name="best so far",
            line={"color": ACCENT, "width": 2.5, "shape": "hv"},
            hoverinfo="skip",
        )
    layout(figure, 380)
    figure.update_xaxes(title_text="trial", range=[-0.8, last + 0.8], showgrid=False)
    return figure.update_yaxes(title_text="robust score")


def progress(trials: Sequence[Trial]) -> go.Figure | None:
    """Score over steps within each trial: where pruning stopped them. One trace per way of ending."""
    best, _ = max(comparable(trials, "completed"), key=lambda pair: pair[1], default=(None, None))
    trials = drawn(trials)
    most = max(3, POINTS // max(1, len(trials)))
    figure = go.Figure()
    for name, colour, width in (("pruned", FAINT, 1.2), ("completed", MUTED, 1.0), ("best trial", ACCENT, 2.5)):
        xs: list[float | None] = []
        ys: list[float | None] = []
        numbers: list[int | None] = []
        for trial in trials:
            if trial.progress and name == ("best trial" if trial is best else trial.status):
                # None lifts the pen: all trials of one kind are one trace, so that a thousand of them stay quick
                points = evenly(trial.progress, most)
                xs += [*(step for step, _ in points), None]
                ys += [*(score for _, score in points), None]
                numbers += [trial.number] * len(points) + [None]
        if xs:
            figure.add_scatter(
                x=xs,
                y=ys,
                mode="lines",
                name=name,
                **pointed(numbers),
                line={"color": colour, "width": width if colour == ACCENT else width * crowd(len(trials))},
            )
    if not figure.data:
        return None
    stopped = [trial for trial in trials if trial.status == "pruned" and trial.progress]
    figure.add_scatter(
        x=[trial.progress[-1][0] for trial in stopped],
        y=[trial.progress[-1][1] for trial in stopped],
        mode="markers",
        marker=marks("pruned", FAINT, len(trials)),
        showlegend=False,
        **pointed([trial.number for trial in stopped]),
    )
    layout(figure, 320)
    figure.update_xaxes(title_text="steps", showgrid=False, rangemode="tozero")
    return figure.update_yaxes(title_text="robust score")


def is_log(values: Sequence[float]) -> bool:
    """Whether an axis over `values` should be logarithmic."""
    return bool(values) and min(values) > 0 and max(values) > LOG_FROM * min(values)
