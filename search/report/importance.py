"""What mattered: importance by two estimates, what is lost without tuning, and what each term of the loss adds."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import plotly.graph_objects as go

from search.report import html, text
from search.report.confirmation import dots
from search.report.figures import ACCENT, INK, MUTED, PALETTE, layout
from search.report.figures import escape as plain

ESTIMATES = {"importance": "PED-ANOVA", "importance_fanova": "fANOVA"}


def section(report: Mapping[str, Any]) -> str:
    """The section on hyperparameters; says so where no importance was estimated."""
    both = all(_numbers(report.get(key)) for key in ESTIMATES)
    caption = "Share of the score's variation that each hyperparameter explains"
    if both:
        caption += ": PED-ANOVA among good trials, fANOVA over the whole searched range."
    else:
        caption += " over the searched ranges." if not _numbers(report.get("importance")) else " among good trials."
    left = html.figure(importance(report), "Hyperparameter importance", caption)
    lost = (
        "Modelled loss of score with this hyperparameter alone at the default's value, or at the end of its range next to that, "
        "the others as recommended."
    )
    right = html.figure(
        bars({"loss": _numbers(report.get("sensitivity"))}, "loss of score"), "Loss of score if not tuned", lost
    )
    left = f"<div><h3>Importance</h3>{left}</div>" if left and right else left
    right = f"<div><h3>How much worse if not tuned</h3>{right}</div>" if right else ""
    return html.section(
        "importance",
        "What mattered",
        html.columns(left, right, kind="columns even"),
        missing="No importance was estimated in this search.",
    )


def importance(report: Mapping[str, Any]) -> go.Figure | None:
    """How much of the score's variation each hyperparameter explains, by each estimate, the largest on top."""
    return bars({label: _numbers(report.get(key)) for key, label in ESTIMATES.items()}, "importance")


def _numbers(values: Any) -> dict[str, float]:
    known = values if isinstance(values, Mapping) else {}
    return {str(key): found for key, value in known.items() if (found := text.finite(value)) is not None}


def bars(series: Mapping[str, Mapping[str, float]], title: str) -> go.Figure | None:
    """Horizontal bars, grouped where there are several series, in the order of the first, the largest on top."""
    known = {label: values for label, values in series.items() if values}
    if not known:
        return None
    first = next(iter(known.values()))
    names = sorted({name for values in known.values() for name in values}, key=lambda name: first.get(name, 0.0))
    figure = go.Figure()
    for label, colour in reversed(list(zip(known, (ACCENT, PALETTE["shade_2"][0])))):
        values = known[label]
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
    several = len(known) > 1
    room = 30 if several else 0
    layout(figure, 56 + room + (44 if several else 32) * len(names), margin={"l": 8, "r": 48, "t": 4 + room, "b": 8})
    figure.update_layout(showlegend=several, bargap=0.4, bargroupgap=0.08, legend={"traceorder": "reversed"})
    figure.update_yaxes(tickfont={"color": INK})
    return figure.update_xaxes(title_text=title, rangemode="tozero", nticks=5)


def ablation_section(report: Mapping[str, Any]) -> str:
    """What each term of the loss adds; nothing where it was not measured."""
    known = [entry for entry in report.get("ablation") or [] if isinstance(entry, Mapping) and entry.get("terms")]
    known = [
        entry for entry in known if text.measurement(entry.get("validation")) or text.measurement(entry.get("test"))
    ]
    if not known:
        return ""
    word = text.metric(report)
    columns = {"validation": f"validation, share of full-data {word}", "test": f"test {word}"}
    shown = [key for key in columns if any(text.measurement(entry.get(key)) for entry in known)]
    against = any(isinstance(entry.get("difference"), Mapping) for entry in known)
    rows = []
    for entry in known:
        cells = [escape(str(entry["terms"]))]
        cells += [text.spread(*(text.measurement(entry.get(key)) or (None, None))[:2]) for key in shown]
        gap = entry.get("difference")
        told = text.difference(gap) if isinstance(gap, Mapping) and text.finite(gap.get("mean")) is not None else "–"
        rows.append([*cells, *([told] if against else [])])
    points = []
    for entry in known:
        found = text.measurement(entry.get(shown[0]))
        if found:
            whole = entry is known[0]
            points.append((str(entry["terms"]), found[0], found[1], ACCENT if whole else MUTED, ()))
    head = ["terms", *(escape(columns[key]) for key in shown), *(["difference [95 %]"] if against else [])]
    told = (
        "The recommended setting with only the named terms of the loss (uni-modal, cross-modal, joint-modal), on the same "
        "fresh seeds. A term that stands alone has at least the weight 1. Differences are to all terms, on validation."
    )
    return html.section(
        "ablation",
        "What each term of the loss adds",
        html.note(told),
        html.figure(dots(points, columns[shown[0]]), "Scores with only the named terms of the loss"),
        html.table(head, rows),
    )
