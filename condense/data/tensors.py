"""Tensors already in an encoder's input format: one safetensors file, or AVDD's `.pt` files.

safetensors: keys `train/<modality>`, `train/label`, `test/...` and, if there is one, `validation/...`; inputs are
(n, *shape), labels (n,) integers. AVDD: a file with `images_train`, `audio_train`, `labels_train`, and the `_test` ones
in the same file or beside it, in the file whose name has `test` for `train` (`_val` ones may be in the first).

Inputs are mapped from disk and converted to float32 item by item, as they are loaded: uint8 and uint16 are divided by
their largest value, giving 0 .. 1; bool becomes 0 or 1; floats keep their values. Signed integers are refused, since
their range is unknown.

In a safetensors file items may lack modalities: an optional `train/present/audio` (and so on), (n,) bool, says which
items have it; the other rows of `train/audio` are ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from condense.config.models import MODALITIES, TensorsDataset
from condense.data.dataset import Dataset, without_missing
from condense.data.manifest import hold_out
from condense.inputs.spec import ArraySpec, InputSpec
from condense.system.errors import UserError

SCALES = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.bool: 1.0}  # integer dtype -> what becomes 1.0
MARGIN = 0.05  # how far `low` and `high` lie beyond train's extremes, as a share of their distance
CHUNK = 256  # items checked at a time


@dataclass(frozen=True)
class TensorSplit:
    """The items `rows` of tensors that may be larger than memory."""

    inputs: Mapping[str, Tensor]  # modality -> (N, *shape), as stored
    rows: Tensor  # (n,) int64, in 0 .. N-1
    labels: Tensor  # (n,) int64
    present: Mapping[str, Tensor] = field(default_factory=dict)  # modality that some item lacks -> (n,) bool

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """modality -> (len(indices), *shape) float32; zeros for what an item lacks."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        rows = self.rows[chosen]
        items = {modality: _to_float(tensor[rows]) for modality, tensor in self.inputs.items()}
        return without_missing(items, self.present, chosen)


@dataclass(frozen=True)
class _Part:
    """One split of the file."""

    inputs: dict[str, Tensor]
    labels: Tensor
    present: dict[str, Tensor] = field(default_factory=dict)  # modality -> (n,) bool: which items have it


def load_tensors(config: TensorsDataset) -> Dataset:
    """The dataset in a file of tensors. Its `specs` are `ArraySpec`s of the tensors' shapes.

    Their range is that of train, widened by 5 % on either side. Class names are the labels as numbers, in order, or
    AVDD's `classes` if the file has them. Without a validation split, a share of each label's train items is held out
    by the hash of their content. The fingerprint covers every item's bytes and label, in order, and how validation was
    split off; it costs one read of the file. An item in two of the file's own splits stays in both.

    Raises UserError, one line naming file and tensor, if keys, shapes, dtypes or labels do not fit together, if train,
    validation or test hold NaN or infinity, if a label has too few items, or if an item has no modality.
    """
    path = config.path
    if path.suffix == ".safetensors":
        parts, names = _read_safetensors(path), None
    elif path.suffix in (".pt", ".pth"):
        parts, names = _read_avdd(path)
    else:
        raise UserError(f"{path}: must be a .safetensors, .pt or .pth file")
    for split, part in parts.items():
        _check_part(path, split, part, parts["train"])
    specs: dict[str, InputSpec] = {}
    for modality in (m for m in MODALITIES if m in parts["train"].inputs):
        extremes = {
            split: _extremes(path, f"{split}/{modality}", part.inputs[modality], part.present.get(modality))
            for split, part in parts.items()
        }
        specs[modality] = _spec_of(modality, parts["train"].inputs[modality], *extremes["train"])
    values = sorted(set(parts["train"].labels.tolist()))
    class_names = _name_classes(path, values, names)
    class_of = {value: index for index, value in enumerate(values)}
    for split, part in parts.items():
        for index, value in enumerate(part.labels.tolist()):
            if value not in class_of:
                raise UserError(f"{path}: {split}/label: item {index}: label {value} is not in train")

    digests = {split: _digest_items(part, tuple(specs)) for split, part in parts.items()}
    rows = {split: list(range(len(part.labels))) for split, part in parts.items()}
    source = {split: split for split in parts}
    split_by = "rows"
    if "validation" not in parts:
        try:
            held = hold_out(
                list(map(str, parts["train"].labels.tolist())), digests["train"], config.validation_fraction
            )
        except UserError as error:
            raise UserError(f"{path}: train/label: {error}") from None
        source["validation"], split_by = "train", f"stratified {config.validation_fraction}"
        rows["validation"] = [index for index in rows["train"] if held[index]]
        rows["train"] = [index for index in rows["train"] if not held[index]]

    def split_of(name: str) -> TensorSplit:
        part, chosen = parts[source[name]], torch.tensor(rows[name], dtype=torch.int64)
        labels = torch.tensor([class_of[value] for value in part.labels[chosen].tolist()], dtype=torch.int64)
        has = {modality: mask[chosen] for modality, mask in part.present.items()}
        missing = {modality: mask for modality, mask in has.items() if not mask.all()}
        return TensorSplit({modality: part.inputs[modality] for modality in specs}, chosen, labels, missing)

    kinds = {m: [str(parts["train"].inputs[m].dtype), *parts["train"].inputs[m].shape[1:]] for m in specs}
    content = {split: [part.labels.tolist(), digests[split]] for split, part in sorted(parts.items())}
    fingerprint = hashlib.sha256(json.dumps(["tensors", kinds, class_names, split_by, content]).encode()).hexdigest()
    return Dataset(
        path.name, specs, class_names, split_of("train"), split_of("validation"), split_of("test"), fingerprint
    )


