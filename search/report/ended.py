"""Why a search had no more trials, as report.json has it and the page says it."""

from __future__ import annotations

from pydantic import Field

from search.analysis.deadline import Why
from search.report.part import Part


class TrialsEnded(Part):
    """Why there were no more trials."""

    why: Why = Field(description="as many as asked for have ended; the `time`; `patience`; `asked`: --conclude")
    text: str = Field(description="as a clause")


def told(ended: TrialsEnded | None, done: int, planned: int) -> str:
    """A sentence for the page; nothing where all planned trials have ended. `done`: trials that have ended."""
    if ended is None or ended.why == "trials":
        return ""
    return f"There were no more trials after {done:,} of at most {planned:,}: {ended.text}."
