"""report.html does not grow with a search: what is drawn and listed of thousands of trials."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fake_search import fake_search

from search.report.figures import history, progress
from search.report.html import rounded
from search.report.page import write_html
from search.report.parallel import parallel
from search.report.pareto import MOST, section
from search.report.response import response
from search.report.tables import ROWS
from search.report.trials import BEST, DRAWN, POINTS, drawn, evenly, scored

REPORT, TRIALS, _ = fake_search(3000)


def test_few_trials_are_all_drawn() -> None:
    assert drawn(TRIALS[:DRAWN]) == TRIALS[:DRAWN]
    assert evenly(range(7), 10) == list(range(7))


def test_of_many_the_defaults_the_best_and_evenly_many_others() -> None:
    shown = drawn(TRIALS)
    assert len(shown) == DRAWN and [t.number for t in shown] == sorted(t.number for t in shown)
    assert shown[:2] == TRIALS[:2]  # the defaults
    best = sorted(scored(TRIALS), key=lambda pair: -pair[1])[:BEST]
    assert all(trial in shown for trial, _ in best)
    assert 0.4 < sum(t.number < 1500 for t in shown) / DRAWN < 0.6
    assert evenly(range(100), 4) == [24, 49, 74, 99]


def test_figures_hold_no_more_points_of_more_trials() -> None:
    names = list(REPORT.space.search)
    for figure in (response(TRIALS, names[0], REPORT), history(TRIALS)):
        assert figure is not None
        assert sum(len(trace.x) for trace in figure.data if trace.meta == "trials") <= DRAWN
    lines, course = parallel(TRIALS, {}), progress(TRIALS)
    assert lines is not None and course is not None
    assert sum(len(trace.x) for trace in lines.data) <= DRAWN * (len(names) + 2) + len(names)
    assert sum(len(trace.x) for trace in course.data) <= POINTS + 3 * DRAWN


def test_the_best_so_far_is_of_all_trials() -> None:
    figure = history(TRIALS)
    assert figure is not None
    (best,) = [trace for trace in figure.data if trace.name == "best so far"]
    assert best.y[-1] == max(score for trial, score in scored(TRIALS, "completed") if trial.name != "paper_default")
    assert list(best.y[:-1]) == sorted(set(best.y))


def test_the_page_lists_the_best_and_says_where_all_are(tmp_path: Path) -> None:
    source = write_html(tmp_path, REPORT, TRIALS, []).read_text()
    assert source.count('<tr class="') == ROWS
    assert f'The best {ROWS} of 3,000 trials; all of them are in <a href="trials.csv">trials.csv</a>' in source
    assert "Figures show 1,000 of 3,000 trials: the best 100, and evenly many of the others." in source
    said = json.loads(re.findall(r'id="said">(.*?)</script>', source)[0])
    assert len(said) == DRAWN and said["1"].startswith("<b>trial 1</b> (project's default), completed\nscore ")
    assert source.count("<b>trial 1</b>") + source.count("\\u003cb\\u003etrial 1\\u003c") == 1  # once, for all figures
    assert len(source) < 4_000_000
    shorter = write_html(tmp_path, REPORT, TRIALS[:1500], []).read_text()
    assert abs(len(source) - len(shorter)) < 100_000


def test_a_crowd_behind_a_front_is_thinned() -> None:
    front = [{"number": i, "values": [i / 9, 1 - i / 9], "front": True} for i in range(10)]
    behind = [{"number": 10 + i, "values": [0.0, 0.0], "front": False} for i in range(2000)]
    many = {**REPORT.as_json(), "pareto": {"objectives": ["score", "retrieval"], "trials": front + behind}}
    drawing = section(type(REPORT).model_validate(many))
    assert "10 of 2,010 trials are on the front" in drawing
    assert drawing.count("retrieval 0") <= MOST + len(front)


def test_a_figure_keeps_six_digits() -> None:
    assert rounded({"x": [0.123456789, 12345678, None, "a"]}) == {"x": [0.123457, 12345678, None, "a"]}
