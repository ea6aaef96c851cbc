"""The report: one file, complete, escaped, and tolerant of what is missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_search import fake_search
from report_page import Page

from search.report.gallery import MAX_CARDS, MAX_STAGES
from search.report.page import MENU, _date, write_html

ALWAYS = [
    "use",
    "robustness",
    "test",
    "response",
    "parallel",
    "importance",
    "gallery",
    "history",
    "trials",
    "provenance",
]
HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)> & \"quoted\""


def test_page_is_one_file_that_fetches_nothing(page: Page) -> None:
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert len([address for address in page.addresses if address.startswith("data:image/png;base64,")]) == 160
    assert len([address for address in page.addresses if address.startswith("data:audio/wav;base64,")]) == 40
    assert "link" not in page.tags and "iframe" not in page.tags
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert page.source.count("* plotly.js v") == 1
    assert "default-src 'none'" in page.source  # the browser refuses whatever this test overlooked


def test_page_has_all_sections_in_order(page: Page) -> None:
    assert page.sections == list(MENU)
    assert page.source.count('class="missing"') == 2  # the hidden lines for a broken figure and for no JavaScript
    assert "On 10 fresh seeds the recommended setting scores 0.931 ± 0.009" in page.text
    assert "0.119 [0.104, 0.133] above the paper's default" in page.text
    assert "0.06 – 1.4" in page.text and "learning_<wbr>rate_<wbr>vision" in page.source
    assert "mlflow ui --backend-store-uri 'sqlite:////data/results/quick start/mlflow.db'" in page.text
    assert "loss/joint became NaN at step 20" in page.text
    assert "torch 2.9.1" in page.text


def test_page_says_what_stands_behind_the_recommendation(page: Page) -> None:
    for told in (
        "Of the 0.063 over the normalised default, tuning the learning rates alone gives 0.044; the lambdas and the frequency",
        "5 settings were compared on 10 fresh seeds of their own. 3 of them cannot be told apart",
        "and of these “plateau” keeps the most when every value is moved at random",
        "With every hyperparameter moved at random by up to a factor of 2 either way (24 runs), nine runs in ten score at",
        "The most that is lost by taking another task's setting is 0.049.",
        "5 of 38 trials are on the front",
        "PED-ANOVA among good trials, fANOVA over the whole searched range",
        "24 on 1 seed, 9 on 2 seeds and 7 on 4 seeds; that took 6,120 replica-steps instead of 14,800 (41 %)",
        "−0.013 [−0.021, −0.005]",
        "spoken_digits, 1 per class vision, audio · 10 classes · 4,000 items 0.893 ± 0.013",
        "Looked for and not seen: copies.",
    ):
        assert told in page.text
    assert '<a href="#trial-7">7</a>' in page.source and 'id="trial-7"' in page.source


def test_page_replaces_an_older_one(tmp_path: Path) -> None:
    write_html(tmp_path / "new", {}, [], [])
    confirmation = {"recommended": {"mean": 0.9}}
    path = write_html(tmp_path / "new", {"recommended": {"a": 1}, "confirmation": confirmation}, [], [])
    assert "Not confirmed" not in path.read_text(encoding="utf-8")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["report.html"]


def test_text_of_users_is_escaped(page: Page, tmp_path: Path) -> None:
    report, trials, gallery = fake_search()
    report |= {"name": HOSTILE, "space": {HOSTILE: HOSTILE}, "versions": {HOSTILE: HOSTILE}, "seeds": HOSTILE}
    report["mlflow"] = {"tracking_uri": HOSTILE, "experiment": HOSTILE, "run_id": HOSTILE}
    report["recommended"][HOSTILE] = HOSTILE
    report["test"][HOSTILE] = 0.5
    report["importance"][HOSTILE] = 0.5
    report["confirmation"]["differences"][HOSTILE] = {"mean": 0.1, "ci95": [0.0, 0.2]}
    for key in ("tasks", "candidates", "response_pairs", "transfer", "pareto", "diagnostics", "ablation"):
        report[key] = leaves(report[key], lambda value: HOSTILE if isinstance(value, str) else value)
    report["diagnostics"][HOSTILE] = report["diagnostics"]["diverging"]
    for trial in trials:
        trial["params"] |= {HOSTILE: HOSTILE * (1 + trial["number"] % 2)}
        trial["error"] = HOSTILE if trial["status"] == "failed" else None
    for number, item in enumerate(gallery):
        item["label"], item["index"] = f"{number // 2} {HOSTILE}", HOSTILE
        for step in item["steps"]:
            step["step"] = HOSTILE
        item["steps"][-1]["items"][HOSTILE] = {"png": None, "wav": None, "txt": HOSTILE}
    hostile = Page(write_html(tmp_path, report, trials, gallery))
    assert hostile.tags.count("img") == page.tags.count("img")
    assert hostile.tags.count("script") == page.tags.count("script") + 1  # the data of one more response
    assert "<script>alert" not in hostile.source
    assert all(address.startswith(("data:", "#")) for address in hostile.addresses)


def leaves(content: Any, change: Callable[[Any], Any]) -> Any:
    """The same lists and mappings with every value in them changed."""
    if isinstance(content, dict):
        return {key: leaves(value, change) for key, value in content.items()}
    if isinstance(content, list):
        return [leaves(value, change) for value in content]
    return change(content)


@pytest.mark.parametrize("part", ["recommended", "trials"])
def test_missing_parts_are_tolerated(part: str, tmp_path: Path) -> None:
    report, trials, gallery = fake_search(6)
    given = report | ({"recommended": None} if part == "recommended" else {})
    assert Page(write_html(tmp_path, given, [] if part == "trials" else trials, gallery[:1])).sections == list(MENU)


@pytest.mark.parametrize("absent", [None, {}])
def test_all_parts_may_be_missing(absent: Any, tmp_path: Path) -> None:
    report, trials, _ = fake_search(4)
    assert Page(write_html(tmp_path, dict.fromkeys(report, absent), trials, [])).sections == ALWAYS
    assert Page(write_html(tmp_path, {}, [], [])).sections == ALWAYS


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_values_may_be_missing_anywhere(share: float, tmp_path: Path) -> None:
    report, trials, gallery = fake_search(12)
    rng = np.random.default_rng(0)
    gaps = leaves(report, lambda value: None if rng.random() < share else value)
    sections = Page(write_html(tmp_path, gaps, trials, gallery[:2])).sections
    assert set(ALWAYS) <= set(sections)


def test_older_reports_are_drawn(tmp_path: Path) -> None:
    report, trials, gallery = fake_search(12)
    newer = ("candidates", "perturbation", "response", "response_pairs", "importance_fanova", "sensitivity", "transfer")
    newer += ("pareto", "diagnostics", "ablation", "racing")
    old = {key: value for key, value in report.items() if key not in newer}
    old["tasks"] = [{"dataset": {"name": "spoken_digits"}, "dpc": 5}]
    for entry in old["confirmation"].values():
        if isinstance(entry, dict):
            entry.pop("tasks", None)
    page = Page(write_html(tmp_path, old, trials, [{k: v for k, v in gallery[0].items() if k != "steps"}]))
    assert page.sections == ALWAYS
    assert "among good trials." in page.text and "fANOVA" not in page.text


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    report, trials, _ = fake_search(8)
    page = Page(write_html(tmp_path, report | {"confirmation": None, "test": None, "robust_region": None}, trials, []))
    assert "Not confirmed yet" in page.text
    assert "The test split has not been opened yet." in page.text
    assert "No robust range was estimated" in page.text
    assert "No synthetic items were exported." in page.text


def test_trials_with_gaps_are_tolerated(tmp_path: Path) -> None:
    trials: list[dict[str, Any]] = [
        {"number": 0, "status": "completed", "score": float("nan"), "params": {"lambda_cross": 1.0}},
        {"number": 1, "status": "failed", "error": None},
        {"number": 2, "status": "pruned", "score": 0.4, "params": {"lambda_cross": 0.0, "optimizer": "sgd"}},
        {"number": 3, "status": "completed", "score": 0.5, "params": {"lambda_cross": 9.0, "optimizer": "adam"}},
        {"number": 4, "status": "completed", "score": 0.6, "progress": [{"step": None, "score": 0.1}]},
    ]
    recommended = {"lambda_cross": "unknown", "optimizer": "adam"}
    page = Page(write_html(tmp_path, {"recommended": recommended, "robust_region": {"lambda_cross": None}}, trials, []))
    assert page.sections == ALWAYS
    assert page.text.count("failed") >= 2


def test_trials_table_puts_the_best_first(page: Page) -> None:
    _, trials, _ = fake_search()
    table = page.source[page.source.index('class="sortable"') :]
    numbers = [
        int(float(n)) for n in re.findall(r'<tr class="\w+" id="trial-\d+"><td class=n data-value="([0-9.]+)"', table)
    ]
    scores = {t["number"]: t["score"] if t["score"] is not None else -1.0 for t in trials}
    assert numbers == sorted(scores, key=lambda number: -scores[number])


def test_gallery_shows_every_class_before_it_repeats_one(tmp_path: Path) -> None:
    gallery = [{"label": f"class {c}", "index": i, "items": {}} for c in range(40) for i in range(3)]
    page = Page(write_html(tmp_path, {}, [], gallery))
    labels = re.findall(r"<h3>(class \d+) ", page.source)
    assert len(labels) == MAX_CARDS and len(set(labels)) == 40
    assert labels == sorted(labels, key=lambda name: int(name.split()[1]))
    assert f"{MAX_CARDS} of 120 are shown" in page.text


def test_gallery_shows_the_way_of_the_first_item_of_each_class(page: Page, tmp_path: Path) -> None:
    assert page.source.count('<div class="sounds">') == 10 and "10 more items" in page.text
    assert page.text.count("start step 20 step 40 step 60 step 80 step 100") == 10
    picture = {"vision": {"png": b"png", "wav": b"wav"}}
    ways = [{"step": step, "items": {"vision": {"png": b"png %d" % step}}} for step in range(10, 210, 10)]
    item = {"label": "a", "index": 0, "items": picture, "start": picture, "steps": ways}
    long = Page(write_html(tmp_path, {}, [], [item, item | {"index": 1}]))
    assert long.tags.count("img") == MAX_STAGES + 2 and long.tags.count("audio") == 4
    assert "start step 40 step 80 step 130 step 170 condensed" in long.text


def test_gallery_leaves_out_ways_that_would_make_the_page_huge(tmp_path: Path) -> None:
    heavy = {"vision": {"png": b"x" * 1_000_000}}
    steps = [{"step": step, "items": heavy} for step in (1, 2, 3)]
    gallery = [{"label": f"class {i}", "index": i, "items": heavy, "steps": steps} for i in range(4)]
    page = Page(write_html(tmp_path, {}, [], gallery))
    assert page.source.count('class="way"') == 2 * 2 and "2 more items" in page.text


def test_when_a_search_began_is_told_as_a_date() -> None:
    assert _date(1795746534.19) == "2026-11-27 02:28 UTC"
    assert _date("2026-03-02T10:14:07") == "2026-03-02T10:14:07"
