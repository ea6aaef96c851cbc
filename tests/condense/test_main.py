"""The commands, from the configuration to what they print and leave."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import refused, write_config

from condense import api, commands, single_run
from condense.__main__ import main
from condense.config.files import load_config
from condense.data import tensor_items
from condense.evaluation.comparison import Sample, as_json, share_of
from condense.export.export import read_export
from condense.system.errors import UserError


def test_run_exports_what_it_says(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = config.parent / "new" / "out"
    assert main(["run", str(config), "--output", str(output), "--set", "seed=5"]) == 0
    printed = capsys.readouterr()
    assert "step 4/4" in printed.err
    assert "of full data" in printed.err
    assert f"python -m condense evaluate {output}" in printed.out
    inputs, labels, record = read_export(output)
    assert inputs["vision"].shape == (6, 1, 8, 8)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (record["steps"], record["seed"], record["config"]["seed"]) == (4, 5, 5)
    assert set(record["fingerprints"]) == {"dataset", "encoder"}
    assert set(record["loss"]["start"]) == {"uni", "cross", "joint", "total"}
    assert 0 <= record["validation"]["accuracy"] <= 1
    assert record["validation"]["share"] == pytest.approx(
        record["validation"]["accuracy"] / record["validation"]["full_data"]
    )
    assert (output / "overview.png").is_file()


def test_run_says_how_start_and_end_score(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On stdout, and in condensation.json with what lies between."""
    output = config.parent / "out"
    assert main(["run", str(config), "--output", str(output), "--set", "hyperparameters.learning_rate=0.01"]) == 0
    printed, course = capsys.readouterr(), json.loads((output / "condensation.json").read_text())
    shown = [
        f"{100 * course[at]:.1f} % ({100 * course[share]:.1f} % of full data)"
        for at, share in (("start", "start_share"), ("final", "final_share"))
    ]
    assert printed.out.splitlines()[:2] == [f"start    validation {shown[0]}", f"end      validation {shown[1]}"]
    record = read_export(output)[2]
    assert set(course) == {
        *("start", "final", "full", "metric", "start_share", "final_share"),
        *("steps", "seed", "seconds", "scores", "losses"),
    }
    assert (course["final"], course["full"]) == (record["validation"]["accuracy"], record["validation"]["full_data"])
    assert course["start_share"] == pytest.approx(course["start"] / course["full"])
    assert (course["metric"], course["steps"], course["seed"]) == ("accuracy", 4, 0)
    assert course["seconds"] == record["seconds"]
    assert [score["step"] for score in course["scores"]] == [0, 1, 2, 3, 4]
    assert course["scores"][0] == {"step": 0, "score": course["start"], "share": course["start_share"]}
    assert course["scores"][-1] == {"step": 4, "score": course["final"], "share": course["final_share"]}
    assert {name: len(losses) for name, losses in course["losses"].items()} == dict.fromkeys(
        ("uni", "cross", "joint", "total"), 4
    )
    assert {name: losses[0] for name, losses in course["losses"].items()} == record["loss"]["start"]
    assert {name: losses[-1] for name, losses in course["losses"].items()} == record["loss"]["end"]


