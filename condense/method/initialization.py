"""Which real items a condensation starts from, and the coreset baselines: random, herding, k-center, k-means.

n items with d features, C classes, dpc chosen items per class. Class c has n_c items; a method costs O(n_c * dpc * d) for
it, k-means as much per iteration. Distances are taken in float64, so that ties do not depend on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from condense.embeddings.embeddings import Embedded

Method = Literal["random", "herding", "k_center", "k_means"]
ITERATIONS = 300  # of Lloyd's algorithm, at most; it usually ends by itself after some tens


def choose(
    method: Method,
    features: Tensor,  # (n, d), e.g. the concatenated embeddings of all modalities
    labels: Tensor,  # (n,) int64 in 0 .. C-1
    num_classes: int,
    dpc: int,
    generator: torch.Generator,
    preferred: Tensor | None = None,  # (n,) bool
) -> Tensor:
    """(C * dpc,) int64 indices of real items, all different; class 0's dpc items first, then class 1's.

    Only `random` draws from `generator`: the others are deterministic, so replicas that start from them differ in
    their optimisation alone. Within a class, the first k of dpc items are those that dpc = k would give (for `random`:
    from a generator in the same state); but not for `k_means`, whose clusters all change with dpc. Items
    that are not `preferred` are chosen, by the same method among themselves, only if a class has fewer than dpc preferred
    ones.
    Raises ValueError if a class has fewer than dpc items.
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, but got {method!r}")
    if len(features) != len(labels):
        raise ValueError(f"features and labels must have the same length, but have {len(features)} and {len(labels)}")
    chosen = []
    for c in range(num_classes):
        members = torch.nonzero(labels == c).squeeze(1)  # (n_c,)
        if len(members) < dpc:
            raise ValueError(f"class {c} has {len(members)} items, but dpc is {dpc}")
        groups = [members]
        if preferred is not None:
            groups = [members[preferred[members]], members[~preferred[members]]]
        wanted = dpc
        for group in groups:
            count = min(wanted, len(group))
            if method == "random":
                order = torch.randperm(len(group), generator=generator, device=generator.device)[:count]
            else:
                order = _DETERMINISTIC[method](features[group].double(), count)
            chosen.append(group[order.to(group.device)])
            wanted -= count
    return torch.cat(chosen)


def choose_items(
    method: str, embedded: Embedded, num_classes: int, dpc: int, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """`choose` on a split's features, preferring complete items, and the sources of their missing modalities.

    Returns (C * dpc,) indices, and modality -> (C * dpc,) indices of the items to take it from, of the modalities that
    a chosen item lacks: that item itself where it has it, else another one of the same class, drawn from `generator`.
    Each class must have an item with each modality. All on the CPU.
    """
    features, labels = embedded.features.cpu(), embedded.labels.cpu()
    present = {m: has.cpu() for m, has in embedded.present.items()}
    complete = torch.stack(list(present.values())).all(0) if present else None
    chosen = choose(method, features, labels, num_classes, dpc, generator, complete)  # type: ignore[arg-type]
    sources = {}
    for m, has in present.items():
        lacking = torch.nonzero(~has[chosen]).squeeze(1).tolist()
        if lacking:
            sources[m] = chosen.clone()
        for i in lacking:
            others = torch.nonzero(has & (labels == labels[chosen[i]])).squeeze(1)
            sources[m][i] = others[int(torch.randint(len(others), (), generator=generator))]
    return chosen, sources


def herding(
    x: Tensor,  # (n_c, d): one class
    dpc: int,
) -> Tensor:
    """(dpc,) positions in x: each next item brings the mean of the chosen ones closest to the mean of the class.

    Welling 2009, "Herding dynamical weights to learn", in the form of iCaRL (Rebuffi et al. 2017, algorithm 4),
    without replacement. Of equally good items the first is taken.
    """
    mean = x.mean(0)  # (d,)
    square = x.square().sum(1)  # (n_c,)
    total = torch.zeros_like(mean)  # sum of the chosen items
    taken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    order = []
    for k in range(1, dpc + 1):
        # || mean - (total + x) / k ||^2, without terms that are equal for every x
        distance = square / k**2 + (2 / k) * (x @ (total / k - mean))
        best = distance.masked_fill(taken, torch.inf).argmin()
        order.append(best)
        taken[best] = True
        total += x[best]
    return torch.stack(order) if order else torch.empty(0, dtype=torch.int64, device=x.device)


def k_center(
    x: Tensor,  # (n_c, d): one class
    dpc: int,
) -> Tensor:
    """(dpc,) positions in x: each next item is the one farthest from all chosen ones (farthest-first traversal).

    Greedy 2-approximation of the k-center problem: Gonzalez 1985; as a coreset, Sener & Savarese 2018 (algorithm 1).
    It starts from the item nearest the class mean. Of equally far items the first is taken.
    """
    nearest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)  # squared distance to the chosen ones
    order: list[Tensor] = []
    for k in range(dpc):
        best = (x - x.mean(0)).square().sum(1).argmin() if k == 0 else nearest.argmax()
        order.append(best)
        nearest = torch.minimum(nearest, (x - x[best]).square().sum(1))
        nearest[best] = -1.0  # chosen: never again, not even among duplicates at distance 0
    return torch.stack(order) if order else torch.empty(0, dtype=torch.int64, device=x.device)


def k_means(
    x: Tensor,  # (n_c, d): one class
    dpc: int,
) -> Tensor:
    """(dpc,) positions in x: of each of dpc clusters the item nearest its centre, the largest cluster first.

    Clusters of one size keep the order of their starts, as `k_center` chooses them. An item that a larger cluster has taken
    is passed over. Of equally near items (up to rounding: both of a pair are) the first is taken. The first k of dpc items
    are not those that dpc = k would give.
    """
    if dpc == 0:
        return torch.empty(0, dtype=torch.int64, device=x.device)
    centres, owner = clusters(x, k_center(x, dpc))
    sizes = torch.bincount(owner, minlength=dpc)
    taken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    order = []
    for k in sizes.argsort(descending=True, stable=True):
        distance = (x - centres[k]).square().sum(1).masked_fill(taken, torch.inf)
        best = (distance <= distance.min() * (1 + 1e-9)).int().argmax()
        order.append(best)
        taken[best] = True
    return torch.stack(order)


def clusters(
    x: Tensor,  # (n_c, d)
    start: Tensor,  # (k,) positions in x of the first centres
    iterations: int = ITERATIONS,
) -> tuple[Tensor, Tensor]:
    """k-means: centres (k, d), and each item's cluster (n_c,), by Lloyd's algorithm (Lloyd 1982) from `start`.

    It ends when no item changes its cluster, at a local minimum of the summed squared distances, or after `iterations`. Of
    equally near centres the first is taken. A cluster without items keeps its centre.
    """
    centres = x[start]
    owner = torch.full((len(x),), -1, device=x.device)
    for _ in range(iterations):
        # || x - centre ||^2 / 2, without the term that is equal for every centre
        found = (centres.square().sum(1) / 2 - x @ centres.T).argmin(1)
        if torch.equal(found, owner):
            break
        owner = found
        sizes = torch.bincount(owner, minlength=len(start))[:, None]
        means = torch.zeros_like(centres).index_add_(0, owner, x) / sizes
        centres = torch.where(sizes > 0, means, centres)
    return centres, owner


_DETERMINISTIC: dict[str, Callable[[Tensor, int], Tensor]] = {
    "herding": herding,
    "k_center": k_center,
    "k_means": k_means,
}
