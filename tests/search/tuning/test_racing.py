"""More seeds for the trials that keep up: the stages, the decisions, and a real search whose trials race."""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_process import SearchProcess, report, results, table

from search.ledger.ledger import Ledger, Report, Status
from search.space.model import Racing, Robust
from search.space.plan import Plan
from search.tuning import trainable
from search.tuning.racing import Runner, judge, stages
from search.tuning.referee import Referee


def test_stages_by_hand() -> None:
    assert stages(Racing(), 8) == [range(1), range(1, 2), range(2, 4), range(4, 8)]
    assert stages(Racing(start=2, growth=3), 10) == [range(2), range(2, 6), range(6, 10)]
    assert stages(None, 3) == [range(3)]


@given(start=st.integers(1, 20), growth=st.floats(1.01, 5), seeds=st.integers(2, 200))
def test_stages_cover_all_seeds_once_and_in_order(start: int, growth: float, seeds: int) -> None:
    start = min(start, seeds - 1)
    found = stages(Racing(start=start, growth=growth), seeds)
    assert [i for stage in found for i in stage] == list(range(seeds))
    assert len(found[0]) == start and all(found)


def test_without_rivals_it_goes_on() -> None:
    assert judge([0.1], [], 1.0).goes_on


def test_who_is_ahead_goes_on_and_who_is_far_behind_does_not() -> None:
    rivals = [Runner(0.88, [0.9, 0.92, 0.88, 0.9]), Runner(0.85, [0.88, 0.89, 0.87, 0.88])]
    assert judge([0.91], rivals, 0.0).goes_on
    assert judge([0.893], rivals, 1.0).goes_on  # behind by 0.007: within the differences' spread, 0.0082
    far = judge([0.8, 0.82], rivals, 1.0)
    assert far.mean == pytest.approx(0.9 - 0.1)
    assert not far.goes_on
    assert far.score == pytest.approx(0.88 - 0.1)  # the incumbent's score, less what it is behind on common seeds


def test_it_is_seed_by_seed() -> None:
    """Seed 0 is a lucky one: 0.9 on it is no better than 0.7 on the others."""
    rivals = [Runner(0.75, [0.95, 0.7, 0.7, 0.7]), Runner(0.74, [0.94, 0.7, 0.69, 0.7])]
    assert not judge([0.9], rivals, 1.0).goes_on


@given(
    shift=st.floats(-0.5, 0.5),
    tolerance=st.floats(0, 3),
    values=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    own=st.lists(st.floats(0, 1), min_size=1, max_size=3),
)
def test_only_differences_count(shift: float, tolerance: float, values: list[float], own: list[float]) -> None:
    rival = Runner(float(np.mean(values)), values)
    moved = Runner(rival.score + shift, [value + shift for value in values])
    here, there = judge(own, [rival], tolerance), judge([value + shift for value in own], [moved], tolerance)
    assert there.score == pytest.approx(here.score + shift, abs=1e-9)
    margin = np.mean([a - b for a, b in zip(own, values, strict=False)])
    if not math.isclose(margin, -tolerance * math.sqrt(2) * np.std(values, ddof=1) / math.sqrt(len(own)), abs_tol=1e-6):
        assert here.goes_on == there.goes_on


RACE = {
    "trials": 12,
    "seeds": 4,
    "racing": {"start": 1, "tolerance": 0.5},
    "max_concurrent": 1,
    "scheduler": {"name": "asha", "grace_steps": 2, "reduction_factor": 3},
}


def reports(output: Path, number: int) -> list[dict[str, Any]]:
    """What a trial has saved, in order."""
    progress = output / "trials" / f"{number:05d}" / "progress.jsonl"
    return [json.loads(line) for line in progress.read_text().splitlines()]


@pytest.fixture(scope="module")
def raced(
    tmp_path_factory: pytest.TempPathFactory, start: Callable[..., SearchProcess], write_space: Callable[..., Path]
) -> tuple[Path, Path]:
    """(space, output) of a search whose trials race, one at a time."""
    folder = tmp_path_factory.mktemp("raced")
    space = write_space(folder, **RACE)
    search = start("--space", space, "--output", folder / "out")
    assert search.finish() == 0, search.said()
    return space, folder / "out"


