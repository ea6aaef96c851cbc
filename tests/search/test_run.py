"""The command line as a user meets it: a mistake is one line and status 2, and leaves nothing of a search behind."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from search_process import RUN, SearchProcess, report

from condense.system.errors import UserError
from search.command import main
from search.ledger.ledger import Ledger
from search.preflight import check_formations, check_lambdas, check_learning_rates
from search.request import Request
from search.space.files import load_space
from search.space.model import Space

MARK = "STARTED_BY_A_TEST_OF_RUN"  # in the environment of everything that a test starts, at any depth
LOG = {"low": 0.01, "high": 100, "log": True}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(MARK, str(tmp_path))
    return tmp_path


@pytest.fixture
def space(here: Path, write_space: Callable[..., Path]) -> Path:
    """small.yaml, whose search would run, in the current folder."""
    return write_space(here)


@pytest.fixture
def begun(space: Path) -> Path:
    """`out`, where the search of `space` has got as far as its first trial."""
    with closing(Ledger.open(space.parent / "out", load_space(str(space)).model_dump(mode="json"), resume=False)) as it:
        it.new_trial(0, "paper_default", {}, {}, [0])
    return it.output


@pytest.fixture
def refused(here: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """(*arguments) -> the one line that their mistake gets; by default the current folder must stay as it is."""

    def run(*arguments: object, untouched: bool = True) -> str:
        before = files(here)
        with mock.patch.dict(os.environ):
            try:
                status: Any = main([str(argument) for argument in arguments])
            except SystemExit as error:
                status = error.code
        out, err = capfd.readouterr()
        assert (status, out) == (2, ""), err
        assert not untouched or files(here) == before
        return one_line(err)

    return run


def files(folder: Path) -> dict[Path, bytes | None]:
    """Everything in a folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def one_line(err: str) -> str:
    assert err.startswith("error: "), err
    assert err.count("\n") == 1 and err.endswith("\n"), err
    return err


def check_nothing_begun(output: Path, space: Path) -> None:
    """No trial, no run in MLflow, no process after a while, and the folder is free for any search."""
    assert list(output.glob("trials/*")) == []
    if (database := output.parent / "mlflow.db").exists():
        with closing(sqlite3.connect(database)) as opened:
            assert opened.execute("SELECT COUNT(*) FROM runs").fetchone() == (0,)
    another = load_space(str(space), ["steps=5", "report_every=1"]).model_dump(mode="json")
    Ledger.open(output, another, resume=False).close()
    alive = [process for process in psutil.process_iter() if environment(process).get(MARK) == str(output.parent)]
    assert psutil.wait_procs(alive, timeout=60)[1] == []


def environment(process: psutil.Process) -> dict[str, str]:
    """Nothing of a process that is gone, or is not ours."""
    try:
        return process.environ()
    except psutil.Error:
        return {}


@pytest.mark.parametrize(
    ("changes", "pieces"),
    [
        ({"trails": 5}, ["unknown key `trails`", "did you mean `trials`?"]),
        ({"sampler": {"seeds": 5}}, ["unknown key `sampler.seeds`"]),
        ({"search": {"lambda_cros": LOG}}, ["`search.lambda_cros` is no hyperparameter", "`lambda_cross`?"]),
        ({"search": {"alpha": {"low": 2, "high": 1}}}, ["`search.alpha.low` must be < high", "2.0", "1.0"]),
        ({"search": {"alpha": {**LOG, "low": 0}}}, ["`search.alpha.low` must be > 0 for a log scale", "0.0"]),
        ({"steps": "many"}, ["`steps`", "valid integer", "'many'"]),
    ],
)
def test_a_mistake_in_the_space(
    here: Path, write_space: Callable[..., Path], refused: Callable[..., str], changes: Any, pieces: list[str]
) -> None:
    space = write_space(here, **changes)
    line = refused("--space", space, "--output", "out")
    assert all(piece in line for piece in ["small.yaml", *pieces]), line


@pytest.mark.parametrize(
    ("given", "pieces"),
    [
        ("trials", ["'trials'", "must be key=value"]),
        ("trials=[", ["'trials=['", "not valid YAML"]),
        ("trials=!!bool maybe", ["'trials=!!bool maybe'", "not valid YAML"]),
        ("fixed=&a {lambda_uni: *a}", ["an alias must not refer to a node that contains it"]),
        ("trials=!!timestamp soon", ["'trials=!!timestamp soon'", "not valid YAML"]),
        pytest.param("trials=" + "[" * 3000, ["not valid YAML"], id="3000 brackets"),
        ("tasks.7.dpc=1", ["'tasks.7.dpc=1'", "'7' is no index of a list of 1"]),
        ("stepz=1", ["small.yaml", "unknown key `stepz`", "`steps`?"]),
        ("steps=-1", ["small.yaml", "steps=-1", "`steps`", "greater than or equal to 1"]),
    ],
)
def test_a_bad_override(space: Path, refused: Callable[..., str], given: str, pieces: list[str]) -> None:
    line = refused("--space", space, "--set", given)
    assert all(piece in line for piece in pieces), line


