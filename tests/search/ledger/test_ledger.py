"""The ledger after a kill at any byte, and who may open which folder."""

from __future__ import annotations

import contextlib
import copy
import csv
import math
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from condense.system.errors import UserError
from search.confirmation.trials_csv import write_trials_csv
from search.ledger.ledger import Ledger, Report
from search.ledger.run_folder import changed_proposals

SPACE: dict[str, Any] = {
    "name": "mine",
    "trials": 3,
    "search": {"lambda_cross": {"low": 0.1, "high": 1.0}},
    "tasks": [{"dpc": 1}],
}
STEPS = (20, 40, 60)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "results", SPACE, resume=False)
    yield opened
    opened.close()


def metrics(step: int) -> dict[str, float]:
    return {
        "score": step / 100,
        "score_mean": 0.5,
        "score_std": 0.1,
        "accuracy/seed_0": 0.25,
        "step": step,
        "seconds": 2.0,
    }


def state(step: int) -> bytes:
    return bytes(range(256)) * 3 + f"\nstate {step}\n".encode()


def start(ledger: Ledger, number: int = 0, name: str | None = None) -> None:
    ledger.new_trial(number, name, {"lambda_cross": 0.5}, {"lambda_cross": 0.5, "momentum": 0.5}, [0, 1])


def run(ledger: Ledger, number: int = 0, steps: tuple[int, ...] = STEPS) -> None:
    for step in steps:
        ledger.save(number, step, metrics(step), {"step": [step], "loss": [1.0]}, state(step))


def user_error(output: Path, space: dict[str, Any], resume: bool) -> str:
    with pytest.raises(UserError) as caught:
        Ledger.open(output, space, resume=resume)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_trial_from_start_to_end(ledger: Ledger) -> None:
    start(ledger, name="default")
    assert ledger.load(0) is None
    run(ledger)
    loaded = ledger.load(0)
    assert loaded is not None
    step, reports, saved = loaded
    assert (step, saved, [report.step for report in reports]) == (60, state(60), [20, 40, 60])
    assert (reports[0].metrics, reports[0].seconds) == (metrics(20), 2.0)
    assert reports[0].curve == {"step": [20.0], "loss": [1.0]}
    assert ledger.finish(0, "completed", 0.6)
    assert not ledger.finish(0, "failed", None, "too late")
    (record,) = Ledger(ledger.output).trials()
    assert (record.number, record.name, record.status, record.steps, record.score) == (
        0,
        "default",
        "completed",
        60,
        0.6,
    )
    assert (record.params, record.seeds, record.seconds) == ({"lambda_cross": 0.5}, [0, 1], 2.0)
    assert list(record.reports) == reports


def test_the_time_of_earlier_processes_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    for begin, steps in ((100.0, STEPS[:1]), (1000.0, ()), (2000.0, STEPS[1:])):
        now[0] = begin
        with contextlib.closing(Ledger.open(tmp_path / "results", SPACE, resume=begin > 100)) as ledger:
            start(ledger)
            now[0] += 30
            run(ledger, steps=steps)
            now[0] += 5  # nobody knows what happened then
    now[0] = 3000.0
    with contextlib.closing(Ledger.open(tmp_path / "results", SPACE, resume=True)) as ledger:
        assert ledger.earlier_seconds() == 60


