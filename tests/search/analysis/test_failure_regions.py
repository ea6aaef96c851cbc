"""Where in a space signatures of failure occur: the region of each, and what the report says."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from test_failure_signatures import falling, record, report_of

from search.analysis.failure_regions import _leaves, region, regions
from search.analysis.failure_signatures import (
    MEANING,
)
from search.space.model import Dimension, Space

SPACE = Space.model_validate(
    {
        "name": "regions",
        "tasks": [{"dpc": 1}],
        "search": {
            "lambda_joint": {"low": 0.01, "high": 100, "log": True},
            "frequency_scale": {"low": 0.1, "high": 4, "log": True},
            "momentum": {"low": 0.0, "high": 0.9},
            "optimizer": {"choices": ["sgd", "adam"]},
            "num_frequencies": {"choices": [64, 256, 1024]},
        },
    }
)


def proposals(count: int, seed: int = 0) -> list[dict[str, Any]]:
    generator = random.Random(seed)

    def drawn(dimension: Any) -> Any:
        if dimension.choices is not None:
            return generator.choice(dimension.choices)
        if dimension.log:
            return math.exp(generator.uniform(math.log(dimension.low), math.log(dimension.high)))
        return generator.uniform(dimension.low, dimension.high)

    return [{name: drawn(dimension) for name, dimension in SPACE.search.items()} for _ in range(count)]


def test_a_region_on_one_side_of_a_threshold() -> None:
    params = proposals(48)
    shown = [p["lambda_joint"] > 3 for p in params]
    shown[shown.index(True)] = False
    text = region(SPACE, params, shown)
    assert text is not None
    name, sign, threshold, rest = text.split(" ", 3)
    assert (name, sign) == ("lambda_joint", ">")
    below = max(p["lambda_joint"] for p, bad in zip(params, shown, strict=True) if not bad and p["lambda_joint"] <= 3)
    above = min(p["lambda_joint"] for p, bad in zip(params, shown, strict=True) if bad)
    at = float(threshold.rstrip(":"))
    assert at == pytest.approx(math.sqrt(below * above), rel=0.01)  # halfway on the scale that is searched
    there = sum(p["lambda_joint"] > at for p in params)
    assert rest == f"{sum(shown)} of {there} trials there, 0 of {48 - there} elsewhere"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (lambda p: p["momentum"] < 0.4, r"momentum < 0\.[34]\d*"),
        (lambda p: p["optimizer"] == "adam", "optimizer is (adam|not sgd)"),
        (lambda p: p["num_frequencies"] == 64, "num_frequencies < 128"),
        (
            lambda p: p["lambda_joint"] > 1 and p["frequency_scale"] < 0.5,
            r"(lambda_joint > \S+ and frequency_scale < \S+|frequency_scale < \S+ and lambda_joint > \S+)",
        ),
    ],
    ids=["linear", "choice", "ordered choice", "two conditions"],
)
def test_other_regions(shown: Callable[[dict[str, Any]], bool], expected: str) -> None:
    params = proposals(80)
    found = [shown(p) for p in params]
    text = region(SPACE, params, found)
    assert text is not None and re.match(f"{expected}: ", text), text
    hits, size = (int(word) for word in text.split(": ")[1].split(" trials")[0].split(" of "))
    assert hits >= 0.9 * size and hits >= 0.7 * sum(found)


def test_numbers_to_choose_from_are_on_a_log_scale_unless_zero_is_one_of_them() -> None:
    space = SPACE.model_copy(update={"search": {"alpha": Dimension(choices=[0.0, 0.4, 1.0])}})
    params = [{"alpha": (0.0, 0.4, 1.0)[i % 3]} for i in range(30)]
    assert region(space, params, [p["alpha"] == 0 for p in params]) == (
        "alpha < 0.2: 10 of 10 trials there, 0 of 20 elsewhere"
    )


def test_a_region_has_to_be_less_likely_than_one_in_twenty_for_all_splits_together() -> None:
    """The three lowest of n: by chance 1 in C(n, 3) at each of 2 (n - 1) splits, which is 0.047 of 17 and 0.054 of 16."""
    space = SPACE.model_copy(update={"search": {"momentum": SPACE.search["momentum"]}})
    told = {
        n: region(space, [{"momentum": 0.9 * i / n} for i in range(n)], [i < 3 for i in range(n)]) for n in (16, 17)
    }
    assert told == {16: None, 17: "momentum < 0.132: 3 of 3 trials there, 0 of 14 elsewhere"}


def test_of_two_bounds_on_one_side_a_leaf_has_the_tighter_one() -> None:
    """Column 0 at 5, then on its lower side at 2, on its upper side at 8."""
    tree = SimpleNamespace(
        children_left=[1, 2, -1, -1, 5, -1, -1],
        children_right=[4, 3, -1, -1, 6, -1, -1],
        feature=[0, 0, -2, -2, 0, -2, -2],
        threshold=[5.0, 2.0, -2.0, -2.0, 8.0, -2.0, -2.0],
    )
    below, above = (0, False), (0, True)
    assert _leaves(tree) == [{below: 2.0}, {below: 5.0, above: 2.0}, {above: 5.0, below: 8.0}, {above: 8.0}]


def test_chance_has_no_region() -> None:
    """Whatever is split best out of some hundred splits looks like something."""
    told = 0
    for seed in range(40):
        generator = random.Random(seed)
        params = proposals(48, seed)
        told += region(SPACE, params, [generator.random() < 0.3 for _ in params]) is not None
    assert told <= 2
    params = proposals(20)
    assert region(SPACE, params, [True] * 20) is None
    assert region(SPACE, params, [False] * 20) is None
    assert region(SPACE, params[:3], [True, False, False]) is None
    assert region(SPACE, [], []) is None


def test_what_the_report_says() -> None:
    params = proposals(30)
    bad, good = report_of(6, [1.0, 2, 1, 2, 1, 2, 1, 2]), report_of(6, falling(0.5))
    records = [record(0, [bad], name="paper_default", params={**params[0], "lambda_joint": 0.01})]
    for number, p in enumerate(params, 1):
        records.append(record(number, [bad if p["lambda_joint"] > 1 else good], params=p))
    records.append(record(31, status="failed", error="its process died 4 times", params=params[0]))
    told = regions(SPACE, records)
    assert list(told) == list(MEANING)
    shown = [0, *(number for number, p in enumerate(params, 1) if p["lambda_joint"] > 1)]
    instability = told["instability"]
    assert instability["trials"] == shown
    assert instability["of"] == 31
    assert instability["meaning"] == MEANING["instability"]
    assert instability["region"].startswith("lambda_joint > ")
    assert instability["region"].endswith(
        f"{len(shown) - 1} of {len(shown) - 1} trials there, 0 of {31 - len(shown)} elsewhere"
    )
    assert told["modality_collapse"] == {
        "trials": [],
        "of": 31,
        "region": None,
        "meaning": MEANING["modality_collapse"],
    }
    assert regions(SPACE, [])["instability"]["of"] == 0


# Real runs --------------------------------------------------------------------------------------------------------------
