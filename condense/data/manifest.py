"""A user's own files, listed in a CSV: columns `split`, `label`, one per modality and perhaps `group`.

Cells of a modality are file paths relative to the CSV's folder, except for text, where they are the text itself. An
item lacks the modalities whose cells are empty; it must have one.
Files are decoded on demand, but each is read once, for its hash, when it is new or has changed (`condense/data/file_digests.py`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from condense.config.modalities import Modality, in_order
from condense.config.models import ManifestDataset
from condense.data.alike_labels import alike_labels
from condense.data.content import content_of
from condense.data.cut_texts import cut_texts
from condense.data.dataset import Dataset, stratified_holdout
from condense.data.file_checks import readable_rows, unreadable
from condense.data.file_digests import digest_files, keep
from condense.data.groups import group_numbers, shared_groups
from condense.data.manifest_rows import Row, read_modalities, read_rows, told_together
from condense.data.series_fit import fitted_series
from condense.data.shared_files import components, crossing, grouped_with_files, held_out_components
from condense.inputs.media import check_file, is_averaged, is_resampled, keeps_levels, read_item
from condense.inputs.series import SeriesSpec, measured_shape
from condense.inputs.spec import ImageSpec, InputSpec, LogMelSpec, WrittenSpec
from condense.storage.store import Store
from condense.system.errors import UserError
from condense.system.process import cores

CHUNK = 256  # recordings of a series read at a time
RESAMPLING = 2  # version of how sounds are brought to the encoder's rate
HOW = (is_resampled, is_averaged, keeps_levels)  # what a dataset's fingerprint says of how its files are read


@dataclass(frozen=True)
class ManifestSplit:
    """A split whose items are decoded at every load, in parallel threads, or one after the other in a worker process
    (`condense/data/decoding.py`)."""

    csv_path: Path
    specs: Mapping[str, InputSpec]  # in the order of each row's cells
    rows: tuple[Row, ...]
    labels: Tensor  # (n,) int64
    groups: Tensor | None = None  # (n,) int64

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

        Raises UserError naming CSV, row, column and file; where one is unreadable, all of the split are looked for and told.
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

        try:
            if get_worker_info() is not None:  # one of several parallel processes
                for position in range(len(rows)):
                    read(position)
            else:
                with ThreadPoolExecutor(min(8, cores())) as pool:
                    list(pool.map(read, range(len(rows))))
        except UserError as error:
            troubles = list(unreadable(self.csv_path.parent, self.rows, self.specs, decode=True).values())
            told = told_together(self.csv_path, troubles, len(self.rows), "items cannot be read") if troubles else error
            raise UserError(str(told)) from None
        return batch


def load_manifest(config: ManifestDataset, specs: Mapping[str, InputSpec]) -> Dataset:
    """The dataset that a CSV lists. `specs`: modality -> input of the encoder.

    Without `validation` rows, a share of each label's `train` rows is held out by the hash of their content: the same
    items on every machine and in any row order. Rows that share a file, and rows of one group, are held out together
    (`condense/data/shared_files.py`, `condense/data/groups.py`).

    The fingerprint covers splits, labels, texts, file contents and missing modalities in row order, not file names; what
    validation was split off by; and how sounds are read, if any is resampled or has several
    channels. It costs one read of all files, and none of those that have not changed since.
    Series are measured on the condense split (`SeriesSpec.fitted`), which costs another of those.

    Raises UserError, one line naming CSV, row and file, for any error in the CSV, for files that are missing,
    empty or unreadable, for labels with too few items, and for an item that is in two splits.
    """
    path = config.path
    modalities, rows = read_rows(path, config.modalities)
    for name, modality in modalities.items():
        if name not in specs:
            raise UserError(f"{path}: column `{name}`: the encoder takes only {', '.join(specs)}")
        if specs[name].kind != modality.kind:
            raise UserError(
                f"{path}: column `{name}` is of kind {modality.kind}, but the encoder takes {specs[name].kind or 'another'}"
            )
    chosen = {name: specs[name] for name in in_order(modalities)}
    places = [list(modalities).index(name) for name in chosen]
    if places != list(range(len(places))):
        rows = [Row(row.line, row.split, row.label, tuple(row.cells[i] for i in places), row.group) for row in rows]
    _check_labels(path, rows)  # before any file is looked at
    rows, left_out = readable_rows(config, rows, chosen)
    class_names = _check_labels(path, rows)
    class_of = {name: index for index, name in enumerate(class_names)}
    digests, files = _digest_items(path, rows, chosen)
    _check_leakage(path, rows, digests)

    train = [index for index, row in enumerate(rows) if row.split == "train"]
    validation = [index for index, row in enumerate(rows) if row.split == "validation"]
    test = [index for index, row in enumerate(rows) if row.split == "test"]
    split_by, how = "rows", list[object]()
    groups = [row.group for row in rows if row.group is not None]  # of all rows, or of none
    if not validation:
        of_train = [rows[i].label for i in train], [digests[i] for i in train]
        keys = [list(files[i].values()) for i in train]
        if groups:
            held, by = _hold_out_groups(path, of_train[0], [groups[i] for i in train], keys, config.validation_fraction)
            split_by, how = f"grouped {config.validation_fraction}", [by]
        else:
            _check_enough_to_hold_out(path, [rows[i] for i in train], of_train[1])
            whole = components([[digest, *own] for digest, own in zip(of_train[1], keys, strict=True)], of_train[1])
            if whole == of_train[1]:  # no two items share a file
                held, split_by = hold_out(*of_train, config.validation_fraction), "stratified"
            else:
                held, split_by = (
                    held_out_components(of_train[0], whole, of_train[1], config.validation_fraction),
                    "files",
                )
            split_by = f"{split_by} {config.validation_fraction}"
        validation = [index for index, is_held in zip(train, held, strict=True) if is_held]
        train = [index for index, is_held in zip(train, held, strict=True) if not is_held]
    indices = {"train": train, "validation": validation, "test": test}
    numbers = group_numbers({split: [groups[i] for i in own] for split, own in indices.items()}) if groups else {}
    fitted = _fit_series(path, [rows[index] for index in train], [files[index] for index in train], chosen)

    def split_of(name: str) -> ManifestSplit:
        own = tuple(rows[index] for index in indices[name])
        labels = torch.tensor([class_of[row.label] for row in own], dtype=torch.int64)
        return ManifestSplit(path, fitted, own, labels, numbers.get(name))

    content = [(row.split, row.label, digest) for row, digest in zip(rows, digests, strict=True)]
    resampled, averaged, deep = _how_files_are_read(path, rows, files, chosen)
    how += [f"resampling {RESAMPLING}"] * resampled + ["channels averaged"] * averaged + ["16 bits kept"] * deep
    fingerprint = hashlib.sha256(json.dumps(["manifest", list(chosen), split_by, content, *how]).encode()).hexdigest()
    splits = split_of("train"), split_of("validation"), split_of("test")
    warnings = left_out + alike_labels(str(path), (row.label for row in rows))
    warnings += shared_groups(str(path), numbers, sorted(set(groups)))
    for place, spec in enumerate(chosen.values()):
        if isinstance(spec, WrittenSpec):
            warnings += cut_texts(str(path), spec, ((f"row {row.line}", row.cells[place]) for row in rows))
    warnings += crossing(str(path), "file", {split: _places(rows, files, own) for split, own in indices.items()})
    own = {"condense": [digests[i] for i in train], "validation": [digests[i] for i in validation]}
    return Dataset(path.name, fitted, class_names, *splits, fingerprint, warnings, content_of(content), digests=own)


def manifest_modalities(config: ManifestDataset) -> dict[str, Modality]:
    """name -> modality, in order. A series whose shape is not configured has that of the first file of its column.

    Raises UserError if the CSV's header breaks a rule, or this file cannot be read. No row is read but for that.
    """
    path = config.path
    modalities = read_modalities(path, config.modalities)
    measured = [
        (place, name, modality)
        for place, (name, modality) in enumerate(modalities.items())
        if modality.kind == "series" and name != "imu" and None in (modality.channels, modality.length)
    ]
    rows = read_rows(path, config.modalities)[1] if measured else []
    for place, name, modality in measured:
        first = next((row for row in rows if row.cells[place]), None)
        if first is None:
            raise UserError(f"{path}: column `{name}` is empty in all rows")
        cell = first.cells[place]
        try:
            check_file(path.parent / cell, cell)
            channels, length = measured_shape(path.parent / cell)
        except UserError as error:
            raise UserError(f"{_at(path, first, name)}: {cell}: {str(error).removeprefix(f'{cell}: ')}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{_at(path, first, name)}: {cell}: cannot be read as NPY: {error}") from None
        modalities[name] = modality.model_copy(
            update={"channels": modality.channels or channels, "length": modality.length or length}
        )
    return {name: modalities[name] for name in in_order(modalities)}


def _fit_series(
    path: Path, rows: Sequence[Row], files: Sequence[Mapping[str, str]], specs: Mapping[str, InputSpec]
) -> dict[str, InputSpec]:
    """`specs` with what series are measured to be in `rows`. `files`: of each row, cell -> digest."""

    def recordings(spec: SeriesSpec, place: int) -> Iterator[Tensor]:
        def read(row: Row) -> Tensor:
            cell = row.cells[place]
            try:
                recording = spec.recording(path.parent / cell)
            except UserError as error:
                raise UserError(f"{_at(path, row, spec.modality)}: {cell}: {error}") from None
            except (OSError, ValueError) as error:
                raise UserError(f"{_at(path, row, spec.modality)}: {cell}: cannot be read as NPY: {error}") from None
            if not torch.isfinite(recording).all():
                raise UserError(f"{_at(path, row, spec.modality)}: {cell}: holds NaN or infinity")
            return recording

        there = [row for row in rows if row.cells[place]]
        with ThreadPoolExecutor(min(8, cores())) as pool:
            for first in range(0, len(there), CHUNK):  # no more of them in memory
                yield from pool.map(read, there[first : first + CHUNK])

    def content(place: int) -> list[str]:
        return [own[row.cells[place]] for row, own in zip(rows, files, strict=True) if row.cells[place]]

    return {
        name: fitted_series(spec, content(place), recordings(spec, place)) if isinstance(spec, SeriesSpec) else spec
        for place, (name, spec) in enumerate(specs.items())
    }


def _hold_out_groups(
    path: Path, labels: Sequence[str], groups: Sequence[str], keys: Sequence[Sequence[str]], fraction: float
) -> tuple[list[bool], list[str]]:
    try:
        return grouped_with_files(labels, groups, keys, fraction)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


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


def _places(rows: Sequence[Row], files: Sequence[Mapping[str, str]], chosen: Sequence[int]) -> dict[Hashable, str]:
    """A file's digest -> where it first is among the rows `chosen`."""
    found: dict[Hashable, str] = {}
    for index in chosen:
        for cell, digest in files[index].items():
            found.setdefault(digest, f"{cell} in row {rows[index].line}")
    return found


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


