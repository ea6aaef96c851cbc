"""A condensed dataset as a folder: tensors for programs, previews and an overview for people.

- `condensed.safetensors`: one key per modality, (n, *shape) float32 in the encoder's units, and `label`, (n,) int64;
  with a teacher's labels also `soft_label`, (n, C) float32 probabilities
- `formed.safetensors`, only with `formation`: the smaller items that the stored ones hold, enlarged, to train on; keys as above,
  and `soft_label` is here
- `features.safetensors`, only with `synthesize: features`: as the towers make them, (n, width), to train heads on; those of
  `condensed.safetensors` are standardised
- `condensed.json`: how it was made, class names, input spec of each modality
- `condensation.json`, if `run` made it: validation scores of start, end and full data and on the way, the losses of each step
- `manifest.csv`: index, label, and per modality the file that shows the item (relative to the CSV)
- `previews/`: 003_seven_vision.png, 003_seven_audio.png, 003_seven_audio.wav
- `overview.png`: a contact sheet, a row per class
"""

from __future__ import annotations

import csv
import json
import platform
import re
import shutil
import unicodedata
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from condense.data.dataset import Dataset
from condense.embeddings.features import FeatureSplit
from condense.export.folder import RECORD, check_replaceable
from condense.export.nearest import shown_as
from condense.inputs.formation import formed, items_in_each
from condense.inputs.media import decode_text, picture, preview
from condense.inputs.spec import InputSpec, WrittenSpec
from condense.storage.tensor_files import write_tensors
from condense.system.errors import UserError
from condense.system.process import cores

TENSORS = "condensed.safetensors"
FORMED = "formed.safetensors"
FEATURES = "features.safetensors"
COURSE = "condensation.json"

THUMBNAIL = 84  # pixels: height of every item in the overview, and the width of a square one
OVERVIEW_ITEMS = 10  # items of a class in the overview
OVERVIEW_CLASSES = 100
PAPER, INK, FAINT, LINE, TILE = "#ffffff", "#1f2328", "#6e7781", "#e4e7eb", "#f3f4f6"


def export(
    directory: Path,
    inputs: Mapping[str, Tensor],
    labels: Tensor,
    *,
    dataset: Dataset,
    record: Mapping[str, Any],
    condensation: Mapping[str, Any] | None = None,
    max_previews: int = 200,
    soft_labels: Tensor | None = None,
    formation: int = 1,
) -> None:
    """Write the synthetic items `inputs[modality]` (n, *shape) of the classes `labels` (n,) into `directory`.

    `record` (JSON-able: config, fingerprints, steps, seed) goes into condensed.json, `condensation` (JSON-able: how the run
    went, `condense.api.Result.course`) into condensation.json. At most `max_previews` items get previews, taken from all
    classes in turn; of features the nearest real items' (`condense/export/nearest.py`). `formation`: each item holds several
    (`condense/inputs/formation.py`), which are written as well.
    `soft_labels` (items to train on, C): rows that sum to 1. The folder appears complete or not at all: it is written beside
    its place and then renamed; an earlier export there is replaced.

    Raises UserError if `directory` holds anything but an earlier export, or cannot be written.
    Raises ValueError if `inputs`, `labels` and `soft_labels` do not fit `dataset`.
    """
    inputs = {modality: tensor.detach().float().cpu().clone() for modality, tensor in inputs.items()}
    inputs = {modality: tensor.contiguous() for modality, tensor in inputs.items()}  # safetensors writes no views
    labels = labels.detach().long().cpu().clone()
    _check_items(inputs, labels, dataset.specs, dataset.num_classes)
    tensors = {**inputs, "label": labels}
    files = {TENSORS: tensors}
    if formation > 1:
        labels_each = labels.repeat_interleave(items_in_each(dataset.specs, formation))
        tensors = {**formed(dataset.specs, inputs, formation), "label": labels_each}
        files[FORMED] = tensors
    if isinstance(dataset.condense, FeatureSplit):
        raw = {m: dataset.condense.raw(m, x).contiguous() for m, x in inputs.items()}
        files[FEATURES] = {**raw, "label": labels}
    if soft_labels is not None:
        tensors["soft_label"] = soft_labels.detach().float().cpu().contiguous().clone()
        if problem := _soft_problem(tensors["soft_label"], len(tensors["label"]), dataset.num_classes):
            raise ValueError(f"soft_labels {problem}")
    content = {
        **record,
        "class_names": list(dataset.class_names),
        "modalities": list(dataset.specs),
        "specs": {modality: spec.describe() for modality, spec in dataset.specs.items()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "safetensors", "pillow")},
        },
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    course = None if condensation is None else json.dumps(condensation, allow_nan=False)
    directory = directory.resolve()
    check_replaceable(directory)
    work = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}")
    try:
        work.mkdir(parents=True)
        for name, content_of_file in files.items():
            write_tensors(work / name, content_of_file)
        (work / RECORD).write_text(text + "\n", encoding="utf-8")
        if course is not None:
            (work / COURSE).write_text(course + "\n", encoding="utf-8")
        seen, items = shown_as(dataset, inputs)
        shown = _write_previews(work, items, labels, seen, max_previews)
        _write_manifest(work / "manifest.csv", labels, seen, shown)
        draw_overview(inputs, labels, dataset).save(work / "overview.png")
        _move_into_place(work, directory)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def read_export(directory: Path) -> tuple[dict[str, Tensor], Tensor, dict[str, Any]]:
    """`inputs` (modality -> (n, *shape)), `labels` (n,) and the record that `export` wrote into `directory`.

    With `formation` these are the items to train on, more than the stored ones.
    Raises UserError, naming the file, if one is missing, damaged or does not fit the other.
    """
    tensors, record = _read(directory)
    return {modality: tensors[modality] for modality in record["modalities"]}, tensors["label"], record