@pytest.mark.parametrize(
    ("arguments", "pieces"),
    [
        ("--space quickstrat", ["'quickstrat'", "did you mean `quickstart`?"]),
        ("--space absent.yaml", ["absent.yaml", "cannot be read"]),
        ("--space small.yaml --trials 2", ["trials=2", "greater than or equal to 3"]),
        ("--space small.yaml --trials many", ["--trials", "'many'"]),
        ("--space small.yaml --stepz 3", ["--stepz"]),
        ("small.yaml", ["small.yaml"]),
    ],
)
@pytest.mark.usefixtures("space")
def test_a_bad_command_line(refused: Callable[..., str], arguments: str, pieces: list[str]) -> None:
    line = refused(*arguments.split())
    assert all(piece in line for piece in pieces), line


@pytest.mark.parametrize("output", ["small.yaml/out", "small.yaml", "/proc/out"])
def test_an_output_folder_that_cannot_be_made(space: Path, refused: Callable[..., str], output: str) -> None:
    assert f"{Path(output).absolute()}: cannot be written to" in refused("--space", space, "--output", output)


def test_an_output_that_is_no_folder(space: Path, refused: Callable[..., str]) -> None:
    assert "must be a local folder" in refused("--space", space, "--output", "s3://bucket/results")


def test_an_output_folder_that_holds_a_search(space: Path, begun: Path, refused: Callable[..., str]) -> None:
    command = ("--space", space, "--output", begun)
    line = refused(*command)
    assert all(piece in line for piece in (str(begun), "already holds this search", "--resume", "--output")), line
    for resume in ((), ("--resume",)):
        line = refused(*command, *resume, "--set", "steps=5")
        assert f"{begun}: holds another search: `steps` is 6 there but 5 here" in line


def test_nothing_to_resume(space: Path, refused: Callable[..., str]) -> None:
    assert "absent: holds no search to resume" in refused("--space", space, "--output", "absent", "--resume")


def test_auto_resume_begins_a_search_or_goes_on_with_it(space: Path, begun: Path, refused: Callable[..., str]) -> None:
    found = [Request.of(str(space), output=folder, auto_resume=True).resume for folder in (Path("absent"), begun)]
    assert found == [False, True] and not Request.of(str(space), output=begun).resume
    line = refused("--space", space, "--output", begun, "--auto-resume", "--set", "steps=5")
    assert f"{begun}: holds another search: `steps` is 6 there but 5 here" in line
    assert main(["--space", str(space), "--output", str(begun), "--auto-resume", "--dry-run"]) == 0


def test_mlflow_is_asked_before_any_work(space: Path, refused: Callable[..., str]) -> None:
    started = time.monotonic()
    uri = ("--tracking-uri", "http://me:secret@127.0.0.1:9")
    line = refused("--space", space, "--output", "out", *uri, untouched=False)
    assert time.monotonic() - started < 60
    assert "tracking URI http://***@127.0.0.1:9: no MLflow server answers there" in line
    assert "secret" not in line
    check_nothing_begun(space.parent / "out", space)


def test_a_learning_rate_of_a_modality_that_is_not_there() -> None:
    content = {"name": "mine", "tasks": [{"dpc": 1}], "search": {"learning_rate": LOG, "learning_rate_text": LOG}}
    space = Space.model_validate(content)
    check_learning_rates(space, [{"modalities": ["vision", "audio"]}, {"modalities": ["vision", "text"]}])
    with pytest.raises(UserError, match=r"search\.learning_rate_text: .* 'text' \(there are: audio, vision\)"):
        check_learning_rates(space, [{"modalities": ["vision", "audio"]}])
    fixed = Space.model_validate(content | {"search": {"learning_rate": LOG}, "fixed": {"learning_rate_text": 1.0}})
    with pytest.raises(UserError, match=r"fixed\.learning_rate_text: no task has the modality"):
        check_learning_rates(fixed, [{"modalities": ["vision"]}])
    with pytest.raises(UserError, match=r"search\.learning_rate has no effect: each modality"):
        check_learning_rates(fixed, [{"modalities": ["text"]}])
    check_learning_rates(fixed, [{"modalities": ["text", "vision"]}])


