"""The report's figures, each as a Plotly figure, or None where the data for it is missing.

Colours come from one palette: one accent for what is recommended, greys for the rest. Figures are built in the
light colours; the page swaps them one for one for the dark ones. The symbol says how a trial ended.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import plotly.graph_objects as go

from search import report_text as text

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
Trial = Mapping[str, Any]


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
    name = f" ({text.label(trial['name'])})" if trial.get("name") else ""
    lines = [f"<b>trial {escape(trial.get('number'))}</b>{escape(name)}, {escape(trial.get('status'))}"]
    lines.append(f"score {text.score(trial.get('score'))}")
    if text.finite(trial.get("score_mean")) is not None:
        lines.append(f"over seeds {text.spread(trial.get('score_mean'), trial.get('score_std'))}")
    if trial.get("accuracies"):
        lines.append(f"per seed {' '.join(map(text.score, trial['accuracies']))}")
    lines += [f"{escape(key)} {escape(text.number(value))}" for key, value in (trial.get("params") or {}).items()]
    return "<br>".join(lines)


def _dots(rows: Sequence[tuple[str, float, float | None, str, Sequence[float]]], title: str) -> go.Figure:
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
            hovertemplate=f"{escape(name)}: {text.spread(mean, std)}<extra></extra>",
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
    bold = [f"<b>{escape(name)}</b>" if colour == ACCENT else escape(name) for name, _, _, colour, _ in rows]
    layout(figure, 64 + 34 * len(rows), showlegend=False, margin={"l": 8, "r": 56, "t": 4, "b": 8})
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=bold, range=[len(rows) - 0.5, -0.5], tickfont={"color": INK}
    )
    return figure.update_xaxes(title_text=title, nticks=6)


def confirmation(report: Mapping[str, Any]) -> go.Figure | None:
    """Confirmed scores on fresh seeds: recommended, best of the search, both defaults."""
    entries = report.get("confirmation") or {}
    rows = []
    for key in ("recommended", "best", "default", "paper_default"):
        known = text.measurement(entries.get(key))
        if known is not None:
            values = entries[key].get("values") if isinstance(entries[key], Mapping) else None
            single = [value for value in map(text.finite, values or []) if value is not None]
            rows.append((text.label(key), known[0], known[1], ACCENT if key == "recommended" else MUTED, single))
    return _dots(rows, "score on fresh seeds") if rows else None


def scores_on_test(test: Mapping[str, Any] | None, word: str = "accuracy") -> go.Figure | None:
    """Accuracy (or what `word` says) on the test split: recommended and defaults, baselines at the same budget, full data."""
    order = ["recommended", "default", "paper_default", *(key for key in (test or {}) if key not in text.SETTINGS)]
    order += ["mmd", "herding", "k_center", "random", "full_data"]
    rows = []
    for key in order:
        known = text.measurement((test or {}).get(key))
        if known is not None:
            colour = ACCENT if key == "recommended" else INK if key == "full_data" else MUTED
            rows.append((text.label(key), known[0], known[1], colour, ()))
    if not rows:
        return None
    figure = _dots(rows, f"{word} on the test split")
    full = text.measurement((test or {}).get("full_data"))
    if full is not None:
        figure.add_vline(x=full[0], line={"color": FAINT, "width": 1, "dash": "dot"}, layer="below")
    return figure


def scored(trials: Sequence[Trial], status: str | None = None) -> list[Trial]:
    """The trials that have a score, in number order."""
    found = [t for t in trials if text.finite(t.get("score")) is not None and status in (None, t.get("status"))]
    return sorted(found, key=lambda trial: trial.get("number", 0))


def history(trials: Sequence[Trial]) -> go.Figure | None:
    """Score over trial number, the best completed one so far, both defaults as lines."""
    known = scored(trials)
    if not trials:
        return None
    figure = go.Figure()
    last = max(int(trial.get("number", 0)) for trial in trials)
    for status, colour in (("pruned", MUTED), ("completed", MUTED)):
        some = scored(trials, status)
        if some:
            figure.add_scatter(
                x=[t["number"] for t in some],
                y=[t["score"] for t in some],
                mode="markers",
                name=status,
                marker=marks(status, colour, len(trials)),
                hovertext=[hover(t) for t in some],
                hoverinfo="text",
            )
    failed = [trial for trial in trials if trial.get("status") == "failed"]
    if failed:
        floor = min((t["score"] for t in known), default=0.0)
        floor -= 0.06 * (max((t["score"] for t in known), default=1.0) - floor)
        figure.add_scatter(
            x=[t.get("number") for t in failed],
            y=[floor] * len(failed),
            mode="markers",
            name="failed (no score)",
            marker=marks("failed", INK, len(failed)),
            hovertext=[f"<b>trial {escape(t.get('number'))}</b> failed" for t in failed],
            hoverinfo="text",
        )
    for name, dash in (("default", "dash"), ("paper_default", "dot")):
        for trial in (t for t in known if t.get("name") == name and t.get("status") == "completed"):
            figure.add_scatter(
                x=[-0.5, last + 0.5],
                y=[trial["score"]] * 2,
                mode="lines",
                hoverinfo="skip",
                name=f"{text.label(name)} {text.score(trial['score'])}",
                line={"color": INK, "width": 1.2, "dash": dash},
            )
    completed = scored(trials, "completed")
    if completed:
        best = list(accumulate((t["score"] for t in completed), max))
        figure.add_scatter(
            x=[*(t["number"] for t in completed), last + 0.5],
            y=[*best, best[-1]],
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
    best = max(scored(trials, "completed"), key=lambda t: float(t["score"]), default=None)
    figure = go.Figure()
    for name, colour, width in (("pruned", FAINT, 1.2), ("completed", MUTED, 1.0), ("best trial", ACCENT, 2.5)):
        xs: list[float | None] = []
        ys: list[float | None] = []
        hovers: list[str] = []
        for trial in trials:
            if name != ("best trial" if trial is best else trial.get("status")):
                continue
            points = [(p.get("step"), p.get("score")) for p in trial.get("progress") or []]
            points = [p for p in points if text.finite(p[0]) is not None and text.finite(p[1]) is not None]
            if points:
                # None lifts the pen: all trials of one kind are one trace, so that a thousand of them stay quick
                xs += [*(p[0] for p in points), None]
                ys += [*(p[1] for p in points), None]
                hovers += [hover(trial)] * (len(points) + 1)
        if xs:
            figure.add_scatter(
                x=xs,
                y=ys,
                mode="lines",
                name=name,
                hovertext=hovers,
                hoverinfo="text",
                line={"color": colour, "width": width if colour == ACCENT else width * crowd(len(trials))},
            )
    if not figure.data:
        return None
    stopped = [t for t in trials if t.get("status") == "pruned" and t.get("progress")]
    figure.add_scatter(
        x=[t["progress"][-1].get("step") for t in stopped],
        y=[t["progress"][-1].get("score") for t in stopped],
        mode="markers",
        marker=marks("pruned", FAINT, len(trials)),
        showlegend=False,
        hovertext=[hover(t) for t in stopped],
        hoverinfo="text",
    )
    layout(figure, 320)
    figure.update_xaxes(title_text="steps", showgrid=False, rangemode="tozero")
    return figure.update_yaxes(title_text="robust score")


def is_log(values: Sequence[float]) -> bool:
    """Whether an axis over `values` should be logarithmic."""
    return bool(values) and min(values) > 0 and max(values) > LOG_FROM * min(values)


def searched(trials: Sequence[Trial]) -> list[str]:
    """The hyperparameters that the sampler varied, in the order of the trials' parameters."""
    seen: dict[str, set[str]] = {}
    for trial in trials:
        if not trial.get("name"):
            for key, value in (trial.get("params") or {}).items():
                seen.setdefault(key, set()).add(repr(value))
    return [key for key, values in seen.items() if len(values) > 1]


