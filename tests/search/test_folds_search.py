"""A whole search with folds: what it runs, what it says, what it leaves behind, and that it can be resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from search_process import SearchProcess, has_run, near, report, table
from small_search import NO_CONFIRMATION, ONE_AT_A_TIME, small_tensors

from condense.config.models import CondensationConfig, read_yaml, validate
from search.report.model import Report

pytestmark = pytest.mark.faults
CONFIRMATION = {**NO_CONFIRMATION, "perturbations": 1, "reported_perturbations": 1}


@pytest.fixture
def space(tmp_path: Path, write_space: Callable[..., Path]) -> Path:
    """Two folds of twelve groups, racing."""
    tensors = small_tensors()
    tensors["train/group"] = torch.arange(len(tensors["train/label"])) // 3 % 12
    tensors["test/group"] = 12 + torch.arange(len(tensors["test/label"])) % 4
    safetensors.torch.save_file(tensors, tmp_path / "grouped.safetensors")
    encoder = {"name": "tiny", "epochs": 1, "width": 4, "dim": 8, "image_size": 8}
    task = {"dataset": {"name": "tensors", "path": "grouped.safetensors"}, "encoder": encoder, "dpc": 1}
    changes: dict[str, Any] = {"validation": {"folds": 2}, "racing": {}, "confirmation": CONFIRMATION, "tasks": [task]}
    return write_space(tmp_path, **{**ONE_AT_A_TIME, "trials": 6}, **changes, scheduler="none")


def test_a_search_with_folds_is_resumed_and_reports_on_the_users_task(
    tmp_path: Path, space: Path, start: Callable[..., SearchProcess]
) -> None:
    dry = start("--space", space, "--output", tmp_path / "out", "--dry-run")
    assert dry.finish() == 0, dry.said()
    assert "# 2 folds: up to 144 replica-steps of trials" in dry.said()

    whole = start("--space", space, "--output", tmp_path / "whole")
    assert whole.finish() == 0, whole.said()
    assert "6 trials x 2 seeds x 2 folds" in whole.said()
    assert "validation: 2 folds by group of 60, 60 items" in whole.said()
    assert "over seeds and groups, in 2 folds)" in " ".join(whole.said().split())

    killed = start("--space", space, "--output", tmp_path / "out")
    killed.until(lambda: has_run(tmp_path / "out", "choosing"))
    killed.kill()
    resumed = start("--space", space, "--output", tmp_path / "out", "--resume")
    assert resumed.finish() == 0, resumed.said()

    here, there = report(tmp_path / "out"), report(tmp_path / "whole")
    for key in ("trials", "recommended", "confirmation", "test", "verdict", "racing"):
        assert near(here[key], there[key]), key  # log-losses but for rounding
    assert here["validation"] == {"groups": 12, "by": "group", "folds": 2}
    (task,) = here["tasks"]
    assert task["items"]["condense"] + task["items"]["validation"] == 120 and task["items"]["validation"] < 60
    assert here["transfer"] is None and "tasks" not in here["confirmation"]["recommended"]
    assert here["space"]["validation"] == {"folds": 2, "by": None} and here["space"]["tasks"][0]["fold"] is None
    assert here["racing"]["full"] == 6 * 2 * 2 * 6
    assert Report.load(tmp_path / "out").validation is not None

    (first, *_) = (row for row in table(tmp_path / "out") if row["status"] == "completed")
    assert {f"accuracy/fold_{fold}/seed_0" for fold in range(2)} <= first.keys()
    best = validate(CondensationConfig, read_yaml(tmp_path / "out" / "best.yaml"), "best.yaml")
    assert best.fold is None and "fold" not in read_yaml(tmp_path / "out" / "best.yaml")
    assert not (tmp_path / "out" / "best_task_1.yaml").exists()
    assert (tmp_path / "out" / "condensed" / "overview.png").exists()

    another = start("--space", space, "--output", tmp_path / "out", "--resume", "--set", "validation=null")
    assert another.finish() == 2 and "holds another search: `validation` is" in another.said()
