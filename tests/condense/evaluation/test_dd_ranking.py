"""DD-Ranking's scores, against values by the package's own expressions."""

from __future__ import annotations

import math

import pytest

from condense.evaluation.dd_ranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)


@pytest.mark.parametrize(
    (
        "accuracies",
        "weight",
        "expected",
    ),  # computed with the lines of ddranking 0.2.0, metrics/soft_label.py, 561 to 564
    [
        ((0.9, 0.6, 0.7, 0.65), 0.5, 0.21894866351247574),
        ((0.85, 0.5, 0.62, 0.55), 0.25, 0.1764910975729308),
        ((0.934, 0.88, 0.902, 0.871), 1.0, 0.282337214386891),
        ((0.8, 0.8, 0.5, 0.5), 0.5, 0.26894142136999516),
        ((1, 0, 0, 1), 0.5, 0.0),
        ((0, 1, 1, 0), 0.5, 1.0),
    ],
)
def test_label_robust_score_is_the_package_s(accuracies, weight, expected):
    assert label_robust_score(*accuracies, weight=weight) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("accuracies", "weight", "expected"),  # metrics/aug_robust.py, 577 to 580
    [
        ((0.7, 0.65, 0.6, 0.5), 0.5, 0.3020779393151249),
        ((0.62, 0.55, 0.5, 0.58), 0.25, 0.25123826777208247),
        ((0.3, 0.3, 0.2, 0.2), 0.5, 0.26894142136999516),
        ((1, 0, 1, 0), 0.5, 1.0),
        ((0, 1, 0, 1), 0.5, 0.0),
    ],
)
def test_augmentation_robust_score_is_the_package_s(accuracies, weight, expected):
    assert augmentation_robust_score(*accuracies, weight=weight) == pytest.approx(expected, abs=1e-12)


def test_both_parts():
    assert hard_label_recovery(0.9, 0.6) == pytest.approx(0.3)
    assert improvement_over_random(0.5, 0.6) == pytest.approx(-0.1)


@pytest.mark.parametrize("wrong", [71.3, -0.1, math.nan])
def test_percent_are_refused(wrong):
    with pytest.raises(ValueError, match=r"an accuracy must be in 0 \.\. 1, but got"):
        label_robust_score(0.9, wrong, 0.7, 0.6)
    with pytest.raises(ValueError, match=r"an accuracy must be in 0 \.\. 1, but got"):
        augmentation_robust_score(0.9, 0.5, 0.7, wrong)
    with pytest.raises(ValueError, match=r"weight must be in 0 \.\. 1, but got 2"):
        label_robust_score(0.9, 0.8, 0.7, 0.6, weight=2)
