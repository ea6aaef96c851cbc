"""`python -m condense evaluate`: what it compares, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from small_files import write_tensors
from small_run import refused

from condense.__main__ import main
from condense.evaluation import comparison, soft_labels
from condense.export.export import read_export, read_soft_labels


def test_evaluate_compares_under_three_protocols(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, scores = config.parent / "out", config.parent / "scores.json"
    assert main(["run", str(config), "--output", str(output)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(output), "--convnet-seeds", "2", "--json", str(scores)]) == 0
    printed = capsys.readouterr()
    rows = [line.split("  ")[0].strip() for line in printed.out.splitlines()[3:]]
    assert rows == ["condensed", "random (5 draws)", "herding", "k_center", "k_means", "full data (18 items)"]
    results = json.loads(scores.read_text())["results"]
    assert set(results) == {"condensed", "random", "herding", "k_center", "k_means", "full_data"}
    for method, of_protocol in results.items():
        assert of_protocol["convnet"]["n"] == 2
        assert of_protocol["probe"]["n"] == (5 if method == "random" else 1)
        assert all(0 <= of_protocol[protocol]["mean"] <= 1 for protocol in ("probe", "convnet", "retrieval"))
    assert results["full_data"]["probe"]["share"] == 1
    full = sorted((config.parent / "cache" / "convnet_full").glob("*.safetensors"))
    written = [path.stat().st_mtime_ns for path in full]
    assert len(full) == 2
    assert main(["evaluate", str(output), "--convnet-seeds", "2"]) == 0
    assert capsys.readouterr().out == printed.out
    assert [path.stat().st_mtime_ns for path in full] == written  # read, not trained again


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers and students take three steps."""
    train = comparison.train_from_scratch

    def short(*given: Any, **keys: Any) -> Any:
        return train(*given, **{**keys, "steps": 3})

    for module in (comparison, soft_labels):
        monkeypatch.setattr(module, "train_from_scratch", short)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["probe", "convnet"])
