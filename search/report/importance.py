"""What mattered: importance by two estimates, what is lost without tuning, and what each term of the loss adds."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import plotly.graph_objects as go

from search.report import html, text
from search.report.confirmation import dots
from search.report.figures import ACCENT, INK, MUTED, PALETTE, layout
from search.report.figures import escape as plain
from search.report.model import Report


def section(report: Report) -> str:
    """The section on hyperparameters; says so where no importance was estimated."""
    caption = "Share of the score's variation that each hyperparameter explains"
    if report.importance and report.importance_fanova:
        caption += ": PED-ANOVA among good trials, fANOVA over the whole searched range."
    else:
        caption += " among good trials." if report.importance else " over the searched ranges."
    left = html.figure(importance(report), "Hyperparameter importance", caption)
    lost = (
        "Modelled loss of score with this hyperparameter alone at the default's value, or at the end of its range next to that, "
        "the others as recommended."
    )
    right = html.figure(bars({"loss": known(report.sensitivity)}, "loss of score"), "Loss of score if not tuned", lost)
    left = f"<div><h3>Importance</h3>{left}</div>" if left and right else left
    right = f"<div><h3>How much worse if not tuned</h3>{right}</div>" if right else ""
    return html.section(
        "importance",
        "What mattered",
        html.columns(left, right, kind="columns even"),
        missing="No importance was estimated in this search.",
    )


def importance(report: Report) -> go.Figure | None:
    """How much of the score's variation each hyperparameter explains, by each estimate, the largest on top."""
    estimates = {"PED-ANOVA": known(report.importance), "fANOVA": known(report.importance_fanova)}
    return bars(estimates, "importance")


def known(values: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are numbers."""
    return {name: value for name, value in values.items() if value is not None}


def bars(series: Mapping[str, Mapping[str, float]], title: str) -> go.Figure | None:
    """Horizontal bars, grouped where there are several series, in the order of the first, the largest on top."""
    drawn = {label: values for label, values in series.items() if values}
    if not drawn:
        return None
    first = next(iter(drawn.values()))
    names = sorted({name for values in drawn.values() for name in values}, key=lambda name: first.get(name, 0.0))
    figure = go.Figure()
    for label, colour in reversed(list(zip(drawn, (ACCENT, PALETTE["shade_2"][0])))):
        values = drawn[label]
        figure.add_bar(
            x=[values.get(name) for name in names],
            y=[plain(name) for name in names],
            name=label,
            orientation="h",
            marker={"color": colour},
            text=[text.number(round(values[name], 4)) if values.get(name, -1) >= 0 else "" for name in names],
            textposition="outside",
            textfont={"size": 11, "color": MUTED},
            cliponaxis=False,
            hoverinfo="skip",
        )
        for name in names:
            if values.get(name, 0) < 0:  # left of its bar the number would lie on the hyperparameter's name
                figure.add_annotation(
                    x=0,
                    y=plain(name),
                    xanchor="left",
                    showarrow=False,
                    text=text.number(round(values[name], 4)),
                    font={"size": 11, "color": MUTED},
                )
    several = len(drawn) > 1
    room = 30 if several else 0
    layout(figure, 56 + room + (44 if several else 32) * len(names), margin={"l": 8, "r": 48, "t": 4 + room, "b": 8})
    figure.update_layout(showlegend=several, bargap=0.4, bargroupgap=0.08, legend={"traceorder": "reversed"})
    figure.update_yaxes(tickfont={"color": INK})
    return figure.update_xaxes(title_text=title, rangemode="tozero", nticks=5)


def ablation_section(report: Report) -> str:
    """What each term of the loss adds; nothing where it was not measured."""
    rows = report.ablation
    if not rows:
        return ""
    word = text.metric(report.metric)
    validation, test = f"validation, share of full-data {word}", f"test {word}"
    cells = [
        [
            escape(row.terms),
            text.measured(row.validation),
            text.measured(row.test),
            "–" if row.difference is None else text.difference(row.difference),
        ]
        for row in rows
    ]
    points = [
        (row.terms, row.validation.mean, row.validation.std, MUTED if i else ACCENT, ())
        for i, row in enumerate(rows)
        if row.validation.mean is not None
    ]
    told = (
        "The recommended setting with only the named terms of the loss (uni-modal, cross-modal, joint-modal), on the same "
        "fresh seeds. A term that stands alone has at least the weight 1. Differences are to all terms, on validation."
    )
    drawn = dots(points, validation) if points else None
    return html.section(
        "ablation",
        "What each term of the loss adds",
        html.note(told),
        html.figure(drawn, "Scores with only the named terms of the loss"),
        html.table(["terms", escape(validation), escape(test), "difference [95 %]"], cells),
    )