def test_a_result_below_its_start_is_warned_of(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warned(*scores: float) -> list[str]:
        given = iter(scores)
        monkeypatch.setattr(single_run, "validation_scores", lambda replicas: [next(given)])
        assert main(["run", str(config), "--output", str(config.parent / "out"), "--set", "steps=2"]) == 0
        return [line for line in capsys.readouterr().err.splitlines() if "below its start" in line]

    assert warned(0.9, 0.2, 0.75) == [
        "warning: the result scores below its start (75.0 % < 90.0 %): "
        "try a lower learning rate, fewer steps or another setting"
    ]
    assert warned(0.9, 0.2, 0.9) == []


def test_a_course_is_finite_json(config: Path) -> None:
    assert [api.finite(x) for x in (0.5, None, math.nan, -math.inf)] == [0.5, None, None, None]
    assert main(["run", str(config), "--output", str(config.parent / "out"), "--set", "steps=0"]) == 0
    course = json.loads((config.parent / "out" / "condensation.json").read_text())
    assert course["start"] == course["final"]
    assert course["losses"] == {"uni": [], "cross": [], "joint": [], "total": []}


def test_a_device_is_asked_for(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    run = ("run", config, "--output", config.parent / "out")
    for command in (run, ("embed", config)):
        line = refused(capsys, *command, "--device", "cuda:1")
        assert line == "error: device cuda:1 is not there: PyTorch finds only cuda:0"
        assert "device must be cpu, cuda or cuda:N, but got 'tpu'" in refused(capsys, *command, "--device", "tpu")
    assert main([str(argument) for argument in (*run, "--device", "cpu")]) == 0  # not the GPU that is there
    assert read_export(config.parent / "out")[2]["device"] == "cpu"


def test_the_same_run_twice_is_the_same(config: Path) -> None:
    outputs = [config.parent / name for name in ("a", "b")]
    for output in outputs:
        assert main(["run", str(config), "--output", str(output)]) == 0
    first, second = (read_export(output)[0] for output in outputs)
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_no_steps_export_the_start(config: Path) -> None:
    assert main(["run", str(config), "--output", str(config.parent / "out"), "--set", "steps=0"]) == 0
    record = read_export(config.parent / "out")[2]
    assert record["loss"] == {"start": None, "end": None}


def test_a_rate_that_nothing_reads_is_warned_of(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(config.parent / "out")
    assert main(["run", str(config), "--output", output, "--set", "hyperparameters.learning_rate_text=3"]) == 0
    assert "warning: hyperparameters.learning_rate_text has no effect: the data has no text" in capsys.readouterr().err


def test_towers_that_were_never_aligned_are_warned_of(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(config), "--output", str(config.parent / "out")]) == 0
    lines = capsys.readouterr().err.splitlines()
    warned = [
        i for i, line in enumerate(lines) if line.startswith("warning: vision and audio embeddings are not aligned")
    ]
    assert len(warned) == 1
    assert warned[0] < next(i for i, line in enumerate(lines) if "step 0/4" in line)


def test_a_loss_that_is_not_finite_exports_nothing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = config.parent / "out"
    arguments = ["run", str(config), "--output", str(output), "--set", "hyperparameters.lambda_joint=3e38"]
    assert main([*arguments, "--set", "hyperparameters.lambda_cross=3e38"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: the total loss is not finite at step 1: ")
    assert not output.exists()


def test_embed_says_what_was_there(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("computed in", "found"):
        assert main(["embed", str(config)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split("(")[1].split(",")[0] for line in lines[:3]] == ["condense", "validation", "test"]
        assert all(word in line for line in lines[:3])


def test_a_manifest_of_files_one_modality_works_from_end_to_end(tmp_path: Path, config: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["split,label,vision"]
    for split, count in (("train", 4), ("validation", 2), ("test", 2)):
        for label in ("dark", "bright"):
            for i in range(count):
                name = f"{split}_{label}_{i}.png"
                low = 0 if label == "dark" else 128
                Image.fromarray(rng.integers(low, low + 100, (8, 8), dtype=np.uint8)).save(tmp_path / name)
                lines.append(f"{split},{label},{name}")
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    path = write_config(tmp_path, dataset={"name": "manifest", "path": "mine.csv"})
    scores = tmp_path / "scores.json"
    assert main(["run", str(path), "--output", str(tmp_path / "out")]) == 0
    assert main(["evaluate", str(tmp_path / "out"), "--convnet-seeds", "1", "--json", str(scores)]) == 0
    results = json.loads(scores.read_text())["results"]
    assert results["condensed"]["retrieval"] is None  # one modality has no pairs


def test_verify_reads_the_data_anew(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSE_VERIFY", "")
    data = config.parent / "data.safetensors"
    os.utime(data, (1.6e9, 1.6e9))
    seen: list[Path] = []
    own = tensor_items.measured_items
    monkeypatch.setattr(tensor_items, "measured_items", lambda path, *given: seen.append(path) or own(path, *given))
    for options, read in (([], 1), ([], 1), (["--verify"], 2)):
        assert main(["embed", str(config), *options]) == 0
        assert seen == [data] * read


def test_a_user_s_mistake_is_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = config.parent
    run = ("run", config, "--output", folder / "out")
    assert "`soft_labels`: Input should be 'none'" in refused(capsys, *run, "--set", "soft_labels=yes")
    assert "unknown key `stepz`" in refused(capsys, *run, "--set", "stepz=1")
    assert "unknown key `hyperparameters.sigma`" in refused(capsys, *run, "--set", "hyperparameters.sigma=1")
    assert "must be key=value" in refused(capsys, *run, "--set", "steps")
    assert "`dpc` is 2, which has no keys" in refused(capsys, *run, "--set", "dpc.x=1")
    assert "`seed`: Input should be less than" in refused(capsys, *run, "--set", f"seed={2**64}")
    assert "class '0' has 6 items to condense, but dpc is 7" in refused(capsys, *run, "--set", "dpc=7")
    assert "nowhere.yaml: cannot be read" in refused(capsys, "run", folder / "nowhere.yaml", "--output", folder / "out")
    assert "no such file" in refused(capsys, *run, "--set", f"dataset.path={folder / 'none.safetensors'}")
    assert "holds other files" in refused(capsys, "run", config, "--output", folder)
    assert "cannot be written" in refused(capsys, "run", config, "--output", config / "out")
    assert "must be a folder" in refused(capsys, "run", config, "--output", config)
    assert not (folder / "out").exists()


def test_bad_output_is_refused_before_any_work(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, "run", config, "--output", config / "out")
    assert not (config.parent / "cache").exists()


def test_a_cache_that_cannot_be_written(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDENSE_CACHE", str(config / "cache"))
    assert "($CONDENSE_CACHE) cannot be written" in refused(capsys, "embed", config)


def test_paths_are_relative_to_where_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    path = write_config(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    in_file = load_config(path.relative_to(tmp_path))
    on_command_line = load_config(path, ["dataset.path=data/data.safetensors"])
    assert in_file.model_dump()["dataset"]["path"] == tmp_path / "data" / "data.safetensors"
    assert on_command_line == in_file
    with pytest.raises(UserError, match="is not valid YAML"):
        load_config(path, ["dpc=["])
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "data.safetensors").symlink_to(tmp_path / "data" / "data.safetensors")
    linked = load_config(path, ["dataset.path=linked/../linked/data.safetensors"])  # what it names is beside the link
    assert linked.model_dump()["dataset"]["path"] == tmp_path / "linked" / "data.safetensors"


def test_samples_keep_what_is_not_finite_apart() -> None:
    assert Sample((0.5,)).std == 0
    assert Sample((0.5, 0.7)).std == pytest.approx(0.2 / math.sqrt(2))
    assert Sample((0.5, math.nan)).as_json() == {"mean": None, "std": None, "n": 2, "values": [0.5, None]}
    assert share_of(0.5, 0.0) is None
    nothing = Sample(())
    full = {"probe": Sample((0.8,)), "convnet": nothing, "retrieval": nothing}
    found = as_json({"mine": {**full, "probe": Sample((0.4,))}, "full_data": full})
    assert found["mine"]["probe"]["share"] == pytest.approx(0.5)
    assert found["mine"]["convnet"] is None


def test_help_and_mistakes_as_a_user_meets_them(tmp_path: Path) -> None:
    def condense(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CONDENSE_CACHE": str(tmp_path / "cache"), "COLUMNS": "120"}
        command = [sys.executable, "-m", "condense", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    shown = condense("--help")
    assert shown.returncode == 0
    assert all(f"\n    {command}  " in shown.stdout for command in ("run     ", "evaluate", "embed   "))
    wrong = condense("condence")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    missing = condense("embed", str(tmp_path / "none.yaml"))
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert missing.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "out/synthetic"),
            "no space is left on the disk of out/synthetic",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "out of memory even with the smallest batches",
        ),
        (MemoryError(), "out of memory"),
    ],
)
def test_what_runs_out_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    def fail(*_: Any) -> int:
        raise error

    monkeypatch.setattr(commands, "run", fail)
    assert main(["run", str(write_config(tmp_path)), "--output", str(tmp_path / "out")]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {line}")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), FileNotFoundError("a bug")])
def test_a_bug_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any) -> int:
        raise error

    monkeypatch.setattr(commands, "run", fail)
    with pytest.raises(type(error), match="a bug"):
        main(["run", str(write_config(tmp_path)), "--output", str(tmp_path / "out")])