def _digest_items(
    path: Path, rows: list[Row], specs: Mapping[str, InputSpec]
) -> tuple[list[str], list[dict[str, str]]]:
    """A hash of each row's texts and file contents, None for missing ones; and each row's files, cell -> a hash of the content.
    Checks that all files exist before reading one."""
    places: dict[str, tuple[Row, str]] = {}  # file cell -> its first occurrence; each file is hashed once
    for row in rows:
        for (modality, spec), cell in zip(specs.items(), row.cells, strict=True):
            if cell and spec.kind != "text":
                places.setdefault(cell, (row, modality))

    cells = list(places)

    def check(i: int) -> None:
        try:
            check_file(path.parent / cells[i], cells[i])
        except UserError as error:
            raise UserError(f"{_at(path, *places[cells[i]])}: {error}") from None

    def unreadable(i: int, error: OSError) -> UserError:
        return UserError(f"{_at(path, *places[cells[i]])}: {cells[i]}: cannot be read: {error.strerror}")

    folder = path.parent.absolute()
    whole = [os.path.join(folder, cell) for cell in cells]
    of_file = dict(zip(cells, digest_files(whole, folder, check=check, on_error=unreadable), strict=True))
    kinds, digests, files = [spec.kind for spec in specs.values()], [], []
    for row in rows:
        own = list(zip(kinds, row.cells, strict=True))
        parts = [(cell if kind == "text" else of_file[cell]) if cell else None for kind, cell in own]
        digests.append(hashlib.sha256(json.dumps(parts).encode()).hexdigest())
        files.append({cell: of_file[cell] for kind, cell in own if cell and kind != "text"})
    return digests, files


