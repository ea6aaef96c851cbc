"""The grid: the best few of each learning rate are judged by both protocols, and the best verdict is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from test_accuracy import ROOT, write_problem

from condense.config.models import CondensationConfig
from condense.embeddings.task import load_task
from condense.evaluation.comparison import Comparison
from condense.storage.store import Store


def test_what_both_protocols_judge_best_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import choose_settings

    monkeypatch.setattr(choose_settings, "RATES", (1.0, 10.0))
    monkeypatch.setattr(choose_settings, "SCALES", (0.4,))
    monkeypatch.setattr(choose_settings, "LAMBDAS", (0.02, 0.2, 1.0))
    monkeypatch.chdir(tmp_path)
    problem = yaml.safe_load(write_problem(tmp_path).read_text()) | {"steps": 3}
    config = CondensationConfig.model_validate(problem)
    store = Store(tmp_path / "store")
    task = load_task(config, store, torch.device("cpu"))
    validation = Comparison(task, store, convnet_steps=3, held_out="validation")
    chosen, table = choose_settings.choose(config, validation)
    assert [row["learning_rate"] for row in table] == [1.0, 1.0, 10.0, 10.0]  # two finalists of each
    best = max(table, key=lambda row: row["value"])
    for key in ("learning_rate", "frequency_scale", "lambda_cross"):
        assert getattr(chosen, key) == best[key]
    for row in table:
        assert row["value"] == pytest.approx((row["probe"] + row["convnet"]) / 2) and 0 <= row["value"] <= 1
