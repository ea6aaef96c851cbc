"""Tensors already in an encoder's input format: one safetensors file, or AVDD's `.pt` files.

safetensors: keys `train/<modality>`, `train/label`, `test/...` and, if there is one, `validation/...`; inputs are
(n, *shape), labels (n,) integers. AVDD: a file with `images_train`, `audio_train`, `labels_train`, and the `_test` ones
in the same file or beside it, in the file whose name has `test` for `train` (`_val` ones may be in the first).

Inputs are mapped from disk and converted to float32 item by item, as they are loaded: uint8 and uint16 are divided by
their largest value, giving 0 .. 1; bool becomes 0 or 1; floats keep their values. Signed integers are refused, since
their range is unknown. Images of integers are pixels: they are then normalised as the encoder reads a file's
(`condense/data/tensor_units.py`).

In a safetensors file items may lack modalities: an optional `train/present/audio` (and so on), (n,) bool, says which
items have it; the other rows of `train/audio` are ignored. An optional `train/group` (and so on), (n,) int64, says which items
belong together. Modalities besides ImageBind's six are named in the configuration, or in the file's metadata: `modalities`, a
JSON text such as `{"accelerometer": {"kind": "series", "rate": 50}}`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from condense.config.models import TensorsDataset
from condense.data.content import content_of
from condense.data.dataset import Dataset, without_missing
from condense.data.groups import group_numbers, grouped_holdout, shared_groups
from condense.data.manifest import hold_out
from condense.data.series_fit import fitted_series
from condense.data.shared_files import crossing
from condense.data.tensor_items import CHUNK, known_items
from condense.data.tensor_parts import Part, read_content
from condense.data.tensor_units import normalized, pixel_specs, to_float, unit_warnings
from condense.inputs.series import SeriesSpec
from condense.inputs.spec import ArraySpec, ImageSpec, InputSpec
from condense.system.errors import UserError

MARGIN = 0.05  # how far `low` and `high` lie beyond train's extremes, as a share of their distance
NAMES = {"train": "condense", "validation": "validation"}  # a file's splits -> a dataset's


@dataclass(frozen=True)
class TensorSplit:
    """The items `rows` of tensors that may be larger than memory."""

    inputs: Mapping[str, Tensor]  # modality -> (N, *shape), as stored
    rows: Tensor  # (n,) int64, in 0 .. N-1
    labels: Tensor  # (n,) int64
    present: Mapping[str, Tensor] = field(default_factory=dict)  # modality that some item lacks -> (n,) bool
    groups: Tensor | None = None  # (n,) int64
    series: Mapping[str, SeriesSpec] = field(default_factory=dict)  # those that are standardised
    pixels: Mapping[str, ImageSpec] = field(default_factory=dict)  # images of integers

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """modality -> (len(indices), *shape) float32; zeros for what an item lacks."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        rows = self.rows[chosen]
        items = {modality: to_float(tensor[rows]) for modality, tensor in self.inputs.items()}
        items = normalized(items, self.pixels)
        for modality, spec in self.series.items():
            items[modality] = spec.standardized(items[modality])
        return without_missing(items, self.present, chosen)


