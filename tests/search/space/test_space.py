"""A space's YAML: what is valid loads and round-trips, what is not gives one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from condense.config.models import Hyperparameters
from condense.system.errors import UserError
from search.preflight import check_data
from search.space.files import load_space
from search.space.model import SEED_BLOCK, Resources, Space, confirmation_seeds, replica_seeds
from search.space.recorded import completed

FLOATS = ("lambda_cross", "lambda_joint", "frequency_scale", "learning_rate_vision", "learning_rate_radar", "alpha")
INTEGERS = ("num_frequencies", "frequency_pool")
CHOICES = {
    "frequency_sampling": ("orthogonal", "independent"),
    "optimizer": ("sgd", "adam"),
    "scaling": ("gradient", "normalized", "relative", "paper"),
    "momentum": (0.0, 0.5, 0.9),
}


@st.composite
def dimensions(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    search: dict[str, dict[str, Any]] = {}
    for name in draw(st.lists(st.sampled_from(FLOATS + INTEGERS + tuple(CHOICES)), min_size=1, unique=True)):
        if name in CHOICES:
            search[name] = {"choices": draw(st.lists(st.sampled_from(CHOICES[name]), min_size=1, unique=True))}
        else:
            number: Any = st.integers(1, 10_000) if name in INTEGERS else st.floats(1e-9, 1e9)
            low, high = sorted(draw(st.lists(number, min_size=2, max_size=2, unique=True)))
            search[name] = {"low": low, "high": high, "log": draw(st.booleans())}
    return search


@st.composite
def valid_spaces(draw: st.DrawFn) -> dict[str, Any]:
    steps = draw(st.integers(1, 1000))
    return {
        "name": draw(st.text("abc_0123", min_size=1, max_size=5)),
        "tasks": [{"dpc": draw(st.integers(1, 50))} for _ in range(draw(st.integers(1, 3)))],
        "fixed": {"lambda_uni": draw(st.floats(0, 10)), "beta": draw(st.floats(0, 1))},
        "search": draw(dimensions()),
        "steps": steps,
        "report_every": draw(st.integers(1, steps)),
        "trials": draw(st.integers(3, 1000)),
        "seeds": draw(st.integers(1, 50)),
        "seed": draw(st.integers(0, 100_000)),
        "robust": {"k": draw(st.floats(0, 5))},
        "sampler": {"name": draw(st.sampled_from(["tpe", "gp", "cmaes", "nsga2", "random", "qmc"]))},
        "scheduler": draw(st.sampled_from(["none", {"name": "asha", "grace_steps": steps}, {"name": "none"}])),
    }


def write(folder: Path, content: Any) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def minimal(**changes: Any) -> dict[str, Any]:
    return {"name": "mine", "tasks": [{"dpc": 1}], "search": {"lambda_cross": {"low": 0.1, "high": 10}}} | changes


def error(tmp_path: Path, content: Any, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_space(write(tmp_path, content), overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=valid_spaces())
def test_valid_space_loads_and_round_trips(tmp_path: Path, content: dict[str, Any]) -> None:
    space = load_space(write(tmp_path, content))
    assert Space.model_validate(json.loads(json.dumps(space.model_dump(mode="json")))) == space
    assert space.report_steps[-1] == space.steps
    assert all(
        0 < b - a <= space.report_every for a, b in zip([0, *space.report_steps], space.report_steps, strict=False)
    )
    paper, default = space.default_trials()
    assert (paper.name, default.name) == ("paper_default", "default")
    for name, dimension in space.search.items():
        value = getattr(default.hyperparameters, name)
        assert name in ("lambda_cross", "lambda_joint", "frequency_scale", "scaling") or dimension.contains(value)
    seeds, fresh = replica_seeds(space), confirmation_seeds(space, 100)
    assert len(set(seeds) | set(fresh)) == space.seeds + 100


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), content=valid_spaces())
def test_one_broken_value_gives_one_line_that_names_it(tmp_path: Path, data: st.DataObject, content: Any) -> None:
    ranges = [name for name, dimension in content["search"].items() if "low" in dimension]
    listed = [name for name, dimension in content["search"].items() if "choices" in dimension]
    broken = [
        ("steps", 0, "steps"),
        ("steps", math.inf, "steps"),
        ("report_every", content["steps"] + 1, "report_every"),
        ("scheduler", {"grace_steps": content["steps"] + 1}, "grace_steps"),
        ("trials", 2, "trials"),
        ("tasks", [], "tasks"),
        ("search", {}, "search"),
        ("robust", {"k": math.nan}, "robust.k"),
        ("sampler", {"name": "grid"}, "sampler.name"),
        ("unknown", 1, "unknown"),
        ("fixed", {next(iter(content["search"])): 1}, next(iter(content["search"]))),
        ("fixed", {"lambda_uni": -1.0}, "fixed.lambda_uni"),
        ("fixed", {"alpha_": 1.0}, "fixed.alpha_"),
    ]
    for name in ranges:
        low, high = content["search"][name]["low"], content["search"][name]["high"]
        for dimension in (
            {"low": high, "high": low},
            {"low": low, "high": low},
            {"low": 0, "high": high, "log": True},
            {"low": -1, "high": high},
            {"low": math.nan, "high": high},
            {"low": low, "high": math.inf},
            {"low": low},
            {"low": True, "high": high},
            {"low": "1", "high": high},
            {"low": low, "high": high, "steps": 1},
            {"low": low, "high": high, "step": -1},
            {"low": low, "high": high, "when": {"discrepancy": "cf"}},
            {"low": low, "high": high, "choices": [1]},
            {},
            3,
        ):
            broken.append(("search", {**content["search"], name: dimension}, f"search.{name}"))
    for name in listed:
        for choices in ([], ["rmsprop"], [content["search"][name]["choices"][0]] * 2, [math.nan], "sgd", [[1]]):
            broken.append(("search", {**content["search"], name: {"choices": choices}}, f"search.{name}"))
    key, value, named = data.draw(st.sampled_from(broken))
    text = error(tmp_path, {**content, key: value})
    assert text.startswith(str(tmp_path / "mine.yaml") + ": ")
    assert named in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"search": {"lambda_cross": {"low": 0.0, "high": 1, "log": True}}},
            "`search.lambda_cross.low` must be > 0 for a log scale, but got 0.0",
        ),
        (
            {"search": {"lambda_cros": {"low": 0.1, "high": 1}}},
            "`search.lambda_cros` is no hyperparameter; did you mean `lambda_cross`?",
        ),
        (
            {"search": {"lambda_cross": {"low": 2, "high": 1}}},
            "`search.lambda_cross.low` must be < high, but got low 2.0 and high 1.0",
        ),
        (
            {"search": {"momentum": {"low": 0, "high": 1}}},
            "`search.momentum.high`: Input should be less than 1, but got 1.0",
        ),
        (
            {"search": {"num_frequencies": {"low": 1.5, "high": 8}}},
            "`search.num_frequencies.low` must be a whole number, but got 1.5",
        ),
        (
            {"search": {"optimizer": {"low": 1, "high": 2}}},
            "`search.optimizer` is no number: it must have choices, not a range",
        ),
        ({"trails": 5}, "unknown key `trails`; did you mean `trials`?"),
        (
            {"racing": {"start": 1}, "robust": {"rule": "cvar"}},
            "`racing` goes by means over seeds: not with `robust.rule`: cvar",
        ),
        (
            {"resources": {"node_kind": "GPU"}},
            "`resources.node_kind`: must be a custom resource, not Ray's own, but got 'GPU'",
        ),
        ({"report_every": 90}, "`report_every` must be <= steps (60), but got 90"),
        (
            {"fixed": {"discrepancy": "mmd"}, "search": {"frequency_scale": {"low": 1, "high": 2}}},
            "`search.frequency_scale` has no effect with `fixed.discrepancy`: mmd",
        ),
        (
            {"fixed": {"discrepancy": "mmd"}, "search": {"frequency_sampling": {"choices": ["orthogonal"]}}},
            "`search.frequency_sampling` has no effect with `fixed.discrepancy`: mmd",
        ),
    ],
)
def test_messages(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert error(tmp_path, minimal(**changes)) == f"{tmp_path / 'mine.yaml'}: {expected}"


def test_key_or_value_with_a_line_break_still_gives_one_line(tmp_path: Path) -> None:
    assert "unknown key" in error(tmp_path, minimal(**{"a\nb": 1}))
    assert "sampler.name" in error(tmp_path, minimal(sampler={"name": "a\nb"}))


def test_quickstart_is_found_by_name_and_holds_its_promises() -> None:
    space = load_space("quickstart", [])
    assert space.name == "quickstart"
    assert space.trials >= 24
    assert space.seeds >= 3
    assert space.fixed["lambda_uni"] == 1.0
    paper, default = (trial.hyperparameters for trial in space.default_trials())
    assert (paper.lambda_uni, paper.lambda_cross, paper.lambda_joint, paper.frequency_scale) == (1, 10, 10, 1)
    assert (paper.scaling, paper.discrepancy, paper.optimizer, paper.momentum) == ("paper", "cf", "sgd", 0.5)
    assert (paper.frequency_sampling, default.frequency_sampling) == ("independent", "orthogonal")
    assert {paper.learning_rate_of(modality) for modality in ("vision", "audio", "text")} == {0.5}
    assert space.params_of(paper)["learning_rate_vision"] == 0.5  # as the tables of trials show it
    assert default.scaling == "gradient"
    ours = Hyperparameters()
    assert (default.lambda_cross, default.lambda_joint) == (ours.lambda_cross, ours.lambda_joint)
    assert default.learning_rate_vision == default.learning_rate_audio == ours.learning_rate
    assert space.contains(default)
    assert not space.contains(paper)


def test_the_default_of_a_space_with_another_scaling_has_the_published_lambdas(tmp_path: Path) -> None:
    space = load_space(write(tmp_path, minimal(fixed={"scaling": "normalized"})))
    default = next(trial.hyperparameters for trial in space.default_trials() if trial.name == "default")
    assert (default.scaling, default.lambda_cross, default.lambda_joint) == ("normalized", 10, 10)


def test_a_recorded_search_keeps_the_defaults_that_it_began_with(tmp_path: Path) -> None:
    recorded = load_space(write(tmp_path, minimal())).model_dump(mode="json")
    assert completed(recorded) == recorded
    for task in recorded["tasks"]:
        del task["encoders"]  # as recorded by versions without it
    earlier = Space.model_validate(completed(recorded))
    params = {name: dimension.centre() for name, dimension in earlier.search.items()}
    found = earlier.hyperparameters(params)
    assert found.scaling == "normalized"
    for name in ("lambda_uni", "lambda_cross", "lambda_joint", "learning_rate"):
        assert name in params or getattr(found, name) == recorded["fixed"].get(name, 1.0)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="did you mean `quickstart`"):
        load_space("quickstrat", [])
    with pytest.raises(UserError, match="cannot be read"):
        load_space("absent/space.yaml", [])


def test_a_space_of_the_project_is_found_by_its_path_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # as `ray submit cluster.yaml search/run.py --space spaces/quickstart.yaml` on the head
    assert load_space("spaces/quickstart.yaml") == load_space("quickstart")
    (tmp_path / "spaces").mkdir()
    Path(write(tmp_path, minimal())).rename(tmp_path / "spaces" / "quickstart.yaml")
    assert load_space("spaces/quickstart.yaml").name == "mine"  # what is there comes first


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, minimal(robust=None) | {"robust": {"k": 2.0}})
    space = load_space(
        path,
        ["search.lambda_cross.low=1e-3", "tasks.0.dpc=5", "robust.k=0", "confirmation.top_k=1", "scheduler=none"],
    )
    assert space.search["lambda_cross"].low == 1e-3
    assert (space.tasks[0].dpc, space.robust.k, space.confirmation.top_k) == (5, 0, 1)
    assert space.scheduler.name == "none"


@pytest.mark.parametrize(
    "override", ["trials", "=3", "name.x=3", "tasks.1.dpc=3", "tasks.a=3", "trials=[", "seed=2001-99-99"]
)
def test_bad_override_is_named(tmp_path: Path, override: str) -> None:
    assert repr(override) in error(tmp_path, minimal(), override)


def test_override_with_a_bad_value_names_file_override_and_key(tmp_path: Path) -> None:
    text = error(tmp_path, minimal(), "steps=-1")
    assert all(part in text for part in ("mine.yaml", "steps=-1", "`steps`", "greater than or equal to 1"))


def test_paths_are_relative_to_the_yaml_and_in_overrides_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = minimal(tasks=[{"dataset": {"name": "manifest", "path": "data/mine.csv"}}])
    path = write(tmp_path, content)
    monkeypatch.chdir("/")
    assert load_space(path).tasks[0].dataset.path == tmp_path / "data/mine.csv"  # type: ignore[union-attr]
    space = load_space(path, ["tasks.0.dataset.path=tmp/other.csv"])
    assert space.tasks[0].dataset.path == Path("/tmp/other.csv").resolve()  # type: ignore[union-attr]


def test_a_checkpoint_is_looked_for_before_anything_is_started(tmp_path: Path) -> None:
    dataset = {"name": "spoken_digits"}
    encoder = {"name": "imagebind", "checkpoint": "huge.pth"}
    space = load_space(write(tmp_path, minimal(tasks=[{"dataset": dataset, "encoder": encoder}])))
    with pytest.raises(UserError) as caught:
        check_data(space)
    assert f"{tmp_path / 'huge.pth'} (tasks.0.encoder.checkpoint)" in str(caught.value)
    (tmp_path / "huge.pth").touch()
    check_data(space)


def test_hyperparameters_are_the_fixed_and_the_proposed_values(tmp_path: Path) -> None:
    space = load_space(write(tmp_path, minimal(fixed={"momentum": 0.9})))
    assert space.hyperparameters({"lambda_cross": 2.0}) == Hyperparameters(momentum=0.9, lambda_cross=2.0)
    assert space.contains(Hyperparameters(momentum=0.9, lambda_cross=2.0))
    assert not space.contains(Hyperparameters(momentum=0.9, lambda_cross=11.0))
    assert not space.contains(Hyperparameters(momentum=0.8, lambda_cross=2.0))


def test_seeds_of_searches_are_disjoint() -> None:
    first, second = (load_space("quickstart", [f"seed={seed}"]) for seed in (0, 1))
    everything = [
        s for space in (first, second) for s in replica_seeds(space) + confirmation_seeds(space, SEED_BLOCK // 2)
    ]
    assert len(set(everything)) == len(everything)
    with pytest.raises(ValueError, match="must be <= 5000"):
        confirmation_seeds(first, 5001)


def test_every_field_is_described() -> None:
    schema = Space.model_json_schema()
    own = ("Dimension", "Robust", "Sampler", "Scheduler", "Confirmation", "Resources")
    for model in (schema, *(schema["$defs"][name] for name in own)):
        assert all("description" in field for field in model["properties"].values())


@pytest.mark.parametrize(
    ("given", "nodes", "concurrent", "expected"),
    [
        ({}, [2], 4, {"CPU": 0.5}),
        ({}, [64], 4, {"CPU": 16.0}),
        ({}, [14], 4, {"CPU": 3.0}),  # Ray takes whole numbers above 1
        ({}, [1], 3, {"CPU": 0.333}),
        ({}, [1], 1000, {"CPU": 0.01}),
        ({}, [4] * 6, 4, {"CPU": 4.0}),  # not 6: a trial's are of one node
        ({}, [4] * 3, 1, {"CPU": 4.0}),
        ({}, [4, 4, 8], 4, {"CPU": 4.0}),
        ({}, [3, 3, 3], 4, {"CPU": 1.0}),  # 2 would leave one of the four waiting
        ({"cpus_per_trial": 2}, [64], 4, {"CPU": 2.0}),
        ({"gpus_per_trial": 0.25}, [64], 4, {"CPU": 0.25, "GPU": 0.25}),
        ({"node_kind": "a100"}, [4], 4, {"CPU": 1, "a100": 0.001}),
    ],
)
def test_what_a_trial_reserves(
    given: dict[str, float], nodes: list[float], concurrent: int, expected: dict[str, float]
) -> None:
    assert Resources(**given).of_trial(nodes, concurrent) == expected