def _how_files_are_read(
    path: Path, rows: list[Row], files: list[dict[str, str]], specs: Mapping[str, InputSpec]
) -> tuple[bool, bool, bool]:
    """Whether any sound is resampled, any has channels that are averaged, and any picture keeps 16 bits: by the files' headers,
    which are read once."""
    looked_at = {m: i for i, (m, spec) in enumerate(specs.items()) if isinstance(spec, LogMelSpec | ImageSpec)}
    if not looked_at:
        return False, False, False
    cells_of = {
        m: [own.get(row.cells[i], "") for row, own in zip(rows, files, strict=True)] for m, i in looked_at.items()
    }
    content = hashlib.sha256(json.dumps(cells_of).encode()).hexdigest()
    described = {m: [type(specs[m]).__name__, specs[m].describe()] for m in looked_at}
    store, key = Store(), {"content": content, "specs": described}
    found = store.get("file_headers", key)
    if found is None:
        cells = {(m, row.cells[i]) for m, i in looked_at.items() for row in rows if row.cells[i]}
        told = [any(test(specs[m], path.parent / cell) for m, cell in cells) for test in HOW]
        found = {"told": torch.tensor(told)}
        keep(store, "file_headers", key, found)
    resampled, averaged, deep = found["told"].tolist()
    return resampled, averaged, deep
