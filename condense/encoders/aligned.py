"""`aligned`: frozen towers of one modality each, and heads into one space, trained on the user's pairs.

A head standardises a tower's features (mean and standard deviation over the condense split), maps them by a linear layer or a
small MLP, and normalises. Before it is trained it takes their principal components. The parts are apart, so that features may
be kept, or be what is synthesised:

    embed(modality, inputs) = head(modality, features(modality, inputs))
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condense.config.modalities import Modality
from condense.config.towers import AlignedEncoder
from condense.data.dataset import Dataset
from condense.encoders.alignment import align
from condense.encoders.checks import check_map
from condense.encoders.tiny import initialize
from condense.encoders.tower_features import QUIET, inputs_of, split_features
from condense.encoders.towers import CLOSE, build_tower, tower_spec
from condense.encoders.towers.protocol import Tower
from condense.inputs.spec import InputSpec
from condense.storage.store import Store, checksum, hash_of

log = logging.getLogger(__name__)
VERSION = 1
SMALLEST = 1e-6  # standard deviation of a feature


def aligned_specs(config: AlignedEncoder, modalities: Mapping[str, Modality] | None = None) -> dict[str, InputSpec]:
    """modality -> input of its tower. `modalities`: the dataset's, for names that are not ImageBind's.

    Raises UserError if a tower's files are missing.
    """
    return {
        name: tower_spec(tower, name, f"encoder.towers.{name}", modalities) for name, tower in config.towers.items()
    }


class Head(nn.Module):
    """(n, width) -> (n, dim) of unit norm."""

    def __init__(self, width: int, dim: int, kind: str) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        layers: list[nn.Module] = [nn.Linear(width, dim)]
        if kind == "mlp":
            layers = [nn.Linear(width, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)]
        self.layers = nn.Sequential(*layers)

    def fit(self, features: Tensor) -> None:
        """Before training, from the features of real items, (n, width): what standardises them, and the first layer as their
        principal components, so that what the tower knows is there before it is aligned."""
        if len(features) == 0:
            return
        self.mean = features.mean(0)
        self.std = features.std(0, correction=0).clamp(min=SMALLEST)
        x = self.standardized(features)
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        axes = torch.linalg.eigh(x.T @ x / len(x)).eigenvectors.flip(1)[:, : first.out_features]  # (width, at most out)
        with torch.no_grad():
            first.weight.zero_()
            first.weight[: axes.shape[1]] = axes.T

    def standardized(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std

    def project(self, standardized: Tensor) -> Tensor:
        return F.normalize(self.layers(standardized), dim=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.project(self.standardized(features))


class AlignedTowers(nn.Module):
    """The encoder (see `Encoder`)."""

    def __init__(self, config: AlignedEncoder, towers: Mapping[str, Tower], specs: Mapping[str, InputSpec]) -> None:
        super().__init__()
        self.specs, self.dim, self.fingerprint = dict(specs), config.dim, ""
        self.output_scale = dict.fromkeys(specs, 1.0)
        # By place: a ModuleDict refuses names such as `values`.
        self._place = {name: place for place, name in enumerate(specs)}
        self._towers = nn.ModuleList([towers[name] for name in specs])
        self._heads = nn.ModuleList([Head(towers[name].width, config.dim, config.head) for name in specs])
        initialize(self._heads, torch.Generator().manual_seed(config.seed))

    def tower_of(self, modality: str) -> Tower:
        tower = self._towers[self._place[modality]]
        assert isinstance(tower, Tower)
        return tower

    def head_of(self, modality: str) -> Head:
        head = self._heads[self._place[modality]]
        assert isinstance(head, Head)
        return head

    def features(self, modality: str, inputs: Tensor) -> Tensor:
        """(n, *shape) -> (n, width of the tower) float32; differentiable with respect to `inputs`."""
        features: Tensor = self.tower_of(modality)(inputs)
        return features

    def head(self, modality: str, features: Tensor) -> Tensor:
        """(n, width of the tower) -> (n, D) float32 of unit norm; differentiable with respect to `features`."""
        embedded: Tensor = self.head_of(modality)(features)
        return embedded

    def embed(self, modality: str, inputs: Tensor) -> Tensor:
        """See `Encoder`."""
        return self.head(modality, self.features(modality, inputs))

    @torch.no_grad()
    def embed_split(
        self, dataset: Dataset, split: str, store: Store, device: torch.device, quiet: float = QUIET
    ) -> dict[str, Tensor]:
        """modality -> (n, D) float32 on the CPU, zeros for what an item lacks, from features in the store, which are computed
        first if they are missing. Raises what `split_features` does."""
        towers = {name: self.tower_of(name) for name in self.specs}
        found = split_features(towers, dataset, split, store, device, quiet)
        part = dataset.open_test() if split == "test" else getattr(dataset, split)
        embedded = {}
        for name, features in found.items():
            embedded[name] = torch.cat([self.head(name, x.to(device)).cpu() for x in features.split(4096)])
            if name in part.present:
                embedded[name][~part.present[name].cpu()] = 0
        return embedded


def build_aligned(config: AlignedEncoder, dataset: Dataset, store: Store | None, device: torch.device) -> AlignedTowers:
    """The frozen encoder for the modalities of `dataset`; heads are trained on its condense split, or read from the store.

    `device`: where towers make features. Raises UserError, one line, if a tower cannot be loaded or breaks a rule.
    """
    store = store or Store()
    precision = getattr(torch, config.precision)
    towers = {
        name: build_tower(config.towers[name], name, dataset, precision, config.seed + place, f"encoder.towers.{name}")
        for place, name in enumerate(dataset.specs)
    }
    with torch.random.fork_rng(devices=[]):  # modules draw from the global generator when they are made
        encoder = AlignedTowers(config, towers, dataset.specs)
    key = {
        "version": VERSION,
        "config": config.model_dump(mode="json", exclude={"towers"}),
        "towers": {name: tower.fingerprint for name, tower in towers.items()},
        "specs": {name: spec.describe() for name, spec in dataset.specs.items()},
        "trained_on": dataset.fingerprint,
    }
    weights = store.get_or_make("aligned", key, lambda: _train(encoder, config, dataset, store, device))
    encoder.load_state_dict(weights, strict=False)  # without those of frozen towers
    # The order of sums in training differs between machines, so the fingerprint covers the trained weights too.
    encoder.fingerprint = hash_of({**key, "weights": checksum(weights)})
    for tower in towers.values():
        if tower.trained_with_heads:
            tower.fingerprint = hash_of({"tower": tower.fingerprint, "weights": checksum(tower.state_dict())})
    encoder.requires_grad_(False).eval().cpu()
    for name, spec in dataset.specs.items():
        at = f"encoder.towers.{name} ({config.towers[name].kind})"
        check_map(at, functools.partial(encoder.embed, name), spec, config.dim, close=CLOSE[precision])
    return encoder


def _train(
    encoder: AlignedTowers, config: AlignedEncoder, dataset: Dataset, store: Store, device: torch.device
) -> dict[str, Tensor]:
    """What is trained, as a state dict: heads, and the towers that are trained with them."""
    frozen = {name: encoder.tower_of(name) for name in dataset.specs if not encoder.tower_of(name).trained_with_heads}
    for tower in frozen.values():
        tower.to(device)
    items, embed = {}, {}
    for name, features in split_features(frozen, dataset, "condense", store, device).items():
        head, has = encoder.head_of(name), dataset.condense.present.get(name)
        head.fit(features if has is None else features[has.cpu()])
        items[name], embed[name] = head.standardized(features), head.project
    raw = {name: spec for name, spec in dataset.specs.items() if name not in frozen}
    items |= inputs_of(dataset.condense, raw)
    embed |= {name: functools.partial(encoder.embed, name) for name in raw}
    trained = [p for name in dataset.specs for p in encoder.head_of(name).parameters()]
    trained += [p for name in raw for p in encoder.tower_of(name).parameters()]
    log.info("aligning %s on %d items", ", ".join(dataset.specs), len(dataset.condense))
    ordered = {name: items[name] for name in dataset.specs}
    align(config, embed, ordered, raw, dataset.condense.present, trained)
    fixed = tuple(f"_towers.{place}." for place, name in enumerate(dataset.specs) if name in frozen)
    return {name: tensor for name, tensor in encoder.state_dict().items() if not (fixed and name.startswith(fixed))}
