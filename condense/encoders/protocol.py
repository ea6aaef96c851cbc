"""The interface of an encoder into a unified space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from condense.inputs.spec import InputSpec


class Encoder(Protocol):
    """A frozen map from the inputs of each modality into one D-dimensional space.

    In evaluation mode an item's embedding must not depend on the other items of the batch: this lets
    many condensations share one pass.
    """

    @property
    def specs(self) -> Mapping[str, InputSpec]:
        """modality -> input of the encoder."""
        ...

    @property
    def dim(self) -> int:
        """D."""
        ...

    @property
    def output_scale(self) -> Mapping[str, float]:
        """modality -> norm of the unnormalised output (ImageBind: audio 20, vision 1)."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of everything that affects the embeddings."""
        ...

    def embed(self, modality: str, inputs: Tensor) -> Tensor:
        """(n, *shape) -> (n, D) float32 of unit norm; differentiable with respect to `inputs`."""
        ...
