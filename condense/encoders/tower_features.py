"""The features of real data by a tower: computed once per tower and dataset, and kept in the store.

Heads that are trained with other settings, and embeddings by them, then need no tower.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from condense.data.dataset import Dataset, Split
from condense.data.decoding import cut, decoded, workers_for
from condense.data.folds import PARTS
from condense.encoders.towers.protocol import Tower
from condense.inputs.spec import InputSpec
from condense.storage.store import Store
from condense.system.precision import full_float32
from condense.system.progress import Progress

log = logging.getLogger(__name__)
VERSION = 1
QUIET = 3.0  # seconds before progress is shown
BATCH = 32  # items
PART = 64 * BATCH  # items whose features are kept together while the rest is made: what a kill may cost


def features_key(dataset: Dataset, split: str, modality: str, tower: Tower) -> dict[str, object]:
    """What the features of a split's modality depend on; the address of their entry in the store."""
    return {
        "version": VERSION,
        "dataset": dataset.fingerprint,
        "split": split,
        "modality": modality,
        "spec": dataset.specs[modality].describe(),
        "tower": tower.fingerprint,
    }


def split_features(
    towers: Mapping[str, Tower],
    dataset: Dataset,
    split: str,
    store: Store,
    device: torch.device,
    quiet: float = QUIET,
) -> dict[str, Tensor]:
    """modality -> (n, width) float32 on the CPU, zeros for what an item lacks, by the towers, which are on `device`.

    `split`: condense, validation or test. `quiet`: seconds before progress is shown. After a kill what was done is not lost.
    Raises UserError if an item cannot be read, FloatingPointError if its features are not finite.
    """
    if dataset.fold is not None:  # a tower sees each item once for all folds
        if split == "test":
            return split_features(towers, dataset.fold.base, split, store, device, quiet)
        pool = [split_features(towers, dataset.fold.base, part, store, device, quiet) for part in PARTS]
        return {m: dataset.fold.chosen(split, [part[m] for part in pool]) for m in towers}
    part = dataset.open_test() if split == "test" else getattr(dataset, split)
    found = {}
    for modality, tower in towers.items():
        key = features_key(dataset, split, modality, tower)
        parts = store.parts("tower_features", key)
        name = f"{modality} of {dataset.name} ({split})"
        make = _Maker(tower, part, modality, parts, device, name, quiet)
        found[modality] = store.get_or_make("tower_features", key, make)["features"]
    return found


class _Maker:
    """Makes the entry of one modality."""

    def __init__(
        self, tower: Tower, split: Split, modality: str, parts: Store, device: torch.device, name: str, quiet: float
    ) -> None:
        self.tower, self.split, self.modality = tower, split, modality
        self.parts, self.device, self.name, self.quiet = parts, device, name, quiet

    def __call__(self) -> dict[str, Tensor]:
        count = len(self.split)
        log.info("features of %d items: %s", count, self.name)

        def told(have: int, rate: float, left: str) -> str:
            return f"features of {self.name}: {have:,} of {count:,} ({100 * have / max(1, count):.1f} %), {left}"

        made = [torch.zeros(0, self.tower.width)]
        with Progress(count, told, quiet=self.quiet) as progress:
            for items in cut(range(count), PART):
                key = {"first": items.start, "count": len(items)}
                made.append(self.parts.get_or_make("part", key, lambda: self._part(items, progress.show))["features"])  # noqa: B023
                progress.show(items.stop)
            progress.end(count)
        return {"features": torch.cat(made)}

    @full_float32()
    @torch.no_grad()
    def _part(self, items: range, show: Callable[[int], None]) -> dict[str, Tensor]:
        result = torch.zeros(len(items), self.tower.width)
        has = self.split.present.get(self.modality)
        chunks = cut(items, BATCH)
        for chunk, loaded in zip(
            chunks, decoded(self.split, chunks, workers_for(self.split), self.device), strict=True
        ):
            rows = torch.arange(len(chunk))
            if has is not None:
                rows = rows[has[chunk.start : chunk.stop]]
            if len(rows):
                features = self.tower(loaded[self.modality][rows].to(self.device)).float().cpu()
                if not features.isfinite().all():
                    bad = chunk.start + int(rows[int((~features.isfinite().all(1)).nonzero()[0])])
                    raise FloatingPointError(f"the {self.modality} features of item {bad} are not finite")
                result[rows + chunk.start - items.start] = features
            show(chunk.stop)
        return {"features": result}


def inputs_of(split: Split, specs: Mapping[str, InputSpec]) -> dict[str, Tensor]:
    """modality -> (n, *shape) float32 of the given modalities, read without holding the others."""
    made: dict[str, list[Tensor]] = {modality: [] for modality in specs}
    chunks = cut(range(len(split)), BATCH) if specs else []
    for loaded in decoded(split, chunks, workers_for(split)):
        for modality, kept in made.items():
            kept.append(loaded[modality].float())
    return {modality: torch.cat(kept) for modality, kept in made.items()}
