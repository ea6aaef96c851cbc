"""Who may win: published settings are kept unless another is shown to be better, on items whose truth is known."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from condense.config.models import Hyperparameters
from condense.config.published import mmd
from search.analysis.paired import Items, Outcome, Paired, difference
from search.analysis.robustness import surface_of
from search.analysis.scores import robust_score
from search.confirmation.perturbation import applied
from search.confirmation.selection import PLATEAU, Choice, choose, measured
from search.ledger.ledger import Report, TrialRecord
from search.space.model import Space

SPACE = Space.model_validate(
    {
        "name": "known",
        "tasks": [{"dpc": 1}],
        "fixed": {"lambda_joint": 0.5},
        "search": {
            "lambda_cross": {"low": 0.01, "high": 10, "log": True},
            "frequency_scale": {"low": 0.1, "high": 4, "log": True},
            "learning_rate_vision": {"low": 0.03, "high": 3, "log": True},
        },
        "confirmation": {"top_k": 3, "seeds": 8, "perturbations": 3},
    }
)
PUBLISHED = {d.name: d.hyperparameters for d in SPACE.default_trials()} | {"mmd": mmd(10.0)}
ITEMS = 400


class Known:
    """Runs whose accuracy is `better` above 0.8 within the space, and as told for published settings."""

    def __init__(self, better: float, diverges: Sequence[str] = (), **published: float) -> None:
        self.better, self.diverges = better, diverges
        self.of = {own.model_dump_json(): published.get(name, 0.8) for name, own in PUBLISHED.items()}
        self.difficulty = np.random.default_rng(0).uniform(size=ITEMS)
        self.lost = {PUBLISHED[name].model_dump_json() for name in diverges}

    def outcome(self, config: Mapping[str, Any], seeds: Sequence[int]) -> Outcome:
        key = Hyperparameters.model_validate(config).model_dump_json()
        if key in self.lost:
            return Outcome([math.nan] * len(seeds))
        rate = self.of.get(key, 0.8 + self.better)
        own = np.random.default_rng(zlib.crc32(key.encode())).normal(0, 0.05, ITEMS)
        hits = np.stack([self.difficulty + own + np.random.default_rng(s).normal(0, 0.02, ITEMS) < rate for s in seeds])
        return Outcome(hits.mean(1).tolist(), [hits])

    def evaluate(self, settings: Mapping[str, Any], seeds: Sequence[int], stage: str) -> dict[str, list[float]]:
        return {label: list(self.outcome(config, seeds).scores) for label, config in settings.items()}

    def compare(self, a: Mapping[str, Any], b: Mapping[str, Any], seeds: Sequence[int], compared: int) -> Paired:
        return difference(self.outcome(a, seeds), self.outcome(b, seeds), [Items(ITEMS)], compared)

    def choice(self, count: int = 20) -> Choice:
        records = [self.trial(number) for number in range(count)]
        chosen = choose(
            SPACE,
            records,
            surface_of(SPACE, records),
            self.evaluate,
            list(range(100, 108)),
            PUBLISHED,
            self.compare,
        )
        assert chosen is not None
        return chosen

    def trial(self, number: int) -> TrialRecord:
        rng = np.random.default_rng(number)
        params = {name: float(10 ** rng.uniform(*np.log10([d.low, d.high]))) for name, d in SPACE.search.items()}
        config = SPACE.hyperparameters(params).model_dump(mode="json")
        values = self.outcome(config, [0, 1, 2]).scores
        score, mean, std = robust_score(values, 1, SPACE.robust)
        metrics = {"score": score, "score_mean": mean, "score_std": std, "seeds": 3.0}
        reports = (Report(60, 1.0, 1.0, metrics),)
        return TrialRecord(number, None, params, config, [0, 1, 2], 0.0, "completed", 60, score, reports=reports)


@pytest.mark.parametrize("best", ["paper_default", "default", "mmd"])
def test_the_best_published_setting_is_kept_where_none_is_shown_to_be_better(best: str) -> None:
    choice = Known(0.005, **{best: 0.81}).choice()
    assert choice.keeps_published and choice.chosen.label == best
    assert choice.published is choice.chosen and choice.compared == 20  # no plateau where all are alike
    assert choice.challenger is not None and not choice.challenger.published
    assert choice.difference is not None and choice.difference.low <= 0 < choice.difference.high
    assert {row["label"] for row in choice.as_json(1) if row["published"]} == set(PUBLISHED)
    assert [row["label"] for row in choice.as_json(1) if row["chosen"]] == [best]


def test_a_search_in_which_only_a_default_has_ended_keeps_a_published_setting() -> None:
    """As one whose time is over early: nothing was tried, so that nothing is the best of anything."""
    space = SPACE.model_copy(update={"fixed": {}})  # of which the default is a trial
    known, own = Known(0.0, default=0.81), PUBLISHED["default"]
    default = replace(known.trial(0), name="default", params=space.params_of(own), config=own.model_dump(mode="json"))
    choice = choose(space, [default], None, known.evaluate, list(range(100, 108)), PUBLISHED, known.compare)
    assert choice is not None and choice.keeps_published and choice.chosen.label == "default"
    assert choice.compared == 1  # of none, there is no simultaneous interval


def test_a_setting_that_is_shown_to_be_better_is_recommended() -> None:
    choice = Known(0.12).choice()
    assert not choice.keeps_published and choice.chosen is choice.challenger
    assert choice.difference is not None and choice.difference.low > 0
    behind = [c.label for c in choice.candidates if not c.tied]
    assert set(PUBLISHED) <= set(behind)


def test_what_diverges_is_neither_kept_nor_recommended() -> None:
    choice = Known(-0.2, diverges=["mmd"], paper_default=0.9).choice()
    assert choice.chosen.label == "paper_default"
    choice = Known(0.0, diverges=list(PUBLISHED)).choice()
    assert not choice.keeps_published and choice.difference is None


def test_a_published_setting_outside_of_the_space_mends_no_model_and_says_what_applies() -> None:
    choice = Known(0.0, mmd=0.85).choice()
    assert choice.chosen.label == "mmd"
    assert choice.chosen.params == {"lambda_cross": 0.0, "frequency_scale": None, "learning_rate_vision": 10.0}
    assert all(s.params["lambda_cross"] > 0 for s in measured(choice, SPACE))
    assert len(measured(choice, SPACE)) == sum(not c.published for c in choice.candidates)
    assert applied(PUBLISHED["paper_default"], ["lambda_joint", "scaling"]) == {
        "lambda_joint": 10.0,
        "scaling": "paper",
    }


def test_a_trial_that_is_a_published_setting_is_no_challenger() -> None:
    space = Space.model_validate({**SPACE.model_dump(mode="json"), "fixed": {}})
    known = Known(0.0)
    default = {d.name: d.hyperparameters for d in space.default_trials()}
    config = default["default"].model_dump(mode="json")
    record = known.trial(0)
    record = TrialRecord(
        1, "default", applied(default["default"], space.search), config, [0], 0.0, "completed", 60, 0.9,
        reports=record.reports,
    )  # fmt: skip
    choice = choose(space, [record], None, known.evaluate, [100, 101], default, known.compare)
    assert choice is not None and choice.challenger is None
    assert choice.chosen.published and choice.chosen.label in default
    assert PLATEAU not in {c.label for c in choice.candidates}
