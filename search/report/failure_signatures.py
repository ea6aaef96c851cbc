"""Failure signatures: ways in which trials went wrong that a score alone does not show."""

from __future__ import annotations

from collections.abc import Collection
from html import escape

from search.report import html, text
from search.report.model import Report

MOST = 12  # trials that are named for a signature


def section(report: Report, listed: Collection[int]) -> str:
    """The signatures that were looked for, and in which trials they were seen; nothing where none was looked for. `listed`: the
    numbers of the trials in the page's table."""
    ordered = sorted(report.diagnostics.items(), key=lambda item: -len(item[1].trials))
    seen = [(name, entry) for name, entry in ordered if entry.trials]
    unseen = [name for name, entry in ordered if not entry.trials]
    regions = any(entry.region for _, entry in seen)
    rows = []
    for name, entry in seen:
        named = entry.trials[:MOST]
        links = ", ".join(f'<a href="#trial-{n}">{n}</a>' if n in listed else str(n) for n in named)
        more = f" and {len(entry.trials) - MOST:,} more" if len(entry.trials) > MOST else ""
        meaning = f"<b>{escape(text.label(name))}</b><br>{escape(entry.meaning)}"
        where = [escape(entry.region or "anywhere")] if regions else []
        rows.append([meaning, f"{len(entry.trials):,} of {entry.of:,}", links + more, *where])
    head = ["signature", "seen in", "trials", *(["where"] if regions else [])]
    table = f'<div class="wrapped">{html.table(head, rows, words=(0, 1, 2, 3))}</div>' if rows else ""
    told = f"Looked for and not seen: {', '.join(map(text.label, unseen))}." if unseen else ""
    return html.section("signatures", "Failure signatures", table, html.note(told))


def of_trials(report: Report) -> dict[int, list[str]]:
    """trial number -> names of its signatures."""
    found: dict[int, list[str]] = {}
    for name, entry in report.diagnostics.items():
        for number in entry.trials:
            found.setdefault(number, []).append(text.label(name))
    return found
