"""The interface of a tower: one modality's part of an `aligned` encoder, before its head."""

from __future__ import annotations

from torch import Tensor, nn


class Tower(nn.Module):
    """A differentiable map from the inputs of one modality to features.

    In evaluation mode an item's features must not depend on the other items of the batch.
    """

    width: int  # of the features
    fingerprint: str  # hash of everything that affects the features, besides the inputs' spec
    trained_with_heads: bool = False  # else it is frozen

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, *shape) -> (n, width) float32."""
        raise NotImplementedError
