"""`tiny`: one small convolutional tower per modality into one space. The default on a CPU.

Pretrained contrastively (symmetric InfoNCE, van den Oord et al. 2018, as CLIP) on the pairs of the condense split,
without labels, on items where both partners are present; or left random. Frozen afterwards, and kept in the store.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condense.config.modalities import MODALITIES, Modality, submodule_name
from condense.config.models import TinyEncoder
from condense.data.dataset import Dataset, held
from condense.encoders.first_conv import FirstConv2d
from condense.inputs.series import SeriesSpec
from condense.inputs.spec import ArraySpec, ImageSpec, InputSpec, LogMelSpec, TextSpec
from condense.storage.store import Store, checksum, hash_of
from condense.system.precision import full_float32

log = logging.getLogger(__name__)
VERSION = 1
BATCH = 256
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
TEMPERATURE = 0.2
SHIFT = 0.1  # of a side, circular, along every axis but audio's frequency
NOISE = 0.1  # standard deviation


def tiny_specs(config: TinyEncoder, modalities: Mapping[str, Modality] | None = None) -> dict[str, InputSpec]:
    """The input of `tiny` for each of ImageBind's six modalities, and for those of `modalities` besides: by their kinds.

    Raises ValueError for a series of unknown shape.
    """
    side, channels = config.image_size, config.image_channels
    half = (0.5,) * channels
    specs: dict[str, InputSpec] = {
        "vision": ImageSpec.of("vision", channels, side, half, half),
        "audio": LogMelSpec.of(32, 32),
        "text": TextSpec.of(64, 16),
        "depth": ImageSpec.of("depth", 1, side, (0.5,), (0.5,)),
        "thermal": ImageSpec.of("thermal", 1, side, (0.5,), (0.5,)),
        "imu": ArraySpec("imu", (6, 128), -10.0, 10.0),
    }
    of_kind = {spec.kind: spec for spec in specs.values()}
    for name, modality in (modalities or {}).items():
        if name in MODALITIES:
            continue
        if modality.kind == "series":
            if modality.channels is None or modality.length is None:
                raise ValueError(f"{name}: a series needs its channels and length")
            specs[name] = SeriesSpec.of(name, modality.channels, modality.length, modality.rate)
        else:
            specs[name] = dataclasses.replace(of_kind[modality.kind], modality=name)
    return specs


class Tower(nn.Module):
    """(n, *shape) -> (n, dim) float32 of unit norm. 2-d convolutions over (c, h, w), 1-d over (c, t); text is
    (length, channels)."""

    def __init__(self, spec: InputSpec, width: int, dim: int) -> None:
        super().__init__()
        self.text = isinstance(spec, TextSpec)
        shape = (spec.shape[1], spec.shape[0]) if self.text else spec.shape
        flat = len(shape) == 2
        conv: type[nn.Conv1d] | type[nn.Conv2d] = nn.Conv1d if flat else nn.Conv2d
        layers: list[nn.Module] = [
            nn.Conv1d(shape[0], width, 5, stride=2, padding=2) if flat else FirstConv2d(shape[0], width)
        ]
        for before, after in ((width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.ReLU(), conv(before, after, 3, stride=2, padding=1)]
        self.body = nn.Sequential(*layers)
        self.pool: nn.Module = nn.AdaptiveAvgPool1d(4) if flat else nn.AdaptiveAvgPool2d(4)
        if all(size == 32 for size in shape[1:]):
            self.pool = (
                nn.Identity()
            )  # it already has size 4; torch's pooling would spend a fifth of the time copying it
        places = 4 if flat else 16
        if isinstance(spec, SeriesSpec):
            self.pool, places = Moments(), 2
        self.head = nn.Linear(4 * width * places, dim)

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs.transpose(1, 2) if self.text else inputs
        # The layout that the head reads, whatever the convolutions' is: a ReLU's gradient is slow between two layouts.
        features = F.relu(self.body(x).contiguous())
        output: Tensor = self.head(self.pool(features).flatten(1))
        return F.normalize(output.float() if output.dtype == torch.bfloat16 else output, dim=1)


class Moments(nn.Module):
    """(n, channels, t) -> (n, channels, 2): mean and standard deviation over time. Where in a recording a step falls says
    nothing, how strong it is does: on the windows of two sensors a probe gains four points over pooling to four places."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean(2), (x.var(2, correction=0) + 1e-4).sqrt()], 2)


