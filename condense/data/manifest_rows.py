"""The rows of a manifest: `split`, `label`, perhaps `group`, and a column per modality. No file that they name is read here."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from condense.config.modalities import KIND_OF, KINDS, MODALITIES, NAME_RULE, Modality, is_name
from condense.system.errors import UserError

SPLITS = ("train", "validation", "test")
GROUP = "group"
EXAMPLES = 3  # of troubles that are told together


@dataclass(frozen=True)
class Row:
    """One item: a row of the CSV."""

    line: int  # its first line in the file, counted from 1
    split: str
    label: str  # in Unicode's form NFC, as the group
    cells: tuple[str, ...]  # one per modality; empty where the item lacks it
    group: str | None = None  # None: the CSV has no such column


def read_rows(path: Path, declared: Mapping[str, Modality] | None = None) -> tuple[dict[str, Modality], list[Row]]:
    """The modality columns in the CSV's order, and its rows. `declared`: the configuration's, which complete the header.

    Raises UserError if the CSV itself breaks a rule.
    """
    records = _records(path)
    columns, modalities = parse_header(path, records[0][1], declared or {})
    rows, troubles = [], []
    for line, values in records[1:]:
        try:
            rows.append(_row(line, values, columns, modalities))
        except UserError as error:
            troubles.append(str(error))
    if troubles:
        raise UserError(told_together(path, troubles, len(records) - 1, "rows break a rule"))
    return modalities, rows


def read_modalities(path: Path, declared: Mapping[str, Modality] | None = None) -> dict[str, Modality]:
    """The modality columns in the CSV's order. Reads its header only. Raises UserError if that breaks a rule."""
    return parse_header(path, _records(path, 1)[0][1], declared or {})[1]


def told_together(source: Path, troubles: Sequence[str], whole: int, what: str) -> str:
    """One line for all `troubles` of `whole` things, `what` in the plural: a count and up to three of them."""
    if len(troubles) == 1:
        return f"{source}: {troubles[0]}"
    more = f", and {len(troubles) - EXAMPLES:,} more" if len(troubles) > EXAMPLES else ""
    return f"{source}: {len(troubles):,} of {whole:,} {what}: {'; '.join(troubles[:EXAMPLES])}{more}"


def _row(line: int, values: Sequence[str], columns: Sequence[str], modalities: Mapping[str, Modality]) -> Row:
    """Raises UserError, without the CSV's name."""
    if len(values) != len(columns):
        raise UserError(f"row {line}: has {len(values)} values, but the header has {len(columns)}")
    cells = dict(zip(columns, values, strict=True))
    split, label = cells["split"].strip(), unicodedata.normalize("NFC", cells["label"].strip())
    if split not in SPLITS:
        raise UserError(f"row {line}: `split` must be train, validation or test, but got {split!r}")
    if not label:
        raise UserError(f"row {line}: `label` is empty")
    group = unicodedata.normalize("NFC", cells[GROUP].strip()) if GROUP in cells else None
    if group == "":
        raise UserError(f"row {line}: `group` is empty: an item of no group needs one of its own")
    # Text keeps its spaces; a text of only spaces counts as missing.
    own = tuple(
        (cells[name] if cells[name].strip() else "") if modality.kind == "text" else _path(cells[name].strip())
        for name, modality in modalities.items()
    )
    if not any(own):
        shown = ", ".join(f"`{name}`" for name in modalities)
        some = "is empty" if len(modalities) == 1 else "all are empty: an item needs at least one modality"
        raise UserError(f"row {line}, column{'s' * (len(modalities) > 1)} {shown}: {some}")
    return Row(line, split, label, own, group)


def _path(cell: str) -> str:
    """A file's path, with the home folder in place of `~/`."""
    return os.path.expanduser(cell) if cell.startswith("~/") else cell


def _records(path: Path, most: int | None = None) -> list[tuple[int, list[str]]]:
    """The lines that hold something, each with its number; at least one, and at most so many."""
    records: list[tuple[int, list[str]]] = []
    line = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for values in reader:
                if any(value.strip() for value in values):  # spreadsheets leave lines of only commas
                    records.append((line, values))
                    if len(records) == most:
                        break
                line = reader.line_num + 1
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None
    except csv.Error as error:
        raise UserError(f"{path}: row {line}: is not valid CSV: {error}") from None
    if not records:
        raise UserError(f"{path}: is empty: a header with `split`, `label` and modalities is needed")
    return records


def parse_header(
    path: Path, header: list[str], declared: Mapping[str, Modality]
) -> tuple[list[str], dict[str, Modality]]:
    """All columns' names, and the modalities among them in the header's order.

    A modality that is not one of ImageBind's is written `NAME:KIND`, or its kind is `declared`. Raises UserError.
    """
    columns: list[str] = []
    modalities: dict[str, Modality] = {}
    for cell in header:
        name, colon, kind = (part.strip() for part in cell.partition(":"))
        if name in columns:
            raise UserError(f"{path}: column `{name}` is there twice")
        columns.append(name)
        if name not in ("split", "label", GROUP):
            modalities[name] = _modality(path, name, kind if colon else None, declared.get(name))
        elif colon:
            raise UserError(f"{path}: column `{cell.strip()}`: `{name}` is no modality and has no kind")
    for name in ("split", "label"):
        if name not in columns:
            raise UserError(f"{path}: column `{name}` is missing")
    if not modalities:
        raise UserError(f"{path}: has no modality: a column of {', '.join(MODALITIES)} or NAME:KIND is needed")
    for name in declared:
        if name not in modalities:
            raise UserError(f"{path}: has no column `{name}`, which `modalities` names")
    return columns, modalities


def _modality(path: Path, name: str, kind: str | None, declared: Modality | None) -> Modality:
    """What a column holds; `kind`: as in the header, None if it says nothing."""
    known = KIND_OF.get(name) or (declared.kind if declared is not None else None)
    if kind is None and known is None:
        raise UserError(
            f"{path}: unknown column `{name}`: must be split, label, group, {', '.join(MODALITIES)}, or NAME:KIND with a kind of "
            f"{', '.join(KINDS)}"
        )
    if not is_name(name):
        raise UserError(f"{path}: column `{name}:{kind}`: a modality's name {NAME_RULE}")
    if kind is not None and kind not in KINDS:
        raise UserError(f"{path}: column `{name}:{kind}`: the kind must be one of {', '.join(KINDS)}, but got {kind!r}")
    if kind is not None and known is not None and kind != known:
        by = "is ImageBind's, of" if name in KIND_OF else "is, in `modalities`, of"
        raise UserError(f"{path}: column `{name}:{kind}`: `{name}` {by} kind {known}")
    return declared if declared is not None else Modality.model_validate({"kind": kind or known})