def test_weights_between_modalities_are_not_searched_where_there_is_one() -> None:
    space = load_space("quickstart")
    check_lambdas(space, [{"modalities": ["imu"]}, {"modalities": ["vision", "audio"]}])
    with pytest.raises(UserError, match=r"search\.lambda_cross has no effect: the data has a single modality"):
        check_lambdas(space, [{"modalities": ["imu"]}])
    alone = {name: own for name, own in space.model_dump()["search"].items() if not name.startswith("lambda_")}
    check_lambdas(space.model_copy(update={"search": alone}), [{"modalities": ["imu"]}])


def test_a_formation_that_no_class_is_large_enough_for_is_refused_before_the_trials() -> None:
    task, limit = (
        {"dpc": 5, "class_names": ["a", "b"]},
        {"smallest_class": 20, "items_in_each": {1: 1, 2: 4, 3: 9, 4: 16}},
    )
    space = load_space("quickstart", ["search.formation={choices: [1, 2]}"])
    check_formations(space, [task], [limit])
    with pytest.raises(
        UserError, match=r"search\.formation: 2 starts from 20 items per class at dpc 5, but a class of tasks\.0"
    ):
        check_formations(space, [task], [{**limit, "smallest_class": 19}])
    fixed = load_space("quickstart", ["fixed.formation=3"])
    with pytest.raises(UserError, match=r"fixed\.formation: 3 starts from 45 items"):
        check_formations(fixed, [task], [limit])
    with pytest.raises(UserError, match="has no classes"):
        check_formations(space, [{**task, "class_names": ["all"]}], [limit])
    check_formations(load_space("quickstart", []), [{**task, "class_names": ["all"]}], [{**limit, "smallest_class": 5}])


def test_a_folder_of_the_users_is_seen_before_the_work(space: Path, refused: Callable[..., str]) -> None:
    mine = space.parent / "out" / "condensed"
    mine.mkdir(parents=True)
    (mine / "mine.txt").write_text("precious")
    assert "condensed: holds other files" in refused("--space", space, "--output", "out")


def test_a_cache_that_cannot_be_written_is_seen_before_the_work(
    space: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDENSE_CACHE", str(space / "cache"))  # under a file
    assert "the cache ($CONDENSE_CACHE) cannot be written" in refused("--space", space, "--output", "out")


@pytest.mark.parametrize("name", ["..", "a/b", "", " "])
def test_a_name_that_is_no_folders_name(space: Path, refused: Callable[..., str], name: str) -> None:
    assert "must be a name that a folder can have" in refused("--space", space, "--name", name).replace(
        "String should have at least 1 character", "must be a name that a folder can have"
    )
    assert "name" in refused("--space", space, "--set", f"name={name!r}")


def test_a_name_may_be_of_any_letters_but_not_too_long_for_a_folder(space: Path, refused: Callable[..., str]) -> None:
    assert Request.of(str(space), name="run 🎉").space.name == "run 🎉"
    assert "must have at most 200 bytes" in refused("--space", space, "--name", "é" * 101)


def test_an_empty_folder_name_is_a_variable_that_is_not_set(space: Path, refused: Callable[..., str]) -> None:
    assert "argument --output: must not be empty" in refused("--space", space, "--output", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "holds no search to resume"),
        (["--ablate"], "--ablate needs a finished search"),
        (["--set", "seeds=true"], "`seeds` must be a number, but got True"),
        (["--set", "scheduler.grace_steps=on"], "`grace_steps` must be a number"),
        (["--set", ".=1"], "must be key=value"),
    ],
)
def test_a_dry_run_says_what_the_search_would_say(
    space: Path, refused: Callable[..., str], arguments: list[str], message: str
) -> None:
    for more in ([], ["--dry-run"]):
        assert message in refused("--space", space, "--output", "out", *arguments, *more)


def test_a_dry_run_into_a_search_that_is_there(space: Path, begun: Path, refused: Callable[..., str]) -> None:
    assert "already holds this search" in refused("--space", space, "--output", begun, "--dry-run")


