"""Per-class statistics of the real embeddings: all that the cross- and joint-modal terms need."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key")


def pairs_of(modalities: Sequence[str]) -> list[tuple[str, str]]:
    """All unordered pairs."""
    return list(itertools.combinations(modalities, 2))


@dataclass(frozen=True)
class RealStatistics:
    """Per-class statistics of the real embeddings of the condense split."""

    mean: Mapping[str, Tensor]  # modality -> (C, D): mean of r_m
    product: Mapping[tuple[str, str], Tensor]  # pair -> (C, D): mean of r_a * r_b over items; only pairs that occur
    share: Mapping[tuple[str, str], Tensor] = field(default_factory=dict)
    """pair -> (C,): weight of a class in the mean over classes, 0 if it has no item with both. Only for pairs that some class
    lacks."""

    def of_classes(self, classes: slice) -> RealStatistics:
        """Those of some of the C classes; `share` is then over their own mean: its sum is that of all, times C over theirs."""

        def own(of: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
            return {key: x[..., classes, :] for key, x in of.items()}

        share = {pair: x[classes] * (len(x) / len(x[classes])) for pair, x in self.share.items()}
        return RealStatistics(own(self.mean), own(self.product), share)

    @staticmethod
    def of(
        embeddings: Mapping[str, Tensor], labels: Tensor, num_classes: int, present: Mapping[str, Tensor] | None = None
    ) -> RealStatistics:
        """From unit embeddings, modality -> (n, D), and labels (n,). Sums run in float64.

        `present`: modality -> (n,) bool, which items have it, for modalities that some item lacks.
        """
        has = present or {}

        def class_mean(x: Tensor, *modalities: str) -> tuple[Tensor, Tensor | None]:
            """(C, D): mean over the items that have all of these; and their number, (C,), if some item lacks one."""
            masks = [has[m] for m in modalities if m in has]
            kept = torch.stack(masks).all(0) if masks else None
            x, y = (x, labels) if kept is None else (x[kept], labels[kept])
            total = torch.zeros(num_classes, x.shape[1], dtype=torch.float64, device=x.device)
            total.index_add_(0, y, x.double())
            count = torch.bincount(y, minlength=num_classes).to(total)
            if kept is None:
                return (total / count[:, None]).to(x.dtype), None
            return (total / count.clamp_min(1)[:, None]).to(x.dtype), count

        means = {m: class_mean(x, m)[0] for m, x in embeddings.items()}
        product, share = {}, {}
        for a, b in pairs_of(list(embeddings)):
            mean, count = class_mean(embeddings[a] * embeddings[b], a, b)
            if count is None or bool(count.all()):
                product[a, b] = mean
            elif bool(count.any()):
                product[a, b] = mean
                there = (count > 0).double()
                share[a, b] = (there / there.sum()).to(mean)
        return RealStatistics(means, product, share)
