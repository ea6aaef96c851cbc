"""`synthesize: features`: what is synthesised is the output of an encoder's frozen towers, before the heads.

For those who train heads on frozen backbones. No tower is in a step, which makes it hundreds of times cheaper. A task is made
into one whose items are features and whose encoder are the heads; nothing else differs. Features of frozen towers are
standardised, as a head's input is: each has mean 0 and standard deviation 1 over the condense split.

    raw                   what the tower makes
    x                     (raw - mean) / std: what is synthesised
    embed(modality, x)    head(modality, raw)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from condense.data.dataset import Dataset, Split, without_missing
from condense.encoders.aligned import AlignedTowers, Head
from condense.encoders.protocol import Encoder
from condense.encoders.tower_features import QUIET, split_features
from condense.inputs.spec import FeatureSpec
from condense.storage.store import Store, hash_of
from condense.system.errors import UserError

VERSION = 1


@dataclass(frozen=True)
class FeatureSplit:
    """The features of a split's items. They are read, or made, when they are first asked for."""

    source: Dataset
    name: str  # condense, validation or test
    encoder: AlignedTowers
    store: Store
    device: torch.device
    quiet: float = QUIET

    @property
    def _split(self) -> Split:
        split: Split = self.source.open_test() if self.name == "test" else getattr(self.source, self.name)
        return split

    @property
    def labels(self) -> Tensor:
        return self._split.labels

    @property
    def present(self) -> Mapping[str, Tensor]:
        return self._split.present

    @property
    def groups(self) -> Tensor | None:
        return self._split.groups

    def __len__(self) -> int:
        return len(self._split)

    @functools.cached_property
    def features(self) -> dict[str, Tensor]:
        """modality -> (n, width) float32, standardised, on the CPU."""
        towers = {m: self.encoder.tower_of(m) for m in self.source.modalities}
        raw = split_features(towers, self.source, self.name, self.store, self.device, self.quiet)
        heads = {m: self.encoder.head_of(m) for m in raw}
        return {m: heads[m].standardized(x.to(heads[m].mean.device)).cpu() for m, x in raw.items()}

    def raw(self, modality: str, x: Tensor) -> Tensor:
        """(n, width), standardised -> as the tower makes them."""
        head = self.encoder.head_of(modality)
        return x * head.std.to(x) + head.mean.to(x)

    def load(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        chosen = torch.as_tensor(indices)
        items = {m: x[chosen] for m, x in self.features.items()}
        return without_missing(items, self.present, chosen)


class Heads(nn.Module):
    """The encoder (see `Encoder`) of features: the heads of another one."""

    def __init__(self, whole: AlignedTowers, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__()
        self.specs, self.dim, self.output_scale = dict(specs), whole.dim, dict.fromkeys(specs, 1.0)
        self.fingerprint = hash_of({"version": VERSION, "heads of": whole.fingerprint})
        self.heads = nn.ModuleList([whole.head_of(m) for m in specs])
        self._place = {m: place for place, m in enumerate(specs)}

    def embed(self, modality: str, inputs: Tensor) -> Tensor:
        """(n, width) -> (n, D) float32 of unit norm."""
        head = self.heads[self._place[modality]]
        assert isinstance(head, Head)
        return head.project(inputs)


def of_features(dataset: Dataset, encoder: Encoder, store: Store, device: torch.device) -> tuple[Dataset, Heads]:
    """A dataset's features by an encoder's towers, as a dataset, and the heads. Its bounds are those of the condense split, wider
    by half of their range.

    Raises UserError if the encoder has no towers and heads.
    """
    if not isinstance(encoder, AlignedTowers):
        raise UserError("`synthesize: features` needs an encoder of towers and heads: `encoder: {name: aligned, ...}`")
    splits = [FeatureSplit(dataset, name, encoder, store, device) for name in ("condense", "validation", "test")]
    specs = {}
    for m, x in splits[0].features.items():
        has = splits[0].present.get(m)
        seen = x if has is None else x[has.cpu()]
        low, high = float(seen.min()), float(seen.max())
        specs[m] = FeatureSpec(
            m, (x.shape[1],), low - (high - low) / 2, high + (high - low) / 2, kind=dataset.specs[m].kind
        )
    key = {"version": VERSION, "dataset": dataset.fingerprint}
    key["towers"] = {m: encoder.tower_of(m).fingerprint for m in specs}
    features = Dataset(
        name=f"{dataset.name}, features",
        specs=specs,
        class_names=dataset.class_names,
        condense=splits[0],
        validation=splits[1],
        _test=splits[2],
        fingerprint=hash_of(key),
        source=dataset,
    )
    return features, Heads(encoder, specs)
