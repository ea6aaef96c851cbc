"""The content of a file of tensors, split by split, and its modalities. See `condense/data/tensors.py` for the layouts."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from condense.config.modalities import KIND_OF, MODALITIES, Modalities, Modality, in_order
from condense.config.models import TensorsDataset, explain
from condense.system.errors import UserError

SPLITS = ("train", "validation", "test")
GROUP = "group"
SCALES = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.bool: 1.0}  # integer dtype -> what becomes 1.0


@dataclass(frozen=True)
class Part:
    """One split of the file."""

    inputs: dict[str, Tensor]
    labels: Tensor
    present: dict[str, Tensor] = field(default_factory=dict)  # modality -> (n,) bool: which items have it
    groups: Tensor | None = None


@dataclass(frozen=True)
class Content:
    """A file's splits, its modalities in order, and the names of its classes if it has them."""

    parts: dict[str, Part]
    modalities: dict[str, Modality]
    names: list[str] | None = None
    files: tuple[Path, ...] = ()  # that they lie in


def read_content(config: TensorsDataset) -> Content:
    """The file, mapped: no input is read. Raises UserError for keys that do not fit together, and for unknown modalities."""
    path = config.path
    names, files = None, [path]
    if path.suffix == ".safetensors":
        parts, declared = _read_safetensors(path, config.modalities)
    elif path.suffix in (".pt", ".pth"):
        parts, names, files = _read_avdd(path, in_order([*MODALITIES, *config.modalities]))
        declared = config.modalities
    else:
        raise UserError(f"{path}: must be a .safetensors, .pt or .pth file")
    for split, part in parts.items():
        _check_part(path, split, part, parts["train"])
    for name in config.modalities:
        if name not in parts["train"].inputs:
            raise UserError(f"{path}: has no `train/{name}`, which `modalities` names")
    shapes = {name: tensor.shape[1:] for name, tensor in parts["train"].inputs.items()}
    modalities = {name: _shaped(path, name, shapes[name], declared.get(name)) for name in in_order(shapes)}
    return Content(parts, modalities, names, tuple(files))


def _shaped(path: Path, name: str, shape: tuple[int, ...], declared: Modality | None) -> Modality:
    """A modality with its shape, if it is a series."""
    if name in KIND_OF:
        return Modality(kind=KIND_OF[name])
    assert declared is not None
    if declared.kind != "series":
        return declared
    if len(shape) != 2:
        raise UserError(f"{path}: train/{name}: a series must be (n, channels, length), but got {('n', *shape)}")
    for key, size in (("channels", shape[0]), ("length", shape[1])):
        wanted = getattr(declared, key)
        if wanted not in (None, size):
            raise UserError(f"{path}: train/{name}: has {key} {size}, but `modalities` says {wanted}")
    return declared.model_copy(update={"channels": shape[0], "length": shape[1]})


def _declared(
    path: Path, metadata: Mapping[str, str] | None, configured: Mapping[str, Modality]
) -> dict[str, Modality]:
    """The modalities that the file's metadata and the configuration name; of both, the configuration's."""
    text = (metadata or {}).get("modalities")
    if text is None:
        return dict(configured)
    try:
        content: Any = json.loads(text)
        found = TypeAdapter(Modalities).validate_python(content)
    except ValidationError as error:
        raise UserError(explain(error, f"{path}: metadata `modalities`")) from None
    except ValueError as error:
        raise UserError(f"{path}: metadata `modalities`: is not valid JSON: {error}") from None
    for name, modality in configured.items():
        if name in found and found[name].kind != modality.kind:
            raise UserError(
                f"{path}: metadata `modalities`: `{name}` is of kind {found[name].kind}, but the configuration says "
                f"{modality.kind}"
            )
    return {**found, **configured}


def _read_safetensors(path: Path, configured: Mapping[str, Modality]) -> tuple[dict[str, Part], dict[str, Modality]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors: {' '.join(str(error).split())}") from None
    declared = _declared(path, metadata, configured)
    modalities = in_order([*MODALITIES, *declared])
    for key in tensors:
        split, _, name = key.partition("/")
        of_present = name.removeprefix("present/")
        if split not in SPLITS or (name not in ("label", GROUP) and of_present not in modalities):
            raise UserError(
                f"{path}: unknown key `{key}`: must be train/, validation/ or test/ and label, group, "
                f"{', '.join(modalities)}; `modalities` names others"
            )
        if name != of_present and f"{split}/{of_present}" not in tensors:
            raise UserError(f"{path}: `{key}`: `{split}/{of_present}`, which it describes, is missing")
    parts = {}
    for split in SPLITS:
        inputs = {m: tensors[f"{split}/{m}"] for m in modalities if f"{split}/{m}" in tensors}
        if split == "validation" and not inputs and "validation/label" not in tensors:
            continue
        if not inputs:
            raise UserError(f"{path}: has no inputs of {split}: a key such as `{split}/vision` is needed")
        if f"{split}/label" not in tensors:
            raise UserError(f"{path}: `{split}/label` is missing")
        present = {m: tensors[f"{split}/present/{m}"] for m in inputs if f"{split}/present/{m}" in tensors}
        parts[split] = Part(inputs, tensors[f"{split}/label"], present, tensors.get(f"{split}/{GROUP}"))
    return parts, declared


def _read_avdd(path: Path, modalities: list[str]) -> tuple[dict[str, Part], list[str] | None, list[Path]]:
    content, files = _load_pt(path), [path]
    parts = {"train": _avdd_part(path, content, "train", modalities)}
    if "labels_val" in content:
        parts["validation"] = _avdd_part(path, content, "val", modalities)
    if "labels_test" in content:
        parts["test"] = _avdd_part(path, content, "test", modalities)
    else:
        before, found, after = path.name.rpartition("train")
        if not found:
            raise UserError(
                f"{path}: holds no `labels_test`, and without `train` in its name has no test file beside it"
            )
        beside = path.with_name(f"{before}test{after}")
        parts["test"] = _avdd_part(beside, _load_pt(beside), "test", modalities)
        files.append(beside)
    names = content.get("classes")
    named = names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
    return parts, named, files


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


def _avdd_part(path: Path, content: dict[str, object], suffix: str, modalities: list[str]) -> Part:
    inputs = {}
    for modality in modalities:
        key = f"{'images' if modality == 'vision' else modality}_{suffix}"
        if key in content:
            inputs[modality] = _tensor(path, key, content[key])
    if not inputs:
        raise UserError(f"{path}: has no inputs: a key such as `images_{suffix}` is needed")
    if f"labels_{suffix}" not in content:
        raise UserError(f"{path}: `labels_{suffix}` is missing")
    return Part(inputs, _tensor(path, f"labels_{suffix}", content[f"labels_{suffix}"]))


def _tensor(path: Path, key: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise UserError(f"{path}: `{key}` must be a tensor, but is {type(value).__name__}")
    return value


def _check_part(path: Path, split: str, part: Part, train: Part) -> None:
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
    _check_groups(path, split, part, train)
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


def _check_groups(path: Path, split: str, part: Part, train: Part) -> None:
    if (part.groups is None) != (train.groups is None):
        with_, without = (split, "train") if train.groups is None else ("train", split)
        raise UserError(f"{path}: `{without}/group` is missing, but {with_} has groups")
    if part.groups is not None and (part.groups.dtype != torch.int64 or part.groups.shape != part.labels.shape):
        got = f"{_name(part.groups.dtype)} of shape {tuple(part.groups.shape)}"
        raise UserError(f"{path}: {split}/group: must be int64 of shape {tuple(part.labels.shape)}, but got {got}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
