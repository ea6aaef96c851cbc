"""What a notebook does: `import condense`, from any thread, the same result as the command."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_files import CLASSES, ENCODER, HYPERPARAMETERS, write_tensors

import condense
from condense.__main__ import main
from condense.evaluation import comparison, soft_labels
from condense.export.export import read_export, read_soft_labels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.safetensors"
    write_tensors(path)
    return path


@pytest.fixture(scope="module")
def task(data: Path) -> condense.LoadedTask:
    return condense.load_task(
        dataset={"name": "tensors", "path": str(data)}, encoder=ENCODER, dpc=2, cache=data.parent / "cache"
    )


def test_importing_it_is_light_and_all_names_are_there() -> None:
    program = (
        "import sys, condense; assert 'torch' not in sys.modules; [getattr(condense, n) for n in condense.__all__]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert set(condense.__all__) <= set(dir(condense))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = condense.nothing  # type: ignore[attr-defined]


def test_a_run_has_items_labels_losses_and_scores(task: condense.LoadedTask) -> None:
    assert task.modalities == ("vision", "audio")
    assert len(task.class_names) == CLASSES
    result = condense.run(task, {"lambda_cross": 0, "lambda_joint": 0, "learning_rate": 0.01}, seed=1, steps=12)
    assert result.items["vision"].shape == (2 * CLASSES, 1, 8, 8)
    assert result.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert list(result.losses.columns) == ["uni", "cross", "joint", "total"]
    assert result.losses.index.tolist() == list(range(1, 13))
    assert result.losses.total.iloc[-1] < result.losses.total.iloc[0]
    assert result.scores.index.tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert result.score == result.scores.score.iloc[-1]
    assert result.share == pytest.approx(result.score / task.full_score)


def test_it_is_the_same_run_as_the_commands(task: condense.LoadedTask, data: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"dpc": 2, "steps": 4, "seed": 3, "hyperparameters": HYPERPARAMETERS}
    config = {"dataset": {"name": "tensors", "path": str(data)}, "encoder": ENCODER, **keys}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["run", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "command")]) == 0
    result = condense.run(task, HYPERPARAMETERS, seed=3, steps=4)
    assert result.save(tmp_path / "api") == tmp_path / "api"
    here, there = read_export(tmp_path / "api"), read_export(tmp_path / "command")
    torch.testing.assert_close(here[:2], there[:2], atol=0, rtol=0)
    courses = [json.loads((tmp_path / name / "condensation.json").read_text()) for name in ("api", "command")]
    for record in (here[2], there[2], *courses):
        del record["seconds"]
    assert here[2] == there[2]
    assert courses[0] == courses[1]


def test_soft_labels_stand_beside_hard_ones(
    task: condense.LoadedTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = functools.partial(soft_labels.with_best_temperature, steps=3, students=1)
    monkeypatch.setattr("condense.api.with_best_temperature", choose)
    plain = condense.run(task, HYPERPARAMETERS, seed=3, steps=2)
    soft = plain.with_soft_labels("probe")
    assert soft.soft_labels is not None
    assert soft.soft_labels.shape == (2 * CLASSES, CLASSES)
    assert plain.soft_labels is None
    assert soft.items is plain.items
    soft.save(tmp_path / "out")
    found = read_soft_labels(tmp_path / "out")
    assert found is not None
    assert torch.equal(found, soft.soft_labels)
    table = condense.compare(soft, convnet_seeds=0, retrieval=False)
    methods = ["condensed", "random", "herding", "k_center", "k_means"]
    assert table.index.tolist() == [*[row for m in methods for row in (m, f"{m} + soft")], "full_data"]
    alone = condense.compare(plain, convnet_seeds=0, retrieval=False)
    assert table.loc[alone.index].equals(alone)
    of_class_0 = torch.eye(CLASSES)[:1].repeat(2 * CLASSES, 1)
    blind = condense.compare({"mine": replace(soft, soft_labels=of_class_0)}, convnet_seeds=0, retrieval=False)
    assert blind.loc["mine + soft", ("probe", "mean")] == pytest.approx(
        1 / CLASSES
    )  # its own labels, not the teacher's
    with pytest.raises(ValueError, match="soft labels of one teacher"):
        condense.compare([plain, soft])


def test_runs_in_threads_do_not_disturb_each_other(task: condense.LoadedTask) -> None:
    alone = {seed: condense.run(task, HYPERPARAMETERS, seed=seed, steps=6) for seed in range(3)}
    found: dict[int, condense.Result] = {}

    def run(seed: int) -> None:
        found[seed] = condense.run(task, HYPERPARAMETERS, seed=seed, steps=6)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.keys() == alone.keys()
    for seed, result in alone.items():
        torch.testing.assert_close(found[seed].items, result.items, atol=0, rtol=0)
        assert found[seed].losses.equals(result.losses)


def test_reports_come_on_the_way(task: condense.LoadedTask) -> None:
    reports: list[condense.RunReport] = []
    result = condense.run(task, HYPERPARAMETERS, steps=3, on_report=reports.append)
    assert [report.step for report in reports] == [0, 1, 2, 3]
    assert reports[0].losses is None
    assert tuple(reports) == result.reports


def test_a_comparison_is_a_table(task: condense.LoadedTask) -> None:
    ours = [condense.run(task, HYPERPARAMETERS, seed=seed, steps=4) for seed in (0, 1)]
    mmd = condense.run(task, condense.published.mmd(3.0), steps=4)
    table = condense.compare({"ours": ours, "mmd": mmd}, convnet_seeds=0)
    assert table.index.tolist() == ["ours", "mmd", "random", "herding", "k_center", "k_means", "full_data"]
    assert table.loc["ours", ("probe", "n")] == 2
    assert table.loc["full_data", ("probe", "share")] == 1
    assert table.loc["mmd", ("probe", "mean")] == pytest.approx(
        comparison.Comparison(task.embedded, task.store).probe(
            comparison.Comparison(task.embedded, task.store).embed(comparison.MemorySplit(mmd.items, mmd.labels))
        )
    )
    assert set(table.columns.get_level_values(0)) == {"probe", "retrieval"}


def test_networks_of_a_comparison(task: condense.LoadedTask) -> None:
    result = condense.run(task, HYPERPARAMETERS, steps=1)
    tables = [
        condense.compare(result, convnet_seeds=1, retrieval=False, convnet_steps=2, **options)
        for options in ({"architecture": "resnet"}, {"architecture": "resnet", "convnet": "dc"}, {})
    ]
    for table in tables:
        assert table["convnet"]["mean"].between(0, 1).all()
    with pytest.raises(ValueError, match="convnet must be one of fast, dc, but got 'slow'"):
        condense.compare(result, convnet="slow")
    with pytest.raises(ValueError, match="convnet_steps must be at least 1"):
        condense.compare(result, convnet_steps=0)


def test_results_of_different_tasks_do_not_compare(task: condense.LoadedTask, data: Path) -> None:
    other = condense.load_task(task.config, dpc=1, cache=data.parent / "cache")
    results = [condense.run(each, HYPERPARAMETERS, steps=0) for each in (task, other)]
    with pytest.raises(ValueError, match="of one task"):
        condense.compare(results)
    with pytest.raises(ValueError, match="at least one result"):
        condense.compare([])


def test_a_loss_that_is_not_finite_is_an_error_that_says_where(task: condense.LoadedTask) -> None:
    with pytest.raises(condense.Diverged, match="loss is not finite at step") as caught:
        condense.run(task, {**HYPERPARAMETERS, "lambda_cross": 3e38, "lambda_joint": 3e38}, steps=20)
    assert (caught.value.divergence.step, caught.value.divergence.term) == (1, "total")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dpc": 0}, "load_task: `dpc`"),
        ({"dcp": 1}, "load_task: unknown key `dcp`"),
        ({"dataset": {"name": "tensors", "path": "nowhere.safetensors"}}, "nowhere.safetensors"),
    ],
)
def test_a_mistake_is_one_line(data: Path, keys: dict[str, Any], message: str) -> None:
    given = {"dataset": {"name": "tensors", "path": str(data)}, "encoder": ENCODER, "dpc": 1, **keys}
    with pytest.raises(condense.UserError, match=message) as caught:
        condense.load_task(given)
    assert "\n" not in str(caught.value)


def test_several_devices_share_a_condensation(task: condense.LoadedTask) -> None:
    """CPUs stand in for GPUs."""
    shared = replace(task, devices=(torch.device("cpu"),) * 2)
    one, several = (condense.run(each, HYPERPARAMETERS, steps=5) for each in (task, shared))
    torch.testing.assert_close(several.loss_rows, one.loss_rows, rtol=1e-4, atol=1e-6)
    assert (one.record()["device"], several.record()["device"]) == ("cpu", "cpu, cpu")


def test_a_hyperparameter_out_of_range_is_one_line(task: condense.LoadedTask) -> None:
    with pytest.raises(condense.UserError, match="lambda_uni"):
        condense.run(task, {"lambda_uni": -1})


def test_the_published_settings_are_settings() -> None:
    assert condense.published.paper_default().scaling == "paper"
    assert condense.published.recommended() == condense.Hyperparameters()
    assert condense.published.mmd(3.0).discrepancy == "mmd"