def load_tensors(config: TensorsDataset, wanted: Mapping[str, InputSpec] | None = None) -> Dataset:
    """The dataset in a file of tensors. Its `specs` are `ArraySpec`s of the tensors' shapes.

    Their range is that of train, widened by 5 % on either side; images of integers have the encoder's. A series that the
    encoder (`wanted`: modality -> its input) takes standardised has a `SeriesSpec` with what is measured on the condense
    split. Class names are the labels as numbers, in order, or AVDD's `classes` if the file has them. Without a validation
    split, a share of each label's train items is held out by the hash of their content; with groups, whole groups are
    (`condense/data/groups.py`). The fingerprint covers every item's bytes and label, in order, and how validation was split
    off; it costs one read of the file, and none while the file does not change. An item in two of the file's own splits stays
    in both.

    Raises UserError, one line naming file and tensor, if keys, shapes, dtypes or labels do not fit together, if train,
    validation or test hold NaN or infinity, if a label has too few items, or if an item has no modality.
    """
    path = config.path
    opened_at = time.time_ns()
    content_of_file = read_content(config)
    parts, names = content_of_file.parts, content_of_file.names
    items = known_items(path, content_of_file, opened_at)
    specs: dict[str, InputSpec] = {
        m: _spec_of(m, described.kind, parts["train"].inputs[m], *items.ranges["train"][m])
        for m, described in content_of_file.modalities.items()
    }
    of_train = items.ranges["train"]
    values = sorted(set(parts["train"].labels.tolist()))
    class_names = _name_classes(path, values, names)
    class_of = {value: index for index, value in enumerate(values)}
    for split, part in parts.items():
        for index, value in enumerate(part.labels.tolist()):
            if value not in class_of:
                raise UserError(f"{path}: {split}/label: item {index}: label {value} is not in train")

    digests = items.digests
    rows = {split: list(range(len(part.labels))) for split, part in parts.items()}
    source = {split: split for split in parts}
    split_by, how = "rows", list[object]()
    groups = {split: part.groups.tolist() for split, part in parts.items() if part.groups is not None}
    if "validation" not in parts:
        labels = list(map(str, parts["train"].labels.tolist()))
        try:
            if groups:
                held = grouped_holdout(labels, list(map(str, groups["train"])), config.validation_fraction)
            else:
                held = hold_out(labels, digests["train"], config.validation_fraction)
        except UserError as error:
            raise UserError(f"{path}: train/{'group' if groups else 'label'}: {error}") from None
        source["validation"] = "train"
        split_by = f"{'grouped' if groups else 'stratified'} {config.validation_fraction}"
        how = [groups["train"]] if groups else []
        rows["validation"] = [index for index in rows["train"] if held[index]]
        rows["train"] = [index for index in rows["train"] if not held[index]]

    indices = {split: rows[split] for split in ("train", "validation", "test")}
    numbers = {}
    if groups:
        numbers = group_numbers({name: [groups[source[name]][i] for i in own] for name, own in indices.items()})
    series = _fitted_series(parts["train"], digests["train"], rows["train"], wanted or {}, specs)
    specs.update(series)
    pixels = pixel_specs(wanted or {}, parts["train"].inputs)
    specs.update(pixels)

    def split_of(name: str) -> TensorSplit:
        part, chosen = parts[source[name]], torch.tensor(rows[name], dtype=torch.int64)
        labels = torch.tensor([class_of[value] for value in part.labels[chosen].tolist()], dtype=torch.int64)
        has = {modality: mask[chosen] for modality, mask in part.present.items()}
        missing = {modality: mask for modality, mask in has.items() if not mask.all()}
        inputs = {modality: part.inputs[modality] for modality in specs}
        return TensorSplit(inputs, chosen, labels, missing, numbers.get(name), series, pixels)

    kinds = {m: [str(parts["train"].inputs[m].dtype), *parts["train"].inputs[m].shape[1:]] for m in specs}
    content = {split: [part.labels.tolist(), digests[split]] for split, part in sorted(parts.items())}
    if pixels:
        how.append({m: [spec.mean, spec.std] for m, spec in pixels.items()})
    key = ["tensors", kinds, class_names, split_by, content, *how]
    fingerprint = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    splits = split_of("train"), split_of("validation"), split_of("test")
    warnings = unit_warnings(str(path), wanted or {}, parts["train"].inputs, of_train)
    warnings += shared_groups(str(path), numbers, sorted({group for own in groups.values() for group in own}))
    warnings += crossing(
        str(path),
        "item",
        {
            split: {digests[source[split]][i]: f"item {i} of {source[split]}" for i in reversed(own)}
            for split, own in indices.items()
        },
    )
    by_item = content_of(
        (split, str(label), digest)
        for split, part in parts.items()
        for label, digest in zip(part.labels.tolist(), digests[split], strict=True)
    )
    own = {to: [digests[source[name]][i] for i in rows[name]] for name, to in NAMES.items()}
    return Dataset(path.name, specs, class_names, *splits, fingerprint, warnings, by_item, digests=own)


def _fitted_series(
    train: Part,
    digests: Sequence[str],
    condense: Sequence[int],
    wanted: Mapping[str, InputSpec],
    specs: Mapping[str, InputSpec],
) -> dict[str, SeriesSpec]:
    """modality -> what is measured on the items `condense` of train, for series that the encoder takes standardised."""
    rows = torch.tensor(condense, dtype=torch.int64)
    content = [digests[i] for i in condense]

    def readings(modality: str) -> Iterator[Tensor]:
        has = train.present.get(modality)
        present = rows if has is None else rows[has[rows]]
        for chosen in present.split(CHUNK):
            yield to_float(train.inputs[modality][chosen])

    return {
        modality: fitted_series(spec, [modality, *content], readings(modality))
        for modality, spec in wanted.items()
        if isinstance(spec, SeriesSpec) and modality in specs and spec.shape == specs[modality].shape
    }


def _spec_of(modality: str, kind: str, tensor: Tensor, low: float, high: float) -> ArraySpec:
    margin = MARGIN * (high - low) if high > low else MARGIN
    return ArraySpec(modality, tuple(tensor.shape[1:]), low - margin, high + margin, kind=kind)


def _name_classes(path: Path, values: list[int], names: list[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(str(value) for value in values)
    if values[0] < 0 or values[-1] >= len(names):
        raise UserError(f"{path}: train/label: must be in 0 .. {len(names) - 1} (`classes`), but has {values}")
    return tuple(names[value] for value in values)