def test_what_has_ended_keeps_no_checkpoint_and_hears_nothing_more(ledger: Ledger) -> None:
    start(ledger)
    run(ledger, steps=(20, 40))
    checkpoint = ledger.folder(0) / "checkpoint.bin"
    left = checkpoint.read_bytes()
    ledger.finish(0, "pruned", 0.5)
    assert not checkpoint.exists()
    run(ledger, steps=(60,))  # its process was at it already when it was stopped
    assert not checkpoint.exists() and ledger.load(0) is None
    checkpoint.write_bytes(left)  # killed between the result and the end of the checkpoint
    ledger.close()
    with contextlib.closing(Ledger.open(ledger.output, SPACE, resume=True)) as again:
        assert not checkpoint.exists()
        (record,) = again.trials()
    assert (record.steps, [report.step for report in record.reports]) == (40, [20, 40])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_kill_or_a_disk_takes_from_the_files_the_rest_is_consistent(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    """Cut or damaged anywhere: load gives a step with all its reports and its own state, or a trial from step 0; and
    the trial that goes on from there ends with the record of one that was never interrupted."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # this is not about power cuts
    output = tmp_path_factory.mktemp("cut") / "results"
    ledger = Ledger(output)
    start(ledger)
    run(ledger, steps=STEPS[: data.draw(st.integers(1, 3))])
    for name in data.draw(st.lists(st.sampled_from(["progress.jsonl", "checkpoint.bin"]), min_size=1, unique=True)):
        path = ledger.folder(0) / name
        content = path.read_bytes()
        at = data.draw(st.integers(0, 9_999)) % len(content)
        damage = data.draw(st.sampled_from(["cut", "remove", *(["flip"] if name == "checkpoint.bin" else [])]))
        if damage == "remove":
            path.unlink()
        else:
            path.write_bytes(content[:at] + (b"" if damage == "cut" else bytes([content[at] ^ 1]) + content[at + 1 :]))
    before = ledger.trial(0)  # a reader, before anything is mended
    loaded = Ledger(output).load(0)
    assert before is not None
    assert before.steps == (loaded[0] if loaded else 0)
    if loaded:
        step, reports, saved = loaded
        assert [report.step for report in reports] == [s for s in STEPS if s <= step]
        assert saved == state(step)
    again = Ledger(output)
    run(again, steps=tuple(s for s in STEPS if s > (loaded[0] if loaded else 0)))
    again.finish(0, "completed", 0.6)
    (record,) = Ledger(output).trials()
    assert [report.step for report in record.reports] == list(STEPS)
    assert all(report.metrics["score"] == report.step / 100 for report in record.reports)
    shutil.rmtree(output)


def test_killed_between_checkpoint_and_progress(ledger: Ledger) -> None:
    start(ledger)
    run(ledger)
    progress = ledger.folder(0) / "progress.jsonl"
    whole = progress.read_bytes()
    progress.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]) + b'{"step": 6')
    record = ledger.trial(0)
    assert record is not None
    assert record.steps == 60
    assert ledger.load(0) is not None
    assert progress.read_bytes() == whole
    progress.unlink()
    assert ledger.load(0) is None  # with two reports lost the trial has to start again
    run(ledger, steps=(20,))
    progress.unlink()
    ledger.finish(0, "failed", None, "killed")
    record = ledger.trial(0)
    assert record is not None
    assert [report.step for report in record.reports] == [20]  # the ending mends too


def test_damaged_checkpoint_starts_the_trial_again_and_its_old_reports_are_gone(ledger: Ledger) -> None:
    start(ledger)
    run(ledger)
    (ledger.folder(0) / "checkpoint.bin").write_bytes(b"garbage")
    assert ledger.load(0) is None
    record = ledger.trial(0)
    assert record is not None
    assert (record.steps, record.reports) == (0, ())
    assert (ledger.folder(0) / "progress.jsonl").read_bytes() == b""


def test_a_trial_that_starts_again_without_load_replaces_its_reports(ledger: Ledger) -> None:
    start(ledger)
    run(ledger)
    run(ledger, steps=(20, 40))
    loaded = ledger.load(0)
    assert loaded is not None
    assert [report.step for report in loaded[1]] == [20, 40]


def test_folder_without_a_whole_trial_json_is_no_trial(ledger: Ledger) -> None:
    start(ledger)
    (ledger.folder(1)).mkdir()
    (ledger.folder(2)).mkdir()
    (ledger.folder(2) / "trial.json").write_text('{"numb')
    (ledger.folder(0) / "result.json").write_text("")
    assert [(record.number, record.status) for record in ledger.trials()] == [(0, "unfinished")]
    start(ledger, 2)
    assert [record.number for record in ledger.trials()] == [0, 2]


def test_the_same_trial_may_be_recorded_twice_but_no_other(ledger: Ledger) -> None:
    start(ledger)
    start(ledger)
    with pytest.raises(ValueError, match="trial 0 is already recorded"):
        ledger.new_trial(0, None, {"lambda_cross": 0.7}, {}, [0])


def test_not_a_number_survives_in_reports_and_is_no_score(ledger: Ledger) -> None:
    start(ledger)
    ledger.save(0, 20, {"score": math.nan, "loss": math.inf}, None, b"")
    loaded = ledger.load(0)
    assert loaded is not None
    assert math.isnan(loaded[1][0].metrics["score"])
    ledger.finish(0, "failed", math.nan, "loss/cross is nan at step 12")
    (record,) = ledger.trials()
    assert (record.score, record.error, len(record.reports)) == (None, "loss/cross is nan at step 12", 1)


def test_history_is_in_order_of_time_and_holds_ended_trials_only(ledger: Ledger) -> None:
    for number in range(3):
        start(ledger, number)
    for step, number in ((20, 0), (20, 1), (40, 1), (20, 2), (40, 0), (60, 1)):
        run(ledger, number, (step,))
    ledger.finish(1, "completed", 0.6)
    ledger.finish(0, "pruned", 0.4)
    found = [(past.number, past.report.step, past.ended) for past in ledger.history()]
    assert found == [(0, 20, None), (1, 20, None), (1, 40, None), (0, 40, "pruned"), (1, 60, "completed")]


def test_who_may_open(tmp_path: Path) -> None:
    output = tmp_path / "results"
    assert "holds no search to resume" in user_error(output, SPACE, resume=True)
    first = Ledger.open(output, SPACE, resume=False)
    start(first)
    assert "another search is writing to it (process" in user_error(output, SPACE, resume=True)
    first.close()
    assert "already holds this search" in user_error(output, SPACE, resume=False)
    for resume in (False, True):
        text = user_error(output, {**SPACE, "tasks": [{"dpc": 2}]}, resume=resume)
        assert "holds another search: `tasks.0.dpc` is 1 there but 2 here; --output OTHER --warm-start " in text
    assert "`extra` is absent there but present here" in user_error(output, {**SPACE, "extra": 1}, resume=True)
    other = copy.deepcopy(SPACE)
    other["search"]["lambda_cross"]["low"] = 0.2
    assert changed_proposals(SPACE, {**other, "trials": 9}) == ["search"]
    assert "continue with --resume" in user_error(output, other, resume=False)
    Ledger.open(output, other, resume=True).close()
    more = Ledger.open(output, {**SPACE, "trials": 9}, resume=True)
    assert more.search_id == first.search_id
    assert more.search["space"]["trials"] == 9
    more.close()
    (output / "search.json").write_text("{")
    assert "is damaged" in user_error(output, SPACE, resume=True)
    (output / "search.json").unlink()
    start(Ledger(output))
    assert "holds trials but no search.json" in user_error(output, SPACE, resume=False)


def test_a_search_that_ended_before_its_first_trial_is_no_obstacle(tmp_path: Path) -> None:
    with contextlib.closing(Ledger.open(tmp_path, SPACE, resume=False)) as first:
        pass
    for resume in (False, True):
        with contextlib.closing(Ledger.open(tmp_path, SPACE, resume=resume)) as again:
            assert again.search_id == first.search_id
    with contextlib.closing(Ledger.open(tmp_path, {**SPACE, "seeds": 4}, resume=False)) as other:
        assert other.search_id != first.search_id
        assert other.search["space"]["seeds"] == 4


def test_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written to" in user_error(tmp_path / "file" / "results", SPACE, resume=False)
    assert "cannot be written to" in user_error(Path("/proc/results"), SPACE, resume=False)


def test_a_killed_driver_leaves_no_lock_and_no_half_file(tmp_path: Path) -> None:
    output = tmp_path / "results"
    code = (
        "import os, pathlib, signal, sys; from search.ledger.ledger import Ledger\n"
        f"ledger = Ledger.open(pathlib.Path(sys.argv[1]), {SPACE!r}, resume=False)\n"
        "ledger.new_trial(0, None, {}, {}, [0])\n"
        "(ledger.folder(0) / '.checkpoint.bin.1.tmp').write_text('half')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(output)], check=False)
    ledger = Ledger.open(output, SPACE, resume=True)
    assert [record.status for record in ledger.trials()] == ["unfinished"]
    assert not list(output.glob("trials/*/.*"))
    ledger.close()


def test_a_copy_attaches_and_leaves_the_lock_where_it_is(ledger: Ledger) -> None:
    start(ledger)
    attached = pickle.loads(pickle.dumps(ledger))
    assert [record.number for record in attached.trials()] == [0]
    attached.close()
    assert "another search is writing" in user_error(ledger.output, SPACE, resume=True)


def test_needs_the_standard_library_only() -> None:
    code = (
        "import sys, search.ledger.ledger\n"
        "print(sorted({'torch', 'ray', 'optuna', 'mlflow', 'numpy', 'pydantic'} & {m.split('.')[0] for m in sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_trials_csv(ledger: Ledger, tmp_path: Path) -> None:
    start(ledger, 0, "default")
    run(ledger)
    ledger.finish(0, "completed", 0.6)
    start(ledger, 1)
    ledger.finish(1, "failed", None, "loss, is nan")
    write_trials_csv(tmp_path / "trials.csv", ledger.trials())
    with open(tmp_path / "trials.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        [
            "number",
            "name",
            "status",
            "score",
            "score_mean",
            "score_std",
            "seeds",
            "steps",
            "seconds",
            "lambda_cross",
            "accuracy/seed_0",
            "signatures",
            "nodes",
            "error",
        ],
        ["0", "default", "completed", "0.6", "0.5", "0.1", "", "60", "2.0", "0.5", "0.25", "", "", ""],
        ["1", "", "failed", "", "", "", "", "0", "0.0", "0.5", "", "", "", "loss, is nan"],
    ]
    assert [path.name for path in tmp_path.glob("*.csv*")] == ["trials.csv"]


def test_reading_while_another_process_writes(ledger: Ledger) -> None:
    """A reader sees a prefix of the reports at any time, never a torn or a doubled one."""
    start(ledger)
    code = (
        "import pathlib, sys; from search.ledger.ledger import Ledger\n"
        "ledger = Ledger(pathlib.Path(sys.argv[1]))\n"
        "for step in range(1, 60): ledger.save(0, step, {'score': step}, None, bytes(100_000))"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(ledger.output)])
    seen: list[Report] = []
    while writer.poll() is None:
        record = ledger.trial(0)
        assert record is not None
        assert [report.step for report in record.reports] == list(range(1, len(record.reports) + 1))
        assert len(record.reports) >= len(seen)
        seen = list(record.reports)
    record = ledger.trial(0)
    assert writer.returncode == 0
    assert record is not None
    assert record.steps == 59
