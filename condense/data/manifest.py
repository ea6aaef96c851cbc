"""A user's own files, listed in a CSV: columns `split`, `label` and one per modality.

Cells of a modality are file paths relative to the CSV's folder, except for `text`, where they are the text itself. An
item lacks the modalities whose cells are empty; it must have one.
Files are decoded on demand, but each is read once, for its hash, when the dataset is loaded.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from condense.config.models import MODALITIES, ManifestDataset
from condense.data.dataset import Dataset, stratified_holdout
from condense.inputs.media import check_file, is_resampled, read_item
from condense.inputs.spec import InputSpec
from condense.system.errors import UserError
from condense.system.process import cores

SPLITS = ("train", "validation", "test")
RESAMPLING = 2  # version of how sounds are brought to the encoder's rate


@dataclass(frozen=True)
class Row:
    """One item: a row of the CSV."""

    line: int  # its first line in the file, counted from 1
    split: str
    label: str
    cells: tuple[str, ...]  # one per modality; empty where the item lacks it


@dataclass(frozen=True)
class ManifestSplit:
    """A split whose items are decoded at every load, in parallel threads, or one after the other in a worker process
    (`condense/data/decoding.py`)."""

    csv_path: Path
    specs: Mapping[str, InputSpec]  # in the order of each row's cells
    rows: tuple[Row, ...]
    labels: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def present(self) -> dict[str, Tensor]:
        """modality -> (n,) bool, for those that some item lacks."""
        columns = zip(*(row.cells for row in self.rows), strict=True)
        has = {m: torch.tensor([bool(cell) for cell in cells]) for m, cells in zip(self.specs, columns, strict=False)}
        return {modality: mask for modality, mask in has.items() if not mask.all()}

    def load(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """modality -> (len(indices), *shape) float32, zeros for what an item lacks.

        Raises UserError naming CSV, row, column and file.
        """
        rows = [self.rows[index] for index in torch.as_tensor(indices).tolist()]
        batch = {modality: torch.empty(len(rows), *spec.shape) for modality, spec in self.specs.items()}

        def read(position: int) -> None:
            row = rows[position]
            for (modality, spec), cell in zip(self.specs.items(), row.cells, strict=True):
                try:
                    batch[modality][position] = read_item(spec, cell, self.csv_path.parent) if cell else 0.0
                except UserError as error:
                    raise UserError(f"{_at(self.csv_path, row, modality)}: {error}") from None

        if get_worker_info() is not None:  # one of several parallel processes
            for position in range(len(rows)):
                read(position)
            return batch
        with ThreadPoolExecutor(min(8, cores())) as pool:
            list(pool.map(read, range(len(rows))))
        return batch


def load_manifest(config: ManifestDataset, specs: Mapping[str, InputSpec]) -> Dataset:
    """The dataset that a CSV lists. `specs`: modality -> input of the encoder.

    Without `validation` rows, a share of each label's `train` rows is held out by the hash of their content: the same
    items on every machine and in any row order. Items count as the same if all their cells have the same content; rows
    that share a part (several captions of one clip) are different items, so give `validation` rows where that matters.

    The fingerprint covers splits, labels, texts, file contents and missing modalities in row order, not file names; and
    `RESAMPLING`, if any sound is resampled. It costs one read of all files.

    Raises UserError, one line naming CSV, row and file, for any error in the CSV, for files that are missing,
    empty or unreadable, for labels with too few items, and for an item that is in two splits.
    """
    path = config.path
    modalities, rows = read_rows(path)
    for modality in modalities:
        if modality not in specs:
            raise UserError(f"{path}: column `{modality}`: the encoder takes only {', '.join(specs)}")
    chosen = {modality: specs[modality] for modality in MODALITIES if modality in modalities}
    rows = [Row(row.line, row.split, row.label, tuple(row.cells[modalities.index(m)] for m in chosen)) for row in rows]
    class_names = _check_labels(path, rows)
    class_of = {name: index for index, name in enumerate(class_names)}
    digests = _digest_items(path, rows, tuple(chosen))
    _check_leakage(path, rows, digests)

    train = [index for index, row in enumerate(rows) if row.split == "train"]
    validation = [index for index, row in enumerate(rows) if row.split == "validation"]
    test = [index for index, row in enumerate(rows) if row.split == "test"]
    split_by = "rows"
    if not validation:
        _check_enough_to_hold_out(path, [rows[i] for i in train], [digests[i] for i in train])
        held = hold_out([rows[i].label for i in train], [digests[i] for i in train], config.validation_fraction)
        validation = [index for index, is_held in zip(train, held, strict=True) if is_held]
        train = [index for index, is_held in zip(train, held, strict=True) if not is_held]
        split_by = f"stratified {config.validation_fraction}"

    def split_of(indices: list[int]) -> ManifestSplit:
        labels = torch.tensor([class_of[rows[index].label] for index in indices], dtype=torch.int64)
        return ManifestSplit(path, chosen, tuple(rows[index] for index in indices), labels)

    content = [(row.split, row.label, digest) for row, digest in zip(rows, digests, strict=True)]
    how = [f"resampling {RESAMPLING}"] if _any_resampled(path, rows, chosen) else []
    fingerprint = hashlib.sha256(json.dumps(["manifest", list(chosen), split_by, content, *how]).encode()).hexdigest()
    return Dataset(path.name, chosen, class_names, split_of(train), split_of(validation), split_of(test), fingerprint)


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """The modality columns in the CSV's order, and its rows. Raises UserError if the CSV itself breaks a rule."""
    records: list[tuple[int, list[str]]] = []
    line = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for values in reader:
                if any(value.strip() for value in values):  # spreadsheets leave lines of only commas
                    records.append((line, values))
                line = reader.line_num + 1
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None
    except csv.Error as error:
        raise UserError(f"{path}: row {line}: is not valid CSV: {error}") from None
    if not records:
        raise UserError(f"{path}: is empty: a header with `split`, `label` and modalities is needed")

    header = [name.strip() for name in records[0][1]]
    for name in header:
        if name not in ("split", "label", *MODALITIES):
            raise UserError(f"{path}: unknown column `{name}`: must be split, label, {', '.join(MODALITIES)}")
        if header.count(name) > 1:
            raise UserError(f"{path}: column `{name}` is there twice")
    for name in ("split", "label"):
        if name not in header:
            raise UserError(f"{path}: column `{name}` is missing")
    modalities = [name for name in header if name in MODALITIES]
    if not modalities:
        raise UserError(f"{path}: has no modality: a column of {', '.join(MODALITIES)} is needed")

    rows = []
    for line, values in records[1:]:
        if len(values) != len(header):
            raise UserError(f"{path}: row {line}: has {len(values)} values, but the header has {len(header)}")
        cells = dict(zip(header, values, strict=True))
        split, label = cells["split"].strip(), cells["label"].strip()
        if split not in SPLITS:
            raise UserError(f"{path}: row {line}: `split` must be train, validation or test, but got {split!r}")
        if not label:
            raise UserError(f"{path}: row {line}: `label` is empty")
        # Text keeps its spaces; a text of only spaces counts as missing.
        values = [cells[name] if name == "text" and cells[name].strip() else cells[name].strip() for name in modalities]
        if not any(values):
            columns = ", ".join(f"`{name}`" for name in modalities)
            some = "is empty" if len(modalities) == 1 else "all are empty: an item needs at least one modality"
            raise UserError(f"{path}: row {line}, column{'s' * (len(modalities) > 1)} {columns}: {some}")
        rows.append(Row(line, split, label, tuple(values)))
    return modalities, rows