def _read_safetensors(path: Path) -> dict[str, _Part]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors: {' '.join(str(error).split())}") from None
    for key in tensors:
        split, _, name = key.partition("/")
        of_present = name.removeprefix("present/")
        if split not in ("train", "validation", "test") or (name != "label" and of_present not in MODALITIES):
            raise UserError(
                f"{path}: unknown key `{key}`: must be train/, validation/ or test/ and label, {', '.join(MODALITIES)}"
            )
        if name != of_present and f"{split}/{of_present}" not in tensors:
            raise UserError(f"{path}: `{key}`: `{split}/{of_present}`, which it describes, is missing")
    parts = {}
    for split in ("train", "validation", "test"):
        inputs = {m: tensors[f"{split}/{m}"] for m in MODALITIES if f"{split}/{m}" in tensors}
        if split == "validation" and not inputs and "validation/label" not in tensors:
            continue
        if not inputs:
            raise UserError(f"{path}: has no inputs of {split}: a key such as `{split}/vision` is needed")
        if f"{split}/label" not in tensors:
            raise UserError(f"{path}: `{split}/label` is missing")
        present = {m: tensors[f"{split}/present/{m}"] for m in inputs if f"{split}/present/{m}" in tensors}
        parts[split] = _Part(inputs, tensors[f"{split}/label"], present)
    return parts


def _read_avdd(path: Path) -> tuple[dict[str, _Part], list[str] | None]:
    content = _load_pt(path)
    parts = {"train": _avdd_part(path, content, "train")}
    if "labels_val" in content:
        parts["validation"] = _avdd_part(path, content, "val")
    if "labels_test" in content:
        parts["test"] = _avdd_part(path, content, "test")
    else:
        before, found, after = path.name.rpartition("train")
        if not found:
            raise UserError(
                f"{path}: holds no `labels_test`, and without `train` in its name has no test file beside it"
            )
        beside = path.with_name(f"{before}test{after}")
        parts["test"] = _avdd_part(beside, _load_pt(beside), "test")
    names = content.get("classes")
    return parts, names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _load_pt(path: Path) -> dict[str, object]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: cannot be read as tensors (weights only): {reason}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a dict of tensors, but holds {type(content).__name__}")
    return content


def _avdd_part(path: Path, content: dict[str, object], suffix: str) -> _Part:
    inputs = {}
    for modality in MODALITIES:
        key = f"{'images' if modality == 'vision' else modality}_{suffix}"
        if key in content:
            inputs[modality] = _tensor(path, key, content[key])
    if not inputs:
        raise UserError(f"{path}: has no inputs: a key such as `images_{suffix}` is needed")
    if f"labels_{suffix}" not in content:
        raise UserError(f"{path}: `labels_{suffix}` is missing")
    return _Part(inputs, _tensor(path, f"labels_{suffix}", content[f"labels_{suffix}"]))


