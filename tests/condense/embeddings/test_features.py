"""`synthesize: features`: features as items, heads as the encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_run import refused, write_config

from condense.__main__ import main
from condense.config.files import load_config
from condense.config.models import CondensationConfig
from condense.embeddings.task import Task, load_task, load_test, task_key
from condense.export.nearest import nearest_items
from condense.storage.store import Store

FROZEN = """
import torch
from condense.inputs.spec import ImageSpec

def spec(options):
    return ImageSpec.of("vision", 1, 8, (0.5,), (0.5,))

def build(options):
    weight = torch.randn(64, 12, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 1, 12)
    return lambda x: (x.flatten(1) @ weight).tanh() * 3 + 1
"""
WIDTHS = {"vision": 12, "audio": 10}


def aligned(folder: Path) -> dict[str, Any]:
    """A frozen tower from a file, and one that is trained with its head."""
    (folder / "tower.py").write_text(FROZEN)
    vision = {"kind": "python", "path": str(folder / "tower.py")}
    return {
        "name": "aligned",
        "towers": {"vision": vision, "audio": {"kind": "tiny", "dim": 10, "width": 4}},
        "dim": 6,
        "epochs": 2,
    }


@pytest.fixture
def config(tmp_path: Path) -> CondensationConfig:
    return load_config(write_config(tmp_path, encoder=aligned(tmp_path), synthesize="features"))


@pytest.fixture
def tasks(config: CondensationConfig, tmp_path: Path) -> tuple[Task, Task]:
    """Of features, and of inputs."""
    store = Store(tmp_path / "store")
    of_inputs = config.model_copy(update={"synthesize": "inputs"})
    assert task_key(config) != task_key(of_inputs)
    return load_task(config, store, torch.device("cpu")), load_task(of_inputs, store, torch.device("cpu"))


def test_features_and_inputs_have_the_same_embeddings(tasks: tuple[Task, Task], tmp_path: Path) -> None:
    features, inputs = tasks
    store = Store(tmp_path / "store")
    for m in inputs.modalities:
        for own, other in (
            (features.condense, inputs.condense),
            (features.validation, inputs.validation),
            (load_test(features, store), load_test(inputs, store)),
        ):
            torch.testing.assert_close(own.embeddings[m], other.embeddings[m], rtol=1e-4, atol=1e-5)
            assert torch.equal(own.labels, other.labels)


def test_features_of_a_frozen_tower_are_standardised_and_all_lie_inside_their_bounds(tasks: tuple[Task, Task]) -> None:
    dataset = tasks[0].dataset
    for m, x in dataset.condense.load(range(len(dataset.condense))).items():
        spec = dataset.specs[m]
        assert x.shape[1:] == spec.shape == (WIDTHS[m],)
        assert spec.low < float(x.min())
        assert spec.high > float(x.max())
        if m == "vision":
            torch.testing.assert_close(x.std(0, correction=0), torch.ones(12), rtol=1e-3, atol=1e-3)
            assert x.mean(0).abs().max() < 1e-3


def test_a_real_item_is_nearest_to_its_own_features(tasks: tuple[Task, Task]) -> None:
    features, inputs = tasks
    chosen = torch.tensor([5, 0, 3])
    source, items, found = nearest_items(features.dataset, features.dataset.condense.load(chosen))
    assert source.fingerprint == inputs.dataset.fingerprint
    real = inputs.dataset.condense.load(chosen)
    for m in features.modalities:
        assert torch.equal(found[m], chosen)
        assert torch.equal(items[m], real[m])


def test_a_run_exports_raw_features_and_shows_real_items(
    config: CondensationConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "condensed"
    assert main(["run", str(tmp_path / "config.yaml"), "--output", str(output), "--set", "steps=3"]) == 0
    standardised, raw = load_file(output / "condensed.safetensors"), load_file(output / "features.safetensors")
    assert {m: x.shape[1] for m, x in raw.items() if m != "label"} == {"vision": 12, "audio": 10}
    assert not torch.allclose(standardised["vision"], raw["vision"])
    assert {path.suffix for path in (output / "previews").iterdir()} == {".png"}
    assert (output / "overview.png").exists()
    scores = tmp_path / "scores.json"
    assert main(["evaluate", str(output), "--json", str(scores)]) == 0
    assert "ConvNets take inputs, not features" in capsys.readouterr().err
    results = json.loads(scores.read_text())
    assert "condensed" in json.dumps(results)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoder": {"name": "tiny"}}, "needs an encoder of towers and heads"),
        ({"encoders": [{"name": "tiny"}]}, "must not be given together with `encoders`"),
        ({"hyperparameters": {"views": 2}}, "needs `views: 0` and `formation: 1`"),
        ({"hyperparameters": {"formation": 2}}, "needs `views: 0` and `formation: 1`"),
    ],
)
def test_what_features_do_not_go_with_is_one_line(
    changes: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, **{"encoder": aligned(tmp_path), "synthesize": "features", **changes})
    assert told in refused(capsys, "run", path, "--output", tmp_path / "out")
