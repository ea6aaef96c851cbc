"""Whether a modality says anything: figures of each item's input, taken while it is encoded, and warnings made of them.

An encoder embeds silence, a black picture and numbers in other units without complaint.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from condense.data.dataset import Split
from condense.data.manifest import ManifestSplit
from condense.inputs.spec import InputSpec

PREFIX = "figures/"  # before a modality's name, among the embeddings of a pass
ALIKE = 0.9  # share of items that are one and the same, from which on it is told
ODD = 0.1  # share of items that are constant, or far out of range, likewise
NEAR = 1e-3  # between embeddings of unit norm: the same input, whatever batch it was in
SAMPLE = 32  # items, one of which is among those that are alike


def figures(inputs: Tensor) -> Tensor:
    """(n, *shape) -> (n, 3) float32 on the CPU: smallest value, largest value, and 1, which says that these are known."""
    flat = inputs.flatten(1)
    return torch.stack([flat.amin(1), flat.amax(1), torch.ones_like(flat[:, 0])], 1).float().cpu()


def modality_warnings(
    name: str,
    specs: Mapping[str, InputSpec],  # what the encoder takes
    split: Split,
    embeddings: Mapping[str, Tensor],  # modality -> (n, D)
    known: Mapping[str, Tensor],  # modality -> (n, 3) `figures`; rows of zeros, and absent modalities, are not known
) -> list[str]:
    """A line per modality whose items are all, or nearly all, alike, or of which many are constant (silent) or far out of range.
    `name`: of the data."""
    found = []
    for modality, x in embeddings.items():
        has = split.present.get(modality)
        rows = torch.arange(len(x)) if has is None else has.cpu().nonzero()[:, 0]
        if len(rows) < 2:
            continue
        odd = _odd_rows(specs[modality], rows, known.get(modality))
        what = next((what for what, own in odd.items() if len(own) >= ODD * len(rows)), None)
        some = odd[what] if what is not None else None
        if some is None:
            some, what = _alike(x.cpu()[rows]), "alike"
            if len(some) < ALIKE * len(rows):
                continue
            some = rows[some]
        share = f"{len(some):,} of {len(rows):,} items ({100 * len(some) / len(rows):.0f} %) are {what}"
        found.append(f"{name}: {modality}: {share}, such as {_place(split, int(some[0]))}: is that what they hold?")
    return found


def _odd_rows(spec: InputSpec, rows: Tensor, known: Tensor | None) -> dict[str, Tensor]:
    """What is odd -> which of `rows` are so."""
    if known is None:
        return {}
    low, high, seen = known[rows].T
    width = spec.high - spec.low
    far = (low < spec.low - width) | (high > spec.high + width)
    reach = f"far outside of {spec.low:.3g} .. {spec.high:.3g}, what the encoder takes"
    constant = "silent" if spec.kind == "sound" else "the same value everywhere"
    return {reach: rows[far & (seen > 0)], constant: rows[(low == high) & (seen > 0)]}


def _alike(x: Tensor) -> Tensor:
    """(n, D) -> the rows that are the same as one another, of the largest such set that a sample meets."""
    step = max(1, len(x) // SAMPLE)
    near = [((x - one).norm(dim=1) < NEAR).nonzero()[:, 0] for one in x[::step][:SAMPLE]]
    return max(near, key=len)


def _place(split: Split, index: int) -> str:
    if isinstance(split, ManifestSplit):
        return f"row {split.rows[index].line}"
    return f"item {index} of the condense split"