def sort_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Each label once: by value if all are integers, else by character."""
    names = sorted(set(labels))
    if all(re.fullmatch(r"[-+]?[0-9]+", name) for name in names):
        names.sort(key=int)
    return tuple(names)


def hold_out(labels: Sequence[str], digests: Sequence[str], fraction: float) -> list[bool]:
    """`stratified_holdout` keyed by the items' content digests; items with the same label and content go together."""
    items = list(zip(labels, digests, strict=True))
    distinct = sorted(set(items))
    held = stratified_holdout([label for label, _ in distinct], [digest for _, digest in distinct], fraction)
    is_held = dict(zip(distinct, held, strict=True))
    return [is_held[item] for item in items]


def _at(path: Path, row: Row, modality: str) -> str:
    return f"{path}: row {row.line}, column `{modality}`"


def _check_labels(path: Path, rows: list[Row]) -> tuple[str, ...]:
    """The class names. Every label must occur in train, since every class is condensed."""
    for split in ("train", "test"):
        if not any(row.split == split for row in rows):
            raise UserError(f"{path}: has no row whose `split` is {split}")
    names = sort_labels(row.label for row in rows if row.split == "train")
    known = set(names)
    for row in rows:
        if row.label not in known:
            raise UserError(f"{path}: row {row.line}: label {row.label!r} is in {row.split}, but not in train")
    return names