def test_a_kill_between_two_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is then of the first stage's seeds: the next stage's start anew."""
    monkeypatch.setattr(trainable.ray, "get", lambda value: value)
    ends = {"step": 6.0, "seeds": 1.0, "seconds": 1.0, "race/goes_on": 1.0}
    load = SimpleNamespace(remote=lambda number: (6, [Report(6, 1.0, 1.0, ends)], b"of seed 0"))
    plan = Plan([{}], [0, 1], [2, 4, 6], Robust(), None, Racing(start=1))
    running = trainable._Running({"number": 3, "name": None}, None, SimpleNamespace(load=load), plan)
    asked: list[Any] = []
    monkeypatch.setattr(
        running, "stage", lambda *given: asked.append(given) or {**ends, "step": 12.0, "race/goes_on": 0.0}
    )
    monkeypatch.setattr(running, "tell", lambda *given, **more: None)
    running.run()
    assert asked == [(1, ends, 0, None)]


RACING = Plan([{}], [0, 1], [2, 4, 6], Robust(), None, Racing(start=1))


def add_ended(ledger: Ledger, number: int, name: str | None, values: list[float], status: Status = "completed") -> None:
    """A trial that has ended, with its share on each seed."""
    ledger.new_trial(number, name, {}, {}, [0, 1])
    metrics = {"seeds": float(len(values))} | {f"share/seed_{i}": v for i, v in enumerate(values)}
    ledger.save(number, 12, metrics, {"step": [1.0] * 300, "loss": [0.5] * 300}, b"")
    ledger.finish(number, status, sum(values) / len(values))


def of_one_seed(value: float) -> dict[str, float]:
    return {"seeds": 1.0, "share/seed_0": value, "score": value, "score_mean": value}


def test_who_is_behind_is_recorded_as_if_it_had_all_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Seed 0 is a lucky one for all; and the paper's default, which cannot be recommended, is nobody's rival."""
    monkeypatch.setattr(trainable.ray, "get", lambda value: value)
    referee = Referee(tmp_path)
    add_ended(referee, 0, "paper_default", [0.99, 0.97])
    add_ended(referee, 1, None, [0.9, 0.7])
    add_ended(referee, 2, None, [0.95], "pruned")
    ledger = SimpleNamespace(judged=SimpleNamespace(remote=referee.judged))
    running = trainable._Running({"number": 3, "name": None}, None, ledger, RACING)

    def judged(value: float) -> dict[str, float]:
        return running.with_judgement(of_one_seed(value))

    behind, ahead = judged(0.85), judged(0.92)
    assert behind == pytest.approx({**behind, "race/goes_on": 0.0, "score": 0.75, "score_mean": 0.75})
    assert ahead == pytest.approx({**ahead, "race/goes_on": 1.0, "score": 0.92, "score_mean": 0.92})


