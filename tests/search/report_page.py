"""A report's page taken apart, and looked at in a browser."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """What of a page matters here: its elements, the ids of its sections, and every address it names."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.sections: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        known = dict(attrs)
        if tag == "section":
            self.sections.append(known.get("id") or "")
        self.addresses += [known[key] or "" for key in ("src", "href", "srcset", "poster", "action") if key in known]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["script"] and self.tags[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())