def _check_enough_to_hold_out(path: Path, rows: list[Row], digests: list[str]) -> None:
    lines: dict[str, int] = {}
    distinct: dict[str, set[str]] = {}
    for row, digest in zip(rows, digests, strict=True):
        lines.setdefault(row.label, row.line)
        distinct.setdefault(row.label, set()).add(digest)
    for label, found in distinct.items():
        if len(found) < 2:
            raise UserError(
                f"{path}: row {lines[label]}: label {label!r} has only 1 distinct train item: "
                "at least 2 are needed to split off validation"
            )


def _check_leakage(path: Path, rows: list[Row], digests: list[str]) -> None:
    first: dict[str, Row] = {}
    for row, digest in zip(rows, digests, strict=True):
        other = first.setdefault(digest, row)
        if other.split != row.split:
            raise UserError(
                f"{path}: row {other.line} and row {row.line}: the same item is in {other.split} and in {row.split}"
            )


def _digest_items(path: Path, rows: list[Row], modalities: Sequence[str]) -> list[str]:
    """A hash of each row's texts and file contents, None for missing ones. Checks that all files exist before reading one."""
    places: dict[str, tuple[Row, str]] = {}  # file cell -> its first occurrence; each file is hashed once
    for row in rows:
        for modality, cell in zip(modalities, row.cells, strict=True):
            if cell and modality != "text":
                places.setdefault(cell, (row, modality))

    def check(cell: str) -> None:
        try:
            check_file(path.parent / cell, cell)
        except UserError as error:
            raise UserError(f"{_at(path, *places[cell])}: {error}") from None

    def digest(cell: str) -> str:
        try:
            return digest_file(path.parent / cell)
        except OSError as error:
            raise UserError(f"{_at(path, *places[cell])}: {cell}: cannot be read: {error.strerror}") from None

    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:  # disk-bound, and sha256 releases the GIL
        list(pool.map(check, places))
        of_file = dict(zip(places, pool.map(digest, places), strict=True))
    return [
        hashlib.sha256(
            json.dumps(
                [
                    (cell if modality == "text" else of_file[cell]) if cell else None
                    for modality, cell in zip(modalities, row.cells, strict=True)
                ]
            ).encode()
        ).hexdigest()
        for row in rows
    ]


def _any_resampled(path: Path, rows: list[Row], specs: Mapping[str, InputSpec]) -> bool:
    sounds = {(modality, cell) for row in rows for modality, cell in zip(specs, row.cells, strict=True) if cell}
    return any(is_resampled(specs[modality], path.parent / cell) for modality, cell in sounds)


def digest_file(path: Path) -> str:
    """Size in bytes and sha256 of a file's content, read in parts of 1 MiB."""
    content, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            content.update(part)
            size += len(part)
    return f"{size}:{content.hexdigest()}"