def test_a_judgement_travels_alone_and_reads_what_is_new(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """However many trials there are: their records stay where the ledger is, and each is read once."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    referee, read = Referee(tmp_path), []
    for number in range(60):
        add_ended(referee, number, None, [0.8 + number / 1000, 0.7])
    referee.new_trial(60, None, {}, {}, [0, 1])  # runs
    trial = Ledger.trial
    monkeypatch.setattr(Ledger, "trial", lambda self, number: read.append(number) or trial(self, number))
    first = referee.judged(RACING, 9, of_one_seed(0.85))
    assert read == list(range(60))
    assert len(pickle.dumps(first)) < 1000
    assert not first.goes_on and first.score == pytest.approx((0.859 + 0.7) / 2 - 0.009)
    add_ended(referee, 61, None, [0.84, 0.9])
    read.clear()
    assert referee.judged(RACING, 9, of_one_seed(0.85)).goes_on  # ahead of a new incumbent
    assert read == [61]


@pytest.mark.slow
def test_trials_that_keep_up_get_more_seeds(raced: tuple[Path, Path]) -> None:
    rows = table(raced[1])
    seeds = [row["seeds"] for row in rows]
    assert seeds[:2] == [4, 4]  # the defaults have all, to be compared with
    assert set(seeds) <= {1, 2, 4} and len(set(seeds)) > 1
    assert {row["status"] for row in rows} == {"completed", "pruned"}
    for row, count in zip(rows, seeds, strict=True):
        if row["status"] == "pruned":
            assert row["steps"] < 6 and count == 1
        else:
            assert row["steps"] == 6 * {1: 1, 2: 2, 4: 3}[int(count)]
        known = [row[f"accuracy/seed_{i}"] for i in range(4)]
        assert [value != "" for value in known] == [i < count for i in range(4)]


@pytest.mark.slow
def test_the_report_says_what_the_race_has_saved(raced: tuple[Path, Path]) -> None:
    told = report(raced[1])["racing"]
    rows = table(raced[1])
    assert sum(told["seeds"].values()) == len(rows) == 12
    steps = [min(row["steps"], 6) for row in rows]
    assert told["replica_steps"] == sum(s * int(row["seeds"]) for s, row in zip(steps, rows, strict=True))
    assert told["replica_steps"] < told["full"] == sum(steps) * 4
    best = report(raced[1])["confirmation"]["best"]["trial"]
    assert table(raced[1])[best]["seeds"] == 4


@pytest.mark.slow
@pytest.mark.faults
def test_a_race_goes_on_after_a_kill_as_if_nothing_had_happened(
    raced: tuple[Path, Path], tmp_path: Path, start: Callable[..., SearchProcess]
) -> None:
    space, whole = raced
    search = start("--space", space, "--output", tmp_path / "out")
    number = next(i for i, row in enumerate(table(whole)) if i > 1 and row["seeds"] == 4)
    progress = tmp_path / "out" / "trials" / f"{number:05d}" / "progress.jsonl"
    # 2, 4, 6 are of the first stage; 8 is the first report within the second.
    search.until(lambda: progress.exists() and len(progress.read_bytes().splitlines()) >= 4)
    search.kill()
    before = results(tmp_path / "out")
    before_kill = reports(tmp_path / "out", number)
    search = start("--space", space, "--output", tmp_path / "out", "--resume")
    assert search.finish() == 0, search.said()
    assert before.items() <= results(tmp_path / "out").items()
    after = reports(tmp_path / "out", number)
    assert after[: len(before_kill)] == before_kill  # no step of it was taken again
    assert [r["step"] for r in after] == list(range(2, 19, 2))
    # One trial at a time: the same recommendation, bit for bit.
    assert report(tmp_path / "out")["recommended"] == report(whole)["recommended"]
    assert report(tmp_path / "out")["candidates"] == report(whole)["candidates"]
    for row, again in zip(table(whole), table(tmp_path / "out"), strict=True):
        assert again == {
            key: pytest.approx(value, rel=1e-4) if isinstance(value, float) else value for key, value in row.items()
        }


@pytest.mark.slow
def test_a_report_within_a_stage_has_the_score_of_the_stage_before(raced: tuple[Path, Path]) -> None:
    number = next(i for i, row in enumerate(table(raced[1])) if row["seeds"] == 4)
    metrics = [r["metrics"] for r in reports(raced[1], number)]
    assert [m["seeds"] for m in metrics] == [1, 1, 1, 1, 1, 2, 2, 2, 4]
    assert [m["race/stage"] for m in metrics] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [m["replica_steps"] for m in metrics] == [2, 4, 6, 8, 10, 12, 16, 20, 24]
    assert metrics[3]["score"] == metrics[4]["score"] == metrics[2]["score"]
    assert metrics[3]["loss"] != metrics[2]["loss"]
    curve = [step for r in reports(raced[1], number) for step in r["curve"]["step"]]
    assert curve == list(range(1, 19))


@pytest.mark.slow
def test_a_score_of_fewer_seeds_is_the_incumbents_less_what_it_was_behind(raced: tuple[Path, Path]) -> None:
    for folder in sorted((raced[1] / "trials").iterdir()):
        last = json.loads((folder / "progress.jsonl").read_text().splitlines()[-1])["metrics"]
        if last["seeds"] < 4 and last["step"] >= 6:
            assert last["race/goes_on"] == 0
            assert json.loads((folder / "result.json").read_text())["score"] == last["score"] < last["score_mean"] + 0.5