def _tensor(path: Path, key: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise UserError(f"{path}: `{key}` must be a tensor, but is {type(value).__name__}")
    return value


def _check_part(path: Path, split: str, part: _Part, train: _Part) -> None:
    """Checks a split as far as possible without reading its inputs."""
    labels = part.labels
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        got = f"{_name(labels.dtype)} of shape {tuple(labels.shape)}"
        raise UserError(f"{path}: {split}/label: must be integers of shape (n,), but got {got}")
    if len(labels) == 0:
        raise UserError(f"{path}: {split}/label: holds no items")
    if set(part.inputs) != set(train.inputs):
        raise UserError(f"{path}: {split} has {', '.join(part.inputs)}, but train has {', '.join(train.inputs)}")
    for modality, tensor in part.inputs.items():
        at = f"{path}: {split}/{modality}"
        if len(tensor.shape) < 2 or 0 in tensor.shape[1:]:
            raise UserError(f"{at}: shape must be (n, ...), but got {tuple(tensor.shape)}")
        if len(tensor) != len(labels):
            raise UserError(f"{at}: has {len(tensor)} items, but {split}/label has {len(labels)}")
        if tensor.shape[1:] != train.inputs[modality].shape[1:]:
            expected = tuple(train.inputs[modality].shape[1:])
            raise UserError(f"{at}: items must have train's shape {expected}, but got {tuple(tensor.shape[1:])}")
        if tensor.dtype != train.inputs[modality].dtype:
            raise UserError(
                f"{at}: must have train's dtype {_name(train.inputs[modality].dtype)}, but got {_name(tensor.dtype)}"
            )
        if not tensor.is_floating_point() and tensor.dtype not in SCALES:
            raise UserError(f"{at}: must be float, uint8, uint16 or bool, but got {_name(tensor.dtype)}")
    for modality, mask in part.present.items():
        if mask.dtype != torch.bool or mask.shape != labels.shape:
            got = f"{_name(mask.dtype)} of shape {tuple(mask.shape)}"
            raise UserError(
                f"{path}: {split}/present/{modality}: must be bool of shape {tuple(labels.shape)}, but got {got}"
            )
    if set(part.present) == set(part.inputs):
        some = torch.stack(list(part.present.values())).any(0)
        if not some.all():
            raise UserError(f"{path}: {split}: item {int(some.int().argmin())} has no modality: at least one is needed")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _to_float(tensor: Tensor) -> Tensor:
    return tensor.float() / SCALES[tensor.dtype] if tensor.dtype in SCALES else tensor.float()


def _extremes(path: Path, key: str, tensor: Tensor, has: Tensor | None) -> tuple[float, float]:
    """Smallest and largest value of the present items. Raises UserError if one is NaN or infinite."""
    low, high = float("inf"), float("-inf")
    for start in range(0, len(tensor), CHUNK):
        chunk = _to_float(tensor[start : start + CHUNK]).flatten(1)
        finite = torch.isfinite(chunk).all(dim=1)
        if has is not None:
            there = has[start : start + CHUNK]
            finite, chunk = finite | ~there, chunk[there]
        if not finite.all():
            raise UserError(f"{path}: {key}: item {start + int(finite.int().argmin())} holds NaN or infinity")
        if len(chunk) == 0:
            continue
        least, most = torch.aminmax(chunk)
        low, high = min(low, least.item()), max(high, most.item())
    return (low, high) if low <= high else (0.0, 0.0)  # no item has this modality


def _spec_of(modality: str, tensor: Tensor, low: float, high: float) -> ArraySpec:
    margin = MARGIN * (high - low) if high > low else MARGIN
    return ArraySpec(modality, tuple(tensor.shape[1:]), low - margin, high + margin)


def _name_classes(path: Path, values: list[int], names: list[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(str(value) for value in values)
    if values[0] < 0 or values[-1] >= len(names):
        raise UserError(f"{path}: train/label: must be in 0 .. {len(names) - 1} (`classes`), but has {values}")
    return tuple(names[value] for value in values)


def _digest_items(part: _Part, modalities: tuple[str, ...]) -> list[str]:
    """A hash of each item's bytes and missing modalities."""

    def digest(index: int) -> str:
        content = hashlib.sha256()
        missing = [modality for modality, mask in part.present.items() if not mask[index]]
        if missing:
            content.update(f"without {', '.join(missing)}\n".encode())
        for modality in modalities:
            if modality in missing:
                continue
            item = part.inputs[modality][index].contiguous().flatten()
            content.update(item.view(torch.uint8).numpy().tobytes())
        return content.hexdigest()

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(digest, range(len(part.labels))))
