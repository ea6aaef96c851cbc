"""A whole search over sensors with the user's own names, each with a learning rate of its own, in data with groups."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from search_process import SearchProcess
from small_search import ENCODER, SMALL

from condense.system.errors import UserError
from search.preflight import check_data
from search.space.files import load_space

SENSORS = ("accelerometer", "gyroscope")
RATE = {"low": 0.03, "high": 3, "log": True}


def write_space(folder: Path, search: dict[str, Any], fixed: dict[str, Any] | None = None) -> Path:
    generator = torch.Generator().manual_seed(0)
    patterns = {m: 9.81 * torch.randn(3, 2, 16, generator=generator) for m in SENSORS}
    content = {}
    for split, count in (("train", 40), ("test", 20)):
        labels = torch.arange(3).repeat(count)
        content[f"{split}/label"] = labels
        content[f"{split}/group"] = torch.arange(len(labels)) // 12 + (7 if split == "test" else 0)
        for m, pattern in patterns.items():
            content[f"{split}/{m}"] = pattern[labels] + 9 * torch.randn(len(labels), 2, 16, generator=generator)
    kinds = {m: {"kind": "series", "rate": 50} for m in SENSORS}
    safetensors.torch.save_file(content, folder / "data.safetensors", {"modalities": json.dumps(kinds)})
    task = {"dataset": {"name": "tensors", "path": "data.safetensors"}, "encoder": ENCODER, "dpc": 1}
    space = {**SMALL, "name": "sensors", "tasks": [task], "search": search, "trials": 4}
    space["fixed"] = {**SMALL["fixed"], **(fixed or {})}
    space["confirmation"] = {"top_k": 1, "seeds": 2, "perturbations": 1, "reported_perturbations": 1, "tuned_rates": 1}
    (folder / "sensors.yaml").write_text(yaml.safe_dump(space))
    return folder / "sensors.yaml"


@pytest.mark.faults  # a variant
def test_a_search_over_named_sensors(tmp_path: Path) -> None:
    write_space(tmp_path, {f"learning_rate_{m}": RATE for m in SENSORS})
    search = SearchProcess(tmp_path, "--space", "sensors.yaml", "--output", "out")
    assert search.finish() == 0, search.said()
    assert "data.safetensors (accelerometer, gyroscope)" in search.said()
    assert re.search(
        r"warning: .*data.safetensors: of 12 groups \d in both train and test", " ".join(search.said().split())
    )
    assert yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())["hyperparameters"]
    with (tmp_path / "out" / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row[f"learning_rate_{m}"]) > 0 for row in rows for m in SENSORS)
    assert "learning_rate_gyroscope" in (tmp_path / "out" / "report.html").read_text()
    assert list((tmp_path / "out" / "condensed" / "previews").glob("*_gyroscope.png"))


@pytest.mark.parametrize("group", ["search", "fixed"])
def test_a_learning_rate_of_a_sensor_that_is_not_there(tmp_path: Path, group: str) -> None:
    rates = {"learning_rate_accelerometer": RATE}
    if group == "search":
        path = write_space(tmp_path, rates | {"learning_rate_gyro": RATE})
    else:
        path = write_space(tmp_path, rates, {"learning_rate_gyro": 0.1})
    with pytest.raises(UserError) as caught:
        check_data(load_space(str(path)))
    assert str(caught.value) == (
        f"{group}.learning_rate_gyro: no task has the modality 'gyro' (there are: accelerometer, gyroscope)"
    )