def read_soft_labels(directory: Path) -> Tensor | None:
    """The soft labels (n, C) float32 in `directory`; None if it has none. Raises as `read_export`."""
    return _read(directory)[0].get("soft_label")


def _read(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The checked tensors, as in the file, and the record."""
    path = directory / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: {directory} is not a condensed dataset") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # covers broken JSON and broken UTF-8
        raise UserError(f"{path}: is not valid JSON: {error}") from None
    try:
        shapes = {modality: tuple(record["specs"][modality]["shape"]) for modality in record["modalities"]}
        num_classes = len(record["class_names"])
    except (KeyError, TypeError):
        raise UserError(f"{path}: must hold `modalities`, `specs` and `class_names`") from None

    path = directory / (FORMED if (directory / FORMED).exists() else TENSORS)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors: {' '.join(str(error).split())}") from None
    if tensors.keys() - {"soft_label"} != {*shapes, "label"}:
        raise UserError(f"{path}: must hold {', '.join([*shapes, 'label'])}, but holds {', '.join(sorted(tensors))}")
    labels = tensors["label"]
    if labels.dtype != torch.int64 or labels.ndim != 1:
        got = f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
        raise UserError(f"{path}: label: must be integers of shape (n,), but got {got}")
    for label in labels.tolist():
        if not 0 <= label < num_classes:
            raise UserError(f"{path}: label: must be in 0 .. {num_classes - 1}, but has {label}")
    for modality, shape in shapes.items():
        expected = (len(labels), *shape)
        if tensors[modality].shape != expected:
            raise UserError(f"{path}: {modality}: shape must be {expected}, but got {tuple(tensors[modality].shape)}")
        if not torch.isfinite(tensors[modality]).all():
            raise UserError(f"{path}: {modality}: holds NaN or infinity")
    if "soft_label" in tensors and (problem := _soft_problem(tensors["soft_label"], len(labels), num_classes)):
        raise UserError(f"{path}: soft_label: {problem}")
    return tensors, record


def _soft_problem(soft: Tensor, n: int, num_classes: int) -> str | None:
    """What is wrong with soft labels; None if nothing is."""
    if soft.dtype != torch.float32 or soft.shape != (n, num_classes):
        got = f"{str(soft.dtype).removeprefix('torch.')} of shape {tuple(soft.shape)}"
        return f"must be float32 of shape {(n, num_classes)}, but got {got}"
    if not bool((soft >= 0).all()) or not bool(((soft.sum(1) - 1).abs() <= 1e-4).all()):
        return "must be probabilities: >= 0, and each row must sum to 1"
    return None


def _check_items(
    inputs: Mapping[str, Tensor], labels: Tensor, specs: Mapping[str, InputSpec], num_classes: int
) -> None:
    if set(inputs) != set(specs):
        raise ValueError(f"inputs must have the modalities {list(specs)}, but have {list(inputs)}")
    if labels.ndim != 1 or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes):
        raise ValueError(f"labels must be of shape (n,) and in 0 .. {num_classes - 1}")
    for modality, spec in specs.items():
        if tuple(inputs[modality].shape) != (len(labels), *spec.shape):
            raise ValueError(f"{modality} must be {(len(labels), *spec.shape)}, but is {tuple(inputs[modality].shape)}")
        if not torch.isfinite(inputs[modality]).all():
            raise ValueError(f"{modality} holds NaN or infinity")


def _move_into_place(work: Path, directory: Path) -> None:
    """Uses two renames: between them the folder is missing, but never half-written."""
    if directory.exists():
        earlier = work.with_name(work.name + ".old")
        directory.rename(earlier)
        try:
            work.rename(directory)
        except OSError:
            earlier.rename(directory)
            raise
        shutil.rmtree(earlier, ignore_errors=True)
    else:
        work.rename(directory)


def _write_previews(
    work: Path, inputs: Mapping[str, Tensor], labels: Tensor, dataset: Dataset, max_previews: int
) -> dict[tuple[int, str], str]:
    """(index, modality) -> path in `work` of the most useful preview: sound rather than its spectrogram."""
    (work / "previews").mkdir()
    members = [torch.nonzero(labels == label).flatten().tolist() for label in range(dataset.num_classes)]
    turns = sorted((turn, index) for indices in members for turn, index in enumerate(indices))
    digits = max(3, len(str(len(labels) - 1)))
    shown = {}

    def write(index: int) -> None:
        name = f"{index:0{digits}}_{_slug(dataset.class_names[int(labels[index])])}"
        for modality, spec in dataset.specs.items():
            files = preview(spec, inputs[modality][index])
            for suffix, content in files.items():
                (work / "previews" / f"{name}_{modality}{suffix}").write_bytes(content)
            best = ".wav" if ".wav" in files else next(iter(files))
            shown[index, modality] = f"previews/{name}_{modality}{best}"

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(write, [index for _, index in turns[:max_previews]]))
    return shown


def _slug(name: str) -> str:
    """A class name as a part of a file name on any system: ASCII letters, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40] or "class"


