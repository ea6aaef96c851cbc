"""How a network is trained from scratch to judge a set of items: named protocols.

- fast: a light ConvNet, 300 AdamW steps, mild augmentation; seconds per network on a CPU
- dc: as dataset condensation is evaluated by DC and DSA (Zhao, Mopuri & Bilen 2021, arXiv:2006.05929; Zhao & Bilen 2021,
  arXiv:2102.08259; `evaluate_synset` of github.com/VICO-UoE/DatasetCondensation, whose loop makes one pass more)
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

Architecture = Literal["convnet", "resnet"]
ARCHITECTURES: tuple[str, ...] = get_args(Architecture)


@dataclass(frozen=True)
class NetworkProtocol:
    """A network, and how it is trained. `steps` override `epochs`; one of them is needed."""

    name: str
    convnet: Literal["light", "published"]  # which ConvNet: `condense/evaluation/networks.py`
    widths: tuple[int, ...]  # channels of its blocks
    batch_size: int
    optimizer: Literal["adamw", "sgd"]  # sgd with momentum 0.9
    learning_rate: float
    weight_decay: float
    schedule: Literal["cosine", "half"]  # cosine to 0; or a tenth from half the training on, without the old momentum
    augmentation: Literal["mild", "dsa"] | None  # `condense/evaluation/augmentation.py`
    flip: bool = False  # whether dsa may mirror images; digits and letters must not be
    architecture: Architecture = "convnet"
    whole_epochs: bool = True  # whether what is left of an epoch is a smaller batch, or passed over
    steps: int | None = None  # batches
    epochs: int | None = None  # passes over the items

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            raise ValueError(f"protocol {self.name} needs `steps` or `epochs`")

    @property
    def label(self) -> str:
        """What a table calls it, such as `ConvNet (fast, 300 steps)`."""
        network = {"convnet": "ConvNet", "resnet": "ResNet"}[self.architecture]
        length = f"{self.epochs} epochs" if self.steps is None else f"{self.steps} steps"
        return f"{network} ({self.name}, {length})"

    def steps_for(self, n: int) -> int:
        """Steps of a training on n items."""
        return (self.epochs or 0) * self.batches(n) if self.steps is None else self.steps

    def batches(self, n: int) -> int:
        """Batches of a pass over n items."""
        return math.ceil(n / self.batch_size) if self.whole_epochs else max(1, n // self.batch_size)

    def first_half(self, n: int) -> int:
        """Steps before the schedule `half` lowers the rate: to the end of pass E // 2 + 1, counted from 0, of E (as published).

        Where `steps` are given, each counts as a pass.
        """
        return ((self.epochs or 0) // 2 + 2) * self.batches(n) if self.steps is None else self.steps // 2 + 2

    def key(self) -> dict[str, Any]:
        """JSON-able; equal for protocols that train alike. That of `fast` is what it was before there were others."""
        earlier = ("steps", "batch_size", "learning_rate", "weight_decay", "widths")
        if replace(self, **{name: getattr(FAST, name) for name in earlier}) == FAST:
            return {**{name: getattr(self, name) for name in earlier}, "augmentation": True}
        return asdict(self)


FAST = NetworkProtocol(
    name="fast",
    convnet="light",
    widths=(16, 32, 32),
    batch_size=32,
    optimizer="adamw",
    learning_rate=1e-2,
    weight_decay=0.05,
    schedule="cosine",
    augmentation="mild",
    whole_epochs=False,
    steps=300,
)
DC = NetworkProtocol(
    name="dc",
    convnet="published",
    widths=(128, 128, 128),
    batch_size=256,
    optimizer="sgd",
    learning_rate=1e-2,
    weight_decay=5e-4,
    schedule="half",
    augmentation="dsa",
    epochs=1000,
)
PRESETS = {protocol.name: protocol for protocol in (FAST, DC)}


def network_protocol(preset: str = "fast", architecture: str = "convnet", steps: int | None = None) -> NetworkProtocol:
    """A preset with another architecture, or another number of training steps.

    Raises ValueError for a preset or an architecture that is not known, or less than one step.
    """
    if preset not in PRESETS:
        raise ValueError(f"convnet must be one of {', '.join(PRESETS)}, but got {preset!r}")
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, but got {architecture!r}")
    if steps is not None and steps < 1:
        raise ValueError(f"convnet_steps must be at least 1, but got {steps}")
    chosen = replace(PRESETS[preset], architecture=architecture)  # type: ignore[arg-type]
    return chosen if steps is None else replace(chosen, steps=steps, epochs=None)
