"""Warm start: a search begins with what an earlier one has found: all of its trials where they are of the same tasks, steps and
seeds, else its best settings, which are run again."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from condense.config.models import Hyperparameters
from condense.system.errors import UserError
from search.analysis.ranking import best_trials
from search.ledger.data_identity import FILE as DATA
from search.ledger.imports import Imported, Imports
from search.ledger.ledger import Ledger
from search.ledger.run_folder import tasks_without_places
from search.space.files import explain_space
from search.space.model import Space
from search.space.recorded import completed

# What must be the same for scores to compare; the data are compared once they are read.
SAME = ("tasks", "steps", "report_every", "seeds", "seed", "robust", "validation", "racing")
MOST = 5  # settings taken from it, at most


def importable(folder: Path, space: Space) -> Imports | str:
    """The ended trials of the search in `folder` that are trials of `space`, too; or why there are none, as a clause: the first
    key that differs, so that scores do not compare."""
    known = Ledger(folder).search.get("space")
    if not isinstance(known, dict) or not (folder / DATA).is_file():
        return "does not say what its data held"
    there, here = (tasks_without_places(own) for own in (completed(known), space.model_dump(mode="json")))
    for key in SAME:
        if there.get(key) != here[key]:
            return f"has other `{key}`"
    if not set(space.objectives) <= set(there.get("objectives", [])):
        return "has other `objectives`"
    first = {trial.name: trial.hyperparameters for trial in space.default_trials()}
    taken: dict[str, Imported] = {}
    others: list[Imported] = []
    for record in Ledger(folder).trials():
        if record.status not in ("completed", "pruned") and not record.diverged:
            continue
        try:
            setting = Hyperparameters.model_validate(record.config)
        except ValidationError:  # written by a version with other hyperparameters
            continue
        params = space.params_of(setting)
        name = next((name for name, own in first.items() if own == setting and name not in taken), None)
        if name is not None and record.status == "completed":
            taken[name] = Imported(record.number, list(first).index(name), name, params)
        elif space.contains(setting):
            others.append(Imported(record.number, len(first) + len(others), None, params))
    if not others:
        return "has no trial within the ranges"
    return Imports(folder, [*taken.values(), *others], len(others))


def earlier_settings(folder: Path, space: Space) -> list[dict[str, Any]]:
    """The recommendation and the best trials of the search in `folder`, five at most: values of `space.search`, for
    `Space.warm_start`.

    They are re-run in the new search, on its data: scores of other tasks are not comparable. Settings outside the new ranges
    are left out. Raises UserError if the folder holds no search, or none of its trials can be used.
    """
    if not (folder / "search.json").is_file():
        raise UserError(f"--warm-start {folder}: holds no search (there is no search.json)")
    ledger = Ledger(folder)
    if not isinstance(ledger.search.get("space"), dict):
        raise UserError(f"--warm-start {folder}: its search.json is damaged")
    trials = best_trials(ledger.trials(), 10 * MOST)
    if not trials:
        raise UserError(f"--warm-start {folder}: no trial of that search has a score yet")
    configs = [record.config for record in trials]
    # Absent if that search did not finish.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        configs.insert(0, yaml.safe_load((folder / "best.yaml").read_text())["hyperparameters"])
    default = space.params_of(space.default_trials()[1].hyperparameters)  # always run
    found: list[dict[str, Any]] = []
    for config in configs:
        try:
            params = space.params_of(Hyperparameters.model_validate(config))
        except ValidationError:  # written by a version with other hyperparameters
            continue
        if params not in [default, *found] and space.admits(params):
            found.append(params)
    if not found:
        raise UserError(f"--warm-start {folder}: none of its {len(trials)} trials is within the ranges of {space.name}")
    return found[:MOST]


def with_first_settings(space: Space, settings: list[dict[str, Any]], source: str) -> Space:
    """The space with `settings` from `source` as its warm start. Raises UserError if that leaves no trials for anything
    else."""
    try:
        return Space.model_validate({**space.model_dump(mode="json"), "warm_start": settings})
    except ValidationError as error:
        raise UserError(explain_space(error, source)) from None


def still_possible(settings: list[dict[str, Any]], space: Space) -> list[dict[str, Any]]:
    """Those of a search's warm start that are within the ranges, which may have been changed."""
    found = []
    for setting in settings:
        with contextlib.suppress(ValueError):
            space.check_setting("warm_start", setting)
            found.append(setting)
    return found


def recorded(output: Path) -> list[dict[str, Any]] | None:
    """The warm start of the search in `output`, which a resumed search keeps; None if there is none."""
    try:
        known: list[dict[str, Any]] = json.loads((output / "search.json").read_text())["space"]["warm_start"]
        return known
    except (OSError, ValueError, KeyError, TypeError):
        return None