def _write_manifest(path: Path, labels: Tensor, dataset: Dataset, shown: Mapping[tuple[int, str], str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "label", *dataset.specs])
        for index, label in enumerate(labels.tolist()):
            files = [shown.get((index, modality), "") for modality in dataset.specs]
            writer.writerow([index, dataset.class_names[label], *files])


def draw_overview(inputs: Mapping[str, Tensor], labels: Tensor, dataset: Dataset) -> Image.Image:
    """A contact sheet: a row per class, its items side by side, the modalities of an item close together.

    Shows the first `OVERVIEW_ITEMS` items of the first `OVERVIEW_CLASSES` classes, and says so if there are more. Features are
    shown as the nearest real items.
    """
    what = "condensed" if dataset.source is None else "condensed features, shown as the nearest real items"
    dataset, inputs = shown_as(dataset, inputs)
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    members = [torch.nonzero(labels == label).flatten().tolist() for label in range(dataset.num_classes)]
    columns = max(1, min(OVERVIEW_ITEMS, max(map(len, members), default=0)))
    rows = min(OVERVIEW_CLASSES, dataset.num_classes)
    names = [_shorten(_drawable(name), font, 180) for name in dataset.class_names[:rows]]
    widths = {modality: _thumbnail_width(spec) for modality, spec in dataset.specs.items()}

    margin, near, apart, row_gap = 28, 6, 22, 14
    gutter = max(int(font.getlength(name)) for name in names) + 20
    item_width = sum(widths.values()) + near * (len(widths) - 1)
    title = f"{_drawable(dataset.name)}, {what}: {len(labels)} items of {dataset.num_classes} classes"
    cut = [f"first {columns} items of each class"] if columns < max(map(len, members), default=0) else []
    cut += [f"first {rows} classes"] if rows < dataset.num_classes else []
    title += f" ({' and '.join(cut)} shown)" if cut else ""
    top = margin + 22 + 28  # title, then modality names
    width = 2 * margin + max(gutter + columns * item_width + (columns - 1) * apart, int(font.getlength(title)))
    height = top + rows * (THUMBNAIL + row_gap) + margin - row_gap

    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, margin), title, fill=INK, font=font, anchor="lm")
    for column in range(columns):
        x = margin + gutter + column * (item_width + apart)
        for modality, thumbnail_width in widths.items():
            draw.text((x, top - 14), _shorten(modality, small, thumbnail_width), fill=FAINT, font=small, anchor="lm")
            x += thumbnail_width + near
    for row, name in enumerate(names):
        y = top + row * (THUMBNAIL + row_gap)
        if row:
            draw.line((margin, y - row_gap // 2, width - margin, y - row_gap // 2), fill=LINE)
        draw.text((margin, y + THUMBNAIL // 2), name, fill=INK, font=font, anchor="lm")
        for column, index in enumerate(members[row][:columns]):
            x = margin + gutter + column * (item_width + apart)
            for modality, spec in dataset.specs.items():
                sheet.paste(_thumbnail(spec, inputs[modality][index], widths[modality]), (x, y))
                x += widths[modality] + near
    return sheet


def _thumbnail_width(spec: InputSpec) -> int:
    if len(spec.shape) != 3:
        return 2 * THUMBNAIL
    return round(THUMBNAIL * min(2.5, max(0.5, spec.shape[2] / spec.shape[1])))


def _thumbnail(spec: InputSpec, item: Tensor, width: int) -> Image.Image:
    """An image filling (width, THUMBNAIL); text as wrapped lines; other numbers as lines over their last dimension."""
    image = picture(spec, item)
    if image is not None:
        resampling = Image.Resampling.BOX if image.height > THUMBNAIL else Image.Resampling.NEAREST
        return image.convert("RGB").resize((width, THUMBNAIL), resampling)
    tile = Image.new("RGB", (width, THUMBNAIL), TILE)
    draw = ImageDraw.Draw(tile)
    if isinstance(spec, WrittenSpec):
        font = ImageFont.load_default(11)
        text = _drawable(decode_text(spec, item))
        for line in range((THUMBNAIL - 8) // 14):
            shown = _shorten(text, font, width - 12, ellipsis="")
            if len(shown) < len(text) and " " in shown:
                shown = shown[: shown.rindex(" ") + 1]
            draw.text((6, 5 + 14 * line), shown, fill=INK, font=font)
            text = text[len(shown) :].lstrip()
        return tile
    series = item.reshape(-1, item.shape[-1])[:6]
    shades = ("#3b6ea8", "#c8553d", "#5b8c5a", "#8e6bbf", "#b08b2e", "#4a9aa5")
    heights = (1 - (series - spec.low) / (spec.high - spec.low)).clamp(0, 1) * (THUMBNAIL - 9) + 4
    across = torch.linspace(4, width - 5, series.shape[1]).tolist()
    for line, shade in zip(heights.tolist(), shades, strict=False):
        draw.line(list(zip(across, line, strict=True)), fill=shade, width=1)
    return tile


def _drawable(text: str) -> str:
    """`text` in one line of ASCII, all that Pillow's own font supports: accents are dropped, other characters become `?`."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if " " <= letter <= "~" else " " if letter.isspace() else "?" for letter in letters)


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float, ellipsis: str = "...") -> str:
    """`text` cut to fit into `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + ellipsis) > width:
        text = text[:-1]
    return text + ellipsis
