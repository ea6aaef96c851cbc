"""Checks before a search starts: its data, its output folder, its hyperparameters."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from condense.config.modalities import RATE
from condense.config.models import EncoderConfig, SpokenDigits, TransformersEncoder
from condense.config.towers import AlignedEncoder, TowerConfig, TransformersTower
from condense.data import modalities_of
from condense.export.folder import check_replaceable
from condense.system.errors import UserError
from search.ledger.atomic_files import read_json
from search.ledger.run_folder import check_folder, check_resumable, condensed_folder
from search.space.model import Space
from search.space.recorded import completed


def check_output(output: Path, space: Space, resume: bool, ablate: bool) -> None:
    """Raises UserError if the search cannot be written to `output`, or if there is none to `resume` or to `ablate`."""
    if ablate and not (output / "report.json").is_file():
        raise UserError(f"{output}: --ablate needs a finished search (there is no report.json)")
    if resume:
        check_resumable(output)
    if not output.is_dir():
        return
    known = read_json(output / "search.json")
    if known is not None and isinstance(known.get("space"), dict):
        known = {**known, "space": completed(known["space"])}
    check_folder(output, json.loads(space.model_dump_json()), resume, known)
    for task in range(len(space.tasks)):
        check_replaceable(condensed_folder(output, task))


def missing_parts(space: Space) -> list[str]:
    """Files and packages that the search needs and this machine lacks, each with the key that needs it or how to get it."""
    found: dict[str, None] = {}
    for i, task in enumerate(space.tasks):
        if (path := getattr(task.dataset, "path", None)) is not None and not path.exists():
            found[f"{shown(path)} (tasks.{i}.dataset.path)"] = None
        bank = {f"tasks.{i}.encoders.{n}": each for n, each in enumerate(task.encoders)}
        for key, encoder in {f"tasks.{i}.encoder": task.encoder, **bank}.items():
            found |= dict.fromkeys(_missing_of(encoder, key))
    return list(found)


def _missing_of(encoder: EncoderConfig | TowerConfig, key: str) -> list[str]:
    if isinstance(encoder, AlignedEncoder):
        return [each for name, tower in encoder.towers.items() for each in _missing_of(tower, f"{key}.towers.{name}")]
    found = []
    for name in ("checkpoint", "path"):
        path = getattr(encoder, name, None)
        if path is not None and not path.exists():
            hint = f": python -m condense download imagebind --to {shown(path)}" if name == "checkpoint" else ""
            found.append(f"{shown(path)} ({key}.{name}){hint}")
    needed = {"imagebind": ("imagebind", "einops", "ftfy", "regex"), "transformers": ("transformers",)}
    for package in needed.get(str(getattr(encoder, "name", getattr(encoder, "kind", ""))), ()):
        if importlib.util.find_spec(package) is None:
            found.append(f"the package {package} ({key}): make installs it, README.md says how else")
    if (
        isinstance(encoder, TransformersEncoder | TransformersTower)
        and not encoder.download
        and not Path(encoder.model).is_dir()
    ):
        found += missing_model(encoder, key)
    return found


def missing_model(encoder: TransformersEncoder | TransformersTower, key: str) -> list[str]:
    """Lists a transformers model that is not on this machine."""
    if importlib.util.find_spec("transformers") is None:
        return []
    from condense.inputs.transformers import model_folder

    try:
        model_folder(encoder)
    except UserError as error:
        return [f"{error} ({key}.model)"]
    return []


def check_data(space: Space) -> None:
    """Raises UserError for a missing file or package, for modalities that the data do not say, and for hyperparameters that have
    no effect on theirs, before Ray is started."""
    missing = missing_parts(space)
    if missing:
        raise UserError(f"missing: {'; '.join(missing)}")
    modalities = [{"modalities": list(modalities_of(task.dataset))} for task in space.tasks]
    check_learning_rates(space, modalities)
    check_lambdas(space, modalities)


def data_warnings(space: Space) -> list[str]:
    """What a user should know of the tasks' own data, once they are read; nothing is encoded. Raises UserError as a search does,
    for data that cannot be read or do not fit the encoder."""
    from condense.embeddings.task import load_data  # here: what is checked before Ray starts needs no torch
    from condense.evaluation.task_warnings import dataset_warnings

    found: dict[str, None] = {}
    for task in space.tasks:
        own = not isinstance(task.dataset, SpokenDigits)  # which are made first: that takes long
        if own and "'download': True" not in str(task.encoder.model_dump()):  # nor is a model fetched
            found |= dict.fromkeys(dataset_warnings(load_data(task)))
    return list(found)


def check_formations(space: Space, tasks: list[dict[str, Any]], limits: list[dict[str, Any]]) -> None:
    """Raises UserError if a class has too few items for the largest formation: better now than in every trial."""
    dimension = space.search.get("formation")
    group = "fixed" if dimension is None else "search"
    values = [space.fixed.get("formation", 1)] if dimension is None else dimension.choices or [dimension.high]
    largest = int(max(values))
    for i, (task, limit) in enumerate(zip(tasks, limits, strict=True)):
        needed = task["dpc"] * limit["items_in_each"][largest]
        if largest > 1 and len(task["class_names"]) == 1:
            raise UserError(f"{group}.formation: tasks.{i} has no classes: formation would part its pairs: set it to 1")
        if largest > 1 and needed > limit["smallest_class"]:
            raise UserError(
                f"{group}.formation: {largest} starts from {needed} items per class at dpc {task['dpc']}, "
                f"but a class of tasks.{i} has {limit['smallest_class']}"
            )


def smallest(limits: list[dict[str, Any]], folds: int) -> list[dict[str, Any]]:
    """What each task's folds have at least, of `limits` of each fold, task by task."""
    return [min(limits[i : i + folds], key=lambda own: own["smallest_class"]) for i in range(0, len(limits), folds)]


def check_learning_rates(space: Space, tasks: list[dict[str, Any]]) -> None:
    """Raises UserError for a learning rate without effect: one of a modality that no task has, or the common one if each
    modality has its own."""
    known = {modality for task in tasks for modality in task["modalities"]}
    own = set()
    for group, names in (("search", space.search), ("fixed", space.fixed)):
        for name in names:
            modality = name.removeprefix(RATE)
            if modality == name or (group == "fixed" and space.fixed[name] is None):
                continue
            if modality not in known:
                raise UserError(
                    f"{group}.{name}: no task has the modality {modality!r} (there are: {', '.join(sorted(known))})"
                )
            own.add(modality)
    if "learning_rate" in space.search and known <= own:
        raise UserError("search.learning_rate has no effect: each modality has a learning rate of its own")


def check_lambdas(space: Space, tasks: list[dict[str, Any]]) -> None:
    """Raises UserError for a weight that is searched without effect: of terms between modalities, where there is a single one."""
    if any(len(task["modalities"]) > 1 for task in tasks):
        return
    for name in ("lambda_cross", "lambda_joint"):
        if name in space.search:
            raise UserError(f"search.{name} has no effect: the data has a single modality; take it out of `search`")


def shown(path: Path) -> str:
    """Relative to the current folder where that is shorter."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