def test_dry_run_prints_the_space_and_runs_nothing(space: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = files(space.parent)
    assert main(["--space", str(space), "--trials", "12", "--name", "other", "--dry-run"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert Space.model_validate(yaml.safe_load(out)) == load_space(str(space), ["trials=12", "name=other"])
    assert f"valid; would write to {space.parent / 'results' / 'other'}" in out
    assert "missing" not in out
    assert files(space.parent) == before


def test_dry_run_says_which_data_are_missing(space: Path, capfd: pytest.CaptureFixture[str]) -> None:
    absent = "tasks.0.dataset.path=absent.safetensors"
    assert main(["--space", str(space), "--set", absent, "--dry-run"]) == 0
    assert "# missing: absent.safetensors (tasks.0.dataset.path)\n" in capfd.readouterr().out


def test_from_another_folder_and_copied_alone(space: Path) -> None:
    elsewhere = space.parent / "else" / "where"
    elsewhere.mkdir(parents=True)
    shutil.copy(RUN, elsewhere)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "run.py", "--space", "../../small.yaml", *arguments]
        return subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)

    right = run("--dry-run")
    assert (right.returncode, right.stderr) == (0, "")
    assert f"would write to {elsewhere / 'results' / 'small'}" in right.stdout
    wrong = run("--set", "stepz=1")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "unknown key `stepz`" in one_line(wrong.stderr)
    assert list(elsewhere.iterdir()) == [elsewhere / "run.py"]


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:port", "ray://127.0.0.1:10001"])
def test_an_address_that_is_none(space: Path, start: Callable[..., SearchProcess], address: str) -> None:
    search = start("--space", space, "--output", space.parent / "out", "--address", address)
    assert search.finish() == 2, search.said()
    assert f"--address {address}" in one_line(search.err.read_text())
    check_nothing_begun(space.parent / "out", space)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "line"),
    [
        pytest.param("missing", "missing: {path} (tasks.0.dataset.path)", marks=pytest.mark.faults),
        pytest.param("corrupt", "{path}: cannot be read as safetensors", marks=pytest.mark.faults),
        ("NaN", "{path}: train/vision: item 5 holds NaN or infinity"),
        pytest.param("too few", "class '0' has 32 items to condense, but dpc is 50", marks=pytest.mark.faults),
    ],
)
def test_a_mistake_in_the_data(
    space: Path, small_data: Path, start: Callable[..., SearchProcess], damage: str, line: str
) -> None:
    path = space.parent / "mine.safetensors"
    if damage == "corrupt":
        path.write_bytes(small_data.read_bytes()[:-100])
    elif damage != "missing":
        tensors = load_file(small_data)
        tensors["train/vision"][5, 0, 0, 0] = torch.nan if damage == "NaN" else 0
        save_file(tensors, path)
    dpc = 50 if damage == "too few" else 1
    changes = ("--set", f"tasks.0.dataset.path={path}", "--set", f"tasks.0.dpc={dpc}")
    search = start("--space", space, "--output", space.parent / "out", *changes)
    assert search.finish() == 2, search.said()
    assert "Traceback" not in search.said()
    assert line.format(path=path) in one_line(search.err.read_text())
    check_nothing_begun(space.parent / "out", space)


@pytest.mark.faults
def test_more_cores_than_there_are(space: Path, start: Callable[..., SearchProcess]) -> None:
    search = start("--space", space, "--output", space.parent / "out", "--set", "resources.cpus_per_trial=4096")
    assert search.finish() == 2, search.said()
    assert "resources.cpus_per_trial is 4096, but this machine has" in one_line(search.err.read_text())
    check_nothing_begun(space.parent / "out", space)


@pytest.mark.faults  # for its time: a search of its own
def test_a_search_with_relative_paths_from_another_folder(here: Path, small_data: Path, space: Path) -> None:
    shutil.copy(small_data, here / "mine.safetensors")
    content = {**yaml.safe_load(space.read_text()), "trials": 3, "steps": 2, "report_every": 1}
    content["tasks"][0]["dataset"]["path"] = "mine.safetensors"
    space.write_text(yaml.safe_dump(content))
    (here / "elsewhere").mkdir()
    search = SearchProcess(here / "elsewhere", "--space", "../small.yaml", "--tracking-uri", "sqlite:///db/mlflow.db")
    try:
        assert search.finish() == 0, search.said()
    finally:
        search.kill()
    assert sum(report(here / "elsewhere" / "results" / "small")["trials"].values()) == 3
    assert (here / "elsewhere" / "db" / "mlflow.db").is_file()


def test_status_tells_how_far_a_search_is(
    begun: Path, refused: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(begun.rglob("*"))
    assert main(["--status", str(begun)]) == 0
    assert capfd.readouterr().out.startswith("small: stopped after 0:00; trials 0/6, 1 begun")
    assert sorted(begun.rglob("*")) == before
    assert "holds no search" in refused("--status", "nowhere")
