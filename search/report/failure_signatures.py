"""Failure signatures: ways in which trials went wrong that a score alone does not show."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from search.report import html, text

MOST = 12  # trials that are named for a signature


def section(report: Mapping[str, Any]) -> str:
    """The signatures that were looked for, and in which trials they were seen; nothing where none was looked for."""
    known = {str(key): entry for key, entry in (report.get("diagnostics") or {}).items() if isinstance(entry, Mapping)}
    if not known:
        return ""
    ordered = sorted(known.items(), key=lambda item: -len(_numbers(item[1])))
    seen = [(name, entry) for name, entry in ordered if _numbers(entry)]
    unseen = [name for name, entry in ordered if not _numbers(entry)]
    regions = any(entry.get("region") for _, entry in seen)
    rows = []
    for name, entry in seen:
        numbers = _numbers(entry)
        of = text.finite(entry.get("of"))
        count = f"{len(numbers):,}" + (f" of {of:,.0f}" if of is not None else "")
        links = ", ".join(f'<a href="#trial-{n}">{n}</a>' for n in numbers[:MOST])
        more = f" and {len(numbers) - MOST:,} more" if len(numbers) > MOST else ""
        meaning = f"<b>{escape(text.label(name))}</b><br>{escape(str(entry.get('meaning') or ''))}"
        rows.append(
            [meaning, count, links + more, *([escape(str(entry.get("region") or "anywhere"))] if regions else [])]
        )
    head = ["signature", "seen in", "trials", *(["where"] if regions else [])]
    table = f'<div class="wrapped">{html.table(head, rows, words=(0, 1, 2, 3))}</div>' if rows else ""
    told = f"Looked for and not seen: {', '.join(map(text.label, unseen))}." if unseen else ""
    return html.section("signatures", "Failure signatures", table, html.note(told))


def of_trials(report: Mapping[str, Any]) -> dict[int, list[str]]:
    """trial number -> names of its signatures."""
    found: dict[int, list[str]] = {}
    for key, entry in (report.get("diagnostics") or {}).items():
        for number in _numbers(entry):
            found.setdefault(number, []).append(text.label(key))
    return found


def _numbers(entry: Any) -> list[int]:
    known = entry.get("trials") if isinstance(entry, Mapping) else None
    return [number for number in known or [] if isinstance(number, int)]
