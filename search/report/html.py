"""The blocks that the report's sections are built of: section, figure, table. Text that is passed in is escaped here;
parameters and cells that are said to be HTML are not.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go


def script(code: str) -> str:
    """JSON that may stand inside a script element, whatever strings it holds."""
    return code.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def rounded(value: Any) -> Any:
    """JSON with six significant digits, which are more than a figure shows."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(own) for key, own in value.items()}
    return [rounded(own) for own in value] if isinstance(value, list) else value


def breakable(name: str) -> str:
    """A name as HTML that may break after an underscore, so that long ones fit a phone."""
    return escape(name).replace("_", "_<wbr>")


def figure(drawn: go.Figure | None, alternative: str, caption: str = "", title: str = "") -> str:
    """A figure and the data it is drawn from; nothing where there is no figure."""
    if drawn is None:
        return ""
    drawing = json.dumps(rounded(json.loads(drawn.to_json())), separators=(",", ":"), ensure_ascii=False)
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    head = f"<h3>{breakable(title)}</h3>" if title else ""
    return (
        f'<figure>{head}<div class="plot" role="img" aria-label="{escape(alternative)}" '
        f'style="height:{int(drawn.layout.height)}px"></div>'
        f'<script type="application/json">{script(drawing)}</script>{note}</figure>'
    )


def section(key: str, title: str, *parts: str, missing: str = "") -> str:
    """A section of `parts` (HTML); where all are empty, the sentence that says why, or nothing without one."""
    content = "\n".join(part for part in parts if part)
    if not content and not missing:
        return ""
    content = content or f'<p class="missing">{escape(missing)}</p>'
    return f'<section id="{key}"><h2>{escape(title)}</h2>\n{content}\n</section>'


def paragraph(sentences: str, kind: str) -> str:
    """A paragraph of one of the page's classes; nothing where there is nothing to say."""
    return f'<p class="{kind}">{escape(sentences)}</p>' if sentences else ""


def note(sentence: str) -> str:
    """A sentence in small print; nothing where there is none."""
    return paragraph(sentence, "note")


def columns(*parts: str, kind: str = "columns") -> str:
    """Parts (HTML) side by side, below each other on a phone; a single one takes the whole width."""
    known = [part for part in parts if part]
    return f'<div class="{kind}">{"".join(known)}</div>' if len(known) > 1 else "".join(known)


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    words: Collection[int] = (0,),
    marked: Collection[int] = (),
    styles: Sequence[Sequence[str]] | None = None,
) -> str:
    """A table that scrolls sideways where it does not fit. Cells are HTML; columns in `words` are aligned to the left,
    rows in `marked` stand out; `styles`: an inline style for each cell.
    """

    def kind(column: int) -> str:
        return "" if column in words else ' class="n"'

    top = "".join(f"<th{kind(i)}>{cell}</th>" for i, cell in enumerate(head))
    body = ""
    for number, row in enumerate(rows):
        cells = ""
        for i, cell in enumerate(row):
            style = styles[number][i] if styles else ""
            cells += f"<td{kind(i)}{f' style={style!r}' if style else ''}>{cell}</td>"
        body += f"<tr{' class=marked' if number in marked else ''}>{cells}</tr>"
    return f'<div class="scroll"><table class="plain"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
