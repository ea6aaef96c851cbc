"""The benchmark of helps from end to end, on small tensors: which sets are made, chosen and measured."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file
from small_search import ENCODER, small_tensors

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import helps
from helps_tables import HELPS

ALL = "formation + views + bank"


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(helps, "STEPS", 3)
    save_file(small_tensors(), tmp_path / "data.safetensors")
    config = {
        "dataset": {"name": "tensors", "path": str(tmp_path / "data.safetensors")},
        "encoder": {**ENCODER, "pretraining": "contrastive", "epochs": 1},
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(config))
    return argparse.Namespace(
        config=tmp_path / "task.yaml", dpc=[1], seeds=2, protocol="fast", steps=2, held_out="validation", threads=1,
        json=None, methods=["random", "herding", "mmd", "ours"], helps=["none", "formation", ALL],
    )  # fmt: skip


def cells(figures: dict[str, Any]) -> dict[tuple[str, str], dict[str, list[float]]]:
    return {(cell["method"], cell["help"]): cell for cell in figures["budgets"]["1"]["cells"]}


def test_every_cell_is_made_and_measured(options: argparse.Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    figures = helps.benchmark(options)
    found = cells(figures)
    assert set(found) == {(m, h) for m in options.methods for h in options.helps}
    for (method, _), cell in found.items():
        assert len(cell["convnet"]) == options.seeds
        assert len(cell["probe"]) == len(cell["outside"]) <= helps.CONDENSATIONS
        assert all(0 <= value <= 1 for values in (cell["convnet"], cell["probe"], cell["outside"]) for value in values)
        assert len(cell["probe"]) == (1 if method == "herding" else 2) or method == "mmd"
    # Views and a bank say nothing of real items: they repeat what they have by formation.
    for method in ("random", "herding"):
        assert {**found[method, ALL], "help": ""} == {**found[method, "formation"], "help": ""}
    assert found["ours", ALL] != found["ours", "formation"]
    tuned = figures["budgets"]["1"]["mmd"]
    assert set(tuned) == {"none", "formation"} and all(len(rates) == len(helps.MMD_RATES) for rates in tuned.values())
    assert "done. MMD's rates: none: " in capsys.readouterr().err


def test_only_what_is_asked_for(options: argparse.Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    options.methods, options.helps = ["herding", "ours"], ["none"]
    figures = helps.benchmark(options)
    assert set(cells(figures)) == {("herding", "none"), ("ours", "none")}
    assert figures["budgets"]["1"]["mmd"] == {}
    assert "1 per class: done\n" in capsys.readouterr().err


def test_a_rate_is_chosen_for_each_formation_and_used_with_other_helps(
    options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the largest for plain items, the smallest for formed ones: what condensations then use."""
    used: list[tuple[int, int, float]] = []
    made = helps.condensed

    def condensed(task: Any, dpc: int, wanted: Any) -> Any:
        used.extend((h.formation, h.views, h.learning_rate) for h, _ in wanted if h.discrepancy == "mmd")
        return made(task, dpc, wanted)

    class Judge:
        def convnet(self, trainings: Any) -> list[float]:
            plain = len(trainings[0][0].labels) == 3  # one item for each of the three classes
            return [float(i if plain else -i) for i, _ in enumerate(trainings)]

    monkeypatch.setattr(helps, "condensed", condensed)
    monkeypatch.setattr(helps, "Comparison", lambda *_: Judge())
    monkeypatch.setattr(helps, "probe_of", lambda *_: 0.0)
    config = helps.load_config(options.config)
    store = helps.Store()
    tasks = helps.load_tasks(config, store, helps.torch.device("cpu"))
    for task in (tasks.plain, *tasks.bank.bank):
        task.views.first(helps.VIEWS)
    chosen = helps.Chosen.named(["mmd"], ["none", "views", ALL])
    helps.make(tasks, store, 1, chosen, options)
    grid, most, least = len(helps.MMD_RATES), max(helps.MMD_RATES), min(helps.MMD_RATES)
    formation = next(h.formation for h in HELPS if h.name == ALL)
    assert used[2 * grid :] == [(1, helps.VIEWS, most)] * 2 + [(formation, helps.VIEWS, least)] * 2