def test_soft_labels_from_run_to_evaluate(config: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    hard, output, scores = config.parent / "hard", config.parent / "out", config.parent / "scores.json"
    assert main(["run", str(config), "--output", str(hard)]) == 0
    assert main(["run", str(config), "--output", str(output), "--set", f"soft_labels={kind}"]) == 0
    torch.testing.assert_close(read_export(output)[:2], read_export(hard)[:2], atol=0, rtol=0)  # labels, not items
    assert read_soft_labels(hard) is None
    labels = read_soft_labels(output)
    assert labels is not None
    assert labels.shape == (6, 3)
    record = read_export(output)[2]
    assert record["config"]["soft_labels"] == record["soft_labels"]["teacher"] == kind
    temperature = record["soft_labels"]["temperature"]
    capsys.readouterr()
    assert main(["evaluate", str(output), "--convnet-seeds", "1", "--json", str(scores)]) == 0
    printed = capsys.readouterr().out
    assert f"soft labels by the full data's {kind}, temperature {temperature:g}" in printed
    methods = ["condensed", "random", "herding", "k_center", "k_means"]
    content = json.loads(scores.read_text())
    assert content["soft_labels"] == record["soft_labels"]
    assert list(content["results"]) == [*[row for m in methods for row in (m, f"{m} + soft")], "full_data"]
    assert 0 <= content["results"]["condensed + soft"]["retrieval"]["mean"] <= 1

    # The labels in the file count, not what the teacher would say of the items.
    path = output / "condensed.safetensors"
    of_class_0 = torch.eye(3)[:1].repeat(6, 1)
    safetensors.torch.save_file({**safetensors.torch.load_file(path), "soft_label": of_class_0}, path)
    assert main(["evaluate", str(output), "--convnet-seeds", "0", "--json", str(scores)]) == 0
    found = json.loads(scores.read_text())["results"]
    assert found["condensed + soft"]["probe"]["mean"] == pytest.approx(1 / 3)
    assert found["condensed"] == {**content["results"]["condensed"], "convnet": None}
    assert found["random + soft"]["probe"] == content["results"]["random + soft"]["probe"]

    for change in ({"teacher": "parrot"}, {"temperature": 0}, {"temperature": "warm"}, {"steps": "many"}):
        damaged = {**record, "soft_labels": {**record["soft_labels"], **change}}
        (output / "condensed.json").write_text(json.dumps(damaged))
        assert "must hold `soft_labels`" in refused(capsys, "evaluate", output)


def test_evaluate_without_convnets(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, scores = config.parent / "out", config.parent / "scores.json"
    assert main(["run", str(config), "--output", str(output)]) == 0
    assert main(["evaluate", str(output), "--convnet-seeds", "0", "--json", str(scores)]) == 0
    assert json.loads(scores.read_text())["results"]["condensed"]["convnet"] is None
    assert json.loads(scores.read_text())["protocol"] is None


def test_inputs_that_no_convnet_takes_are_told_before_the_work(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Feature vectors that are prepared, through an encoder of one's own."""
    folder = config.parent
    generator = torch.Generator().manual_seed(0)
    content = {}
    for split in ("train", "test"):
        content[f"{split}/label"] = torch.arange(20) % 2
        content[f"{split}/vision"] = torch.rand(20, 6, generator=generator)
    safetensors.torch.save_file(content, folder / "flat.safetensors")
    (folder / "flat.py").write_text(
        "import torch\nfrom condense.inputs.spec import ArraySpec\n\n"
        "class Flat(torch.nn.Module):\n"
        "    specs, dim, output_scale, fingerprint = {}, 6, {'vision': 1.0}, 'flat'\n"
        "    def embed(self, modality, x): return torch.nn.functional.normalize(x, dim=1)\n\n"
        "def specs(options): return {'vision': ArraySpec('vision', (6,), 0.0, 1.0)}\n"
        "def build(options, dataset): return Flat()\n"
    )
    flat = {
        "dataset": {"name": "tensors", "path": "flat.safetensors"},
        "encoder": {"name": "python", "path": "flat.py"},
    }
    (folder / "flat.yaml").write_text(yaml.safe_dump({**flat, "steps": 2}))
    output = folder / "flat"
    soft = ["--set", "soft_labels=convnet"]
    assert "use `soft_labels: probe`" in refused(capsys, "run", folder / "flat.yaml", "--output", output, *soft)
    assert main(["run", str(folder / "flat.yaml"), "--output", str(output)]) == 0
    assert "vision: a ConvNet takes items of 2 or 3 dimensions" in refused(capsys, "evaluate", output)
    assert main(["evaluate", str(output), "--convnet-seeds", "0"]) == 0


def test_damaged_exports_are_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = config.parent / "out"
    assert "is not a condensed dataset" in refused(capsys, "evaluate", output)
    assert main(["run", str(config), "--output", str(output)]) == 0
    assert "cannot be written" in refused(capsys, "evaluate", output, "--json", config / "scores.json")

    record_path, tensors_path = output / "condensed.json", output / "condensed.safetensors"
    whole, tensors = json.loads(record_path.read_text()), tensors_path.read_bytes()
    for key in ("config", "fingerprints"):
        record_path.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        assert f"must hold `{key}`" in refused(capsys, "evaluate", output)
    record_path.write_text(json.dumps({**whole, "config": {**whole["config"], "dpc": 0}}))
    assert "condensed.json, `config`: `dpc`: " in refused(capsys, "evaluate", output)
    record_path.write_text("{")
    assert "is not valid JSON" in refused(capsys, "evaluate", output)
    record_path.write_text(json.dumps(whole))
    tensors_path.write_bytes(tensors[:-10])
    assert "cannot be read as safetensors" in refused(capsys, "evaluate", output)


def test_other_data_than_was_condensed_is_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = config.parent / "out"
    assert main(["run", str(config), "--output", str(output)]) == 0
    write_tensors(config.parent / "data.safetensors", seed=1)
    assert "have changed since this was condensed" in refused(capsys, "evaluate", output)


def test_another_encoder_is_warned_of(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = config.parent / "out"
    assert main(["run", str(config), "--output", str(output)]) == 0
    path = output / "condensed.json"
    record = json.loads(path.read_text())
    record["fingerprints"]["encoder"] = "another"
    path.write_text(json.dumps(record))
    capsys.readouterr()
    assert main(["evaluate", str(output), "--convnet-seeds", "0"]) == 0
    assert "warning: " in capsys.readouterr().err


def test_moved_data_are_found_by_their_key(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = config.parent / "out"
    assert main(["run", str(config), "--output", str(output)]) == 0
    data = Path(read_export(output)[2]["config"]["dataset"]["path"])
    elsewhere = data.parent / "elsewhere"
    elsewhere.mkdir()
    moved = data.rename(elsewhere / data.name)
    asked = ["evaluate", str(output), "--convnet-seeds", "0"]
    assert str(data) in refused(capsys, *asked)
    capsys.readouterr()
    assert main([*asked, "--set", f"dataset.path={moved}"]) == 0
    write_tensors(moved, seed=1)
    assert "have changed since this was condensed" in refused(capsys, *asked, "--set", f"dataset.path={moved}")
    assert "unknown key `dataset.place`" in refused(capsys, *asked, "--set", f"dataset.place={moved}")


def test_unbalanced_classes_are_scored_beside_their_base_rate(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output, scores = config.parent / "data.safetensors", config.parent / "out", config.parent / "scores.json"
    write_tensors(data)
    tensors = safetensors.torch.load_file(data)
    kept = torch.tensor([i for i, label in enumerate(tensors["test/label"].tolist()) if label == 0 or i == 1])
    kept = kept.repeat_interleave(torch.where(tensors["test/label"][kept] == 0, 6, 1))  # 24 of 0, one of 1, none of 2
    for key in [key for key in tensors if key.startswith("test/")]:
        tensors[key] = tensors[key][kept].clone()
    safetensors.torch.save_file(tensors, data)
    assert main(["run", str(config), "--output", str(output)]) == 0
    assert "test has no item of 1 of 3 classes ('2')" in capsys.readouterr().err
    assert main(["evaluate", str(output), "--convnet-seeds", "0", "--json", str(scores)]) == 0
    printed = capsys.readouterr().out
    assert "  balanced  of full" in printed
    assert "always answering '0': 96.0 %" in printed
    for of in json.loads(scores.read_text())["results"].values():
        right_of_0, right_of_1 = of["balanced"]["values"][0] * 2 - 1, 1  # the one item of 1 is right, or it is not
        by_hand = {(24 * right_of_0 + right_of_1) / 25, 24 * of["balanced"]["values"][0] * 2 / 25}
        assert min(abs(of["probe"]["values"][0] - each) for each in by_hand) < 1e-6
