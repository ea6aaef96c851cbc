"""Real data of any size that is never in memory: items are drawn when they are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from condense.inputs.spec import InputSpec


@dataclass(frozen=True)
class Noise:
    """A split (see `condense.data.dataset.Split`) of `len(labels)` items."""

    specs: Mapping[str, InputSpec]
    labels: Tensor
    present: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {m: torch.randn(len(indices), *spec.shape, generator=generator) for m, spec in self.specs.items()}