def comparable(trials: Sequence[Trial]) -> list[Trial]:
    """Scored trials in the search's own scaling: the same lambda means something else in the paper's."""
    return [trial for trial in scored(trials) if trial.get("name") != "paper_default"]


def response(trials: Sequence[Trial], name: str, report: Mapping[str, Any]) -> go.Figure | None:
    """Score over one hyperparameter, bars of one std over seeds; the recommended value and its robust range."""
    points = [t for t in comparable(trials) if (t.get("params") or {}).get(name) is not None]
    if not points:
        return None
    values = [t["params"][name] for t in points]
    numeric = all(text.finite(value) is not None for value in values)
    recommended = (report.get("recommended") or {}).get(name)
    region = (report.get("robust_region") or {}).get(name)
    figure = go.Figure()
    for status, colour in (("pruned", FAINT), ("completed", MUTED)):
        some = [t for t in points if t.get("status") == status]
        if some:
            means = [t["score"] if text.finite(t.get("score_mean")) is None else t["score_mean"] for t in some]
            figure.add_scatter(
                x=[t["params"][name] if numeric else escape(t["params"][name]) for t in some],
                y=means,
                mode="markers",
                name=status,
                marker=marks(status, colour, len(points)),
                error_y={
                    "array": [text.finite(t.get("score_std")) or 0.0 for t in some],
                    "color": colour,
                    "thickness": crowd(len(points)),
                    "width": 0,
                },
                hovertext=[hover(t) for t in some],
                hoverinfo="text",
            )
    layout(figure, 220, showlegend=False, margin={"l": 8, "r": 8, "t": 6, "b": 8})
    figure.update_yaxes(range=score_range(trials), nticks=5)
    figure.update_xaxes(showgrid=False)
    if not numeric:
        categories = sorted({escape(value) for value in values})
        return figure.update_xaxes(
            type="category", tickvals=categories, ticktext=[short(html.unescape(c)) for c in categories], tickangle=0
        )
    log = is_log(values)
    position = math.log10 if log else float
    edges = [text.finite(edge) for edge in region] if isinstance(region, list | tuple) else []
    if len(edges) == 2 and all(edge is not None and (edge > 0 or not log) for edge in edges):
        figure.add_vrect(x0=edges[0], x1=edges[1], fillcolor=BAND, line_width=0, layer="below")
    value = text.finite(recommended)
    shown = list(values)
    if value is not None and (not log or value > 0):
        figure.add_vline(x=value, line={"color": ACCENT, "width": 2})
        shown.append(value)
        confirmed = text.measurement((report.get("confirmation") or {}).get("recommended"))
        if confirmed is not None:
            figure.add_scatter(
                x=[value],
                y=[confirmed[0]],
                mode="markers",
                marker={"symbol": "diamond", "color": ACCENT, "size": 11},
                error_y={"array": [confirmed[1] or 0.0], "color": ACCENT, "thickness": 2, "width": 0},
                hovertemplate=f"recommended, on fresh seeds {text.spread(*confirmed[:2])}<extra></extra>",
            )
    low, high = position(min(shown)), position(max(shown))
    pad = 0.05 * (high - low) or 0.5
    ticks = text.ticks(min(shown), max(shown), log)
    figure.update_xaxes(range=[low - pad, high + pad], tickvals=ticks, ticktext=[text.number(tick) for tick in ticks])
    return figure.update_xaxes(type="log") if log else figure


