"""docs/reliability.md claims what tests show: each that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "docs" / "reliability.md").read_text())
    assert len(named) > 20
    for file, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.M), f"{file}::{name}"


def test_every_fault_names_a_test_or_says_that_none_shows_it() -> None:
    faults = (ROOT / "docs" / "reliability.md").read_text().partition("## Faults")[2].partition("\\*")[0]
    rows = [line for line in faults.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 12
    for row in rows:
        assert "::test_" in row or "not shown" in row or "nothing helps" in row, row
