"""The report in a real browser: drawn without an error on a phone, on a desktop and on paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_search import SEARCHED
from report_page import CHROMIUM, Page, chromium, probe

from search.report.figures import PALETTE

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the report is not looked at")


def test_browser_draws_every_figure_on_a_phone_and_on_a_desktop(page: Page, tmp_path: Path) -> None:
    found, console = probe(page, tmp_path)
    assert [result["width"] for result in found] == [375, 1280]
    for result, colour in zip(found, (PALETTE["page"][1], PALETTE["page"][0]), strict=True):
        assert result["error"] is None
        assert result["plots"] == result["drawn"] == page.figures > 15
        assert result["overflow"] <= 0 and result["cut"] == 0 and result["links"] == 0
        assert result["rising"] == sorted(result["rising"]) and result["falling"] == result["rising"][::-1]
        assert result["marked"] == len(SEARCHED) + 1
        assert result["seen"] == result["images"] == 160
        assert result["heard"] == [pytest.approx(0.25, abs=0.01)] * 4
        assert result["background"] == f"rgb{tuple(bytes.fromhex(colour[1:]))}"
    assert not [line for line in console if "Uncaught" in line or "Content Security Policy" in line]


def test_browser_prints_it_on_a_few_pages(page: Page, tmp_path: Path) -> None:
    chromium(tmp_path, f"--print-to-pdf={tmp_path / 'report.pdf'}", "--virtual-time-budget=4000", page.path.as_uri())
    pages = re.findall(rb"/Type ?/Page\b", (tmp_path / "report.pdf").read_bytes())
    assert 8 <= len(pages) <= 18