class TinyTowers(nn.Module):
    """The encoder (see `Encoder`): towers for the given modalities."""

    def __init__(self, config: TinyEncoder, specs: Mapping[str, InputSpec]) -> None:
        super().__init__()
        self.specs = dict(specs)
        self.dim = config.dim
        self.output_scale = dict.fromkeys(specs, 1.0)
        self.fingerprint = ""
        self.precision: torch.dtype | None = None  # of the towers, if it is not the inputs'
        self.towers = nn.ModuleDict(
            {submodule_name(name): Tower(spec, config.width, config.dim) for name, spec in specs.items()}
        )
        initialize(self.towers, torch.Generator().manual_seed(config.seed))

    def embed(self, modality: str, inputs: Tensor) -> Tensor:
        output: Tensor = self.towers[submodule_name(modality)](
            inputs if self.precision is None else inputs.to(self.precision)
        )
        return output


def initialize(module: nn.Module, generator: torch.Generator) -> None:
    """He initialisation from the given generator; biases zero."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            with torch.no_grad():
                parameter.normal_(0, math.sqrt(2 / fan_in), generator=generator)
        else:
            nn.init.zeros_(parameter)


def build_tiny(config: TinyEncoder, dataset: Dataset, store: Store | None = None) -> TinyTowers:
    """The frozen encoder for the modalities of `dataset`, pretrained on its condense split or read from the store."""
    with torch.random.fork_rng(devices=[]):  # modules draw from the global generator when they are made
        encoder = TinyTowers(config, dataset.specs)
    key = {
        "version": VERSION,
        "config": config.model_dump(mode="json", exclude={"precision"}),  # pretraining is in float32
        "specs": {name: spec.describe() for name, spec in dataset.specs.items()},
        "pretrained_on": dataset.fingerprint if config.pretraining == "contrastive" else None,
    }
    if config.pretraining == "contrastive":
        store = store or Store()
        weights = store.get_or_make("tiny", key, lambda: _pretrain(encoder, config, dataset))
        encoder.load_state_dict(weights)
        # The order of sums in training differs between machines, so the fingerprint covers the trained weights too.
        key = {**key, "weights": checksum(weights)}
    encoder.fingerprint = hash_of(key)
    if config.precision != "float32":
        encoder.fingerprint = hash_of({**key, "precision": config.precision})
        encoder.precision = getattr(torch, config.precision)
        encoder.to(encoder.precision)
    # Channels last: the CPU's convolutions then need no copies into layouts of their own.
    frozen = encoder.requires_grad_(False).eval()
    return frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@full_float32()
def _pretrain(encoder: TinyTowers, config: TinyEncoder, dataset: Dataset) -> dict[str, Tensor]:
    """Symmetric InfoNCE over all unordered pairs of modalities; its weights as a state dict."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    items = held(dataset.condense, dataset.specs, torch.device("cpu"))
    present = dataset.condense.present
    n = len(dataset.condense)
    pairs = list(itertools.combinations(dataset.modalities, 2))
    if not pairs:  # a single modality has no partner to align with
        return encoder.state_dict()
    steps_per_epoch = max(1, n // BATCH)
    total = config.epochs * steps_per_epoch
    optimizer = torch.optim.AdamW(encoder.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=total + 1)
    for epoch in range(config.epochs):
        order = torch.randperm(n, generator=generator)
        for step in range(steps_per_epoch):
            batch = order[step * BATCH : (step + 1) * BATCH]
            embedded = {
                name: encoder.embed(name, augment(x, encoder.specs[name], generator))
                for name, x in items.load(batch).items()
            }
            loss = torch.zeros(())
            for a, b in pairs:
                x, y = embedded[a], embedded[b]
                masks = [present[m][batch] for m in (a, b) if m in present]
                if masks:
                    both = torch.stack(masks).all(0)
                    if not both.any():
                        continue
                    x, y = x[both], y[both]
                logits, target = x @ y.T / TEMPERATURE, torch.arange(len(x))
                loss = loss + F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
            optimizer.zero_grad()
            if loss.requires_grad:  # not so if no item of the batch has two modalities
                loss.backward()
            optimizer.step()
            schedule.step()
        log.info(
            "pretraining tiny: epoch %d of %d, loss %.3f",
            epoch + 1,
            config.epochs,
            loss.item() / max(1, 2 * len(pairs)),
        )
    return encoder.state_dict()


def augment(items: Tensor, spec: InputSpec, generator: torch.Generator) -> Tensor:
    """(n, *shape), all shifted by the same amount and with noise, so that towers do not match pairs by accidental details."""
    if not isinstance(spec, TextSpec):
        fixed = 2 if isinstance(spec, LogMelSpec) else 1  # channels, and audio's frequencies, stay where they are
        for axis in range(1 + fixed, items.ndim):
            reach = int(SHIFT * items.shape[axis])
            items = items.roll(int(torch.randint(-reach, reach + 1, (), generator=generator)), axis)
    return items + NOISE * torch.randn(items.shape, generator=generator)