def score_range(trials: Sequence[Trial]) -> list[float]:
    """One range of scores for all responses, so that their slopes can be compared by eye."""
    lows, highs = [], []
    for trial in comparable(trials):
        mean, std = text.finite(trial.get("score_mean")), text.finite(trial.get("score_std")) or 0.0
        middle = float(trial["score"]) if mean is None else mean
        lows.append(middle - std)
        highs.append(middle + std)
    low, high = min(lows, default=0.0), max(highs, default=1.0)
    pad = 0.05 * (high - low) or 0.05
    return [low - pad, high + pad]


def importance(values: Mapping[str, Any] | None) -> go.Figure | None:
    """How much of the score's variation each hyperparameter explains, the largest on top."""
    known = {key: found for key, value in (values or {}).items() if (found := text.finite(value)) is not None}
    if not known:
        return None
    names = sorted(known, key=lambda key: known[key])
    figure = go.Figure(
        go.Bar(
            x=[known[name] for name in names],
            y=[escape(name) for name in names],
            orientation="h",
            marker={"color": ACCENT},
            text=[text.number(known[name]) for name in names],
            textposition="outside",
            cliponaxis=False,
            hoverinfo="skip",
            width=0.55,
        )
    )
    layout(figure, 56 + 32 * len(names), margin={"l": 8, "r": 48, "t": 4, "b": 8})
    figure.update_yaxes(tickfont={"color": INK})
    return figure.update_xaxes(title_text="importance", rangemode="tozero", nticks=5)
