"""Retrieval between two modalities: recall, projections trained on a condensed set, alignment.

n  items, each with an embedding of both modalities
D  dimension of the unified space
C  classes

Recall counts a query as answered if its partner is among the k nearest by cosine. In a dataset of digits, any image of
a 7 answers a spoken "seven" as well as its partner, so recall of the partner says little. Given labels, any item of the
query's class counts (including its partner): class-level recall.

To judge a condensed set, two linear projections are trained on its pairs, contrastively, then
recall is measured on held-out real pairs, and compared with projections trained on the full data.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from condense.embeddings.embeddings import Embedded
from condense.evaluation.row_blocks import row_blocks

BATCH = 512  # pairs that attract and repel each other in a step of the projections' training


# A teacher's logits: (R, N, N); or a function of some items' numbers (B,) to (R, B, B), where the whole would be too large.
Similarity = Tensor | Callable[[Tensor], Tensor]


@torch.no_grad()
def retrieval_recall(
    a: Tensor,  # (n, D) embeddings of one modality
    b: Tensor,  # (n, D) of the other, same items in the same order
    k: Sequence[int] = (1, 5, 10),
    *,
    labels: Tensor | None = None,  # (n,) int64: count any item of the same class; None: the partner alone
) -> dict[str, float]:
    """`a_to_b/recall@1` and so on, 0 .. 1, in both directions; `a_to_b/class_recall@1` if there are labels.

    Ties count as if in random order: embeddings that are all equal have the recall of chance, not 1. Raises ValueError
    on shapes that do not fit or k < 1.
    """
    name = "recall" if labels is None else "class_recall"
    found = zip(("a_to_b", "b_to_a"), answered(a, b, k, labels), strict=True)
    return {
        f"{direction}/{name}@{each}": float(own.mean())
        for direction, of_direction in found
        for each, own in zip(k, of_direction, strict=True)
    }


@torch.no_grad()
def answered(
    a: Tensor,  # (n, D) embeddings of one modality
    b: Tensor,  # (n, D) of the other, same items in the same order
    k: Sequence[int],
    labels: Tensor | None = None,  # as in `retrieval_recall`
) -> tuple[Tensor, Tensor]:
    """Of each query from a, and of each from b: the probability of an answer among the k nearest, (len(k), n) float64.

    Their means are `retrieval_recall`; raises the same.
    """
    if a.shape != b.shape or a.dim() != 2 or len(a) == 0:
        raise ValueError(f"a and b must both be (n, D) with n > 0, but got {tuple(a.shape)} and {tuple(b.shape)}")
    if any(each < 1 for each in k):
        raise ValueError(f"k must be at least 1, but got {min(k)}")
    classes = torch.arange(len(a), device=a.device) if labels is None else labels
    a, b = (torch.nn.functional.normalize(x.float(), dim=1) for x in (a, b))

    def of(queries: Tensor, answers: Tensor) -> Tensor:
        found = []
        for rows in row_blocks(len(a), len(a)):
            same = classes[rows, None] == classes  # (m, n)
            found.append(chance_to_find(queries[rows] @ answers.T, same, k))
        return torch.cat(found, 1)

    return of(a, b), of(b, a)


@dataclass(frozen=True)
class Projections:
    """Linear maps of the two modalities' embeddings into a common space; unit vectors come out."""

    a: Tensor  # (D, D), or (R, D, D) of R sets
    b: Tensor  # as a

    def project(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """(n, D), (n, D) -> the same, projected and L2-normalised; (R, n, D) by the maps of R sets."""
        normalize = torch.nn.functional.normalize
        return normalize(a.float() @ self.a, dim=-1), normalize(b.float() @ self.b, dim=-1)


def train_projections(
    a: Tensor,  # (N, D) unit embeddings of one modality: of the synthetic pairs, or of the full data
    b: Tensor,  # (N, D) of the other
    *,
    seed: int = 0,
    labels: Tensor | None = None,  # (N,) int64: pairs of the same class attract each other; None: only partners do
    similarity: Tensor | None = None,  # (N, N): a teacher's logits of a's items against b's; then labels have no part
    **options: Any,  # see `train_projection_sets`
) -> Projections:
    """The projections of one set of pairs. Raises ValueError on shapes that do not fit."""
    if a.shape != b.shape or a.dim() != 2 or len(a) == 0:
        raise ValueError(f"a and b must both be (N, D) with N > 0, but got {tuple(a.shape)} and {tuple(b.shape)}")
    classes = None if labels is None else labels[None]
    taught = None if similarity is None else similarity[None]
    maps = train_projection_sets(a[None], b[None], seed=seed, labels=classes, similarity=taught, **options)
    return Projections(maps.a[0], maps.b[0])


@torch.no_grad()
def train_projection_sets(
    a: Tensor,  # (R, N, D) unit embeddings of one modality, of R sets of the same size
    b: Tensor,  # (R, N, D) of the other
    *,
    seed: int = 0,
    labels: Tensor | None = None,  # (R, N) int64: pairs of the same class attract each other; None: only partners do
    similarity: Similarity | None = None,  # a teacher's logits of a's items against b's; then labels have no part
    steps: int = 200,
    batch_size: int = BATCH,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    temperature: float = 0.07,
) -> Projections:
    """Projections of every set, trained together; the result is the same as for each set alone.

    Both maps start from the identity and minimise symmetric InfoNCE on batches of min(N, batch_size) pairs, by Adam.
    InfoNCE: van den Oord et al. 2018, symmetric as in CLIP (Radford et al. 2021, whose temperature starts at 0.07);
    with labels, the target is uniform over the class (Khosla et al. 2020); with `similarity`, rows and columns have the
    teacher's softmax of their batch as the target, as soft labels do. `weight_decay / 2 * |W - I|^2`, summed over
    the two maps, keeps a tiny set from moving what it says nothing about. `seed` draws the batches (the same for all
    sets), nothing else: up to batch_size pairs the result is deterministic. No matrix is larger than a batch's, (R, B, B) with
    B = min(N, batch_size), unless `similarity` is one. Raises ValueError on shapes that do not fit.
    """
    if a.shape != b.shape or a.dim() != 3 or a.shape[1] == 0:
        raise ValueError(f"a and b must both be (R, N, D) with N > 0, but got {tuple(a.shape)} and {tuple(b.shape)}")
    R, N, D = a.shape
    if isinstance(similarity, Tensor) and similarity.shape != (R, N, N):
        raise ValueError(f"similarity must be {(R, N, N)}, but got {tuple(similarity.shape)}")
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(N, device=a.device).expand(R, N) if labels is None else labels
    a, b = a.float(), b.float()
    maps = [torch.eye(D, device=a.device).repeat(R, 1, 1) for _ in range(2)]
    moments = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in maps]

    def target_of(chosen: Tensor) -> Tensor:
        if similarity is None:
            return _targets(classes[:, chosen])
        known = similarity[:, chosen][:, :, chosen] if isinstance(similarity, Tensor) else similarity(chosen)
        return _taught(known)

    if batch_size >= N:
        x, y, target = a, b, target_of(torch.arange(N, device=a.device))
    for step in range(1, steps + 1):
        if batch_size < N:
            chosen = torch.randint(N, (batch_size,), generator=generator).to(a.device)
            x, y, target = a[:, chosen], b[:, chosen], target_of(chosen)
        slopes = _info_nce_slopes(torch.bmm(x, maps[0]), torch.bmm(y, maps[1]), target, temperature)
        for weight, items, slope, (first, second) in zip(maps, (x, y), slopes, moments, strict=True):
            gradient = torch.baddbmm(weight, items.mT, slope, beta=weight_decay)
            gradient.diagonal(dim1=1, dim2=2).sub_(weight_decay)  # of |W - I|^2, not of |W|^2
            _adam_step(weight, gradient, first, second, step, learning_rate)
    return Projections(*maps)


def _adam_step(
    weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: int, learning_rate: float
) -> None:
    """One step of Adam (Kingma & Ba 2015) with its usual constants, in place; `step` counts from 1.

    Elementwise, so that nothing of one set reaches another. torch.optim would import the compiler, which takes seconds.
    """
    first.lerp_(gradient, 1 - 0.9)
    second.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
    size = second.sqrt().div_((1 - 0.999**step) ** 0.5).add_(1e-8)
    weight.addcdiv_(first, size, value=-learning_rate / (1 - 0.9**step))


def _targets(classes: Tensor) -> Tensor:
    """(R, N) -> (R, N, N): uniform over a row's class; symmetric, as a class has the same size for rows and columns."""
    same = (classes.unsqueeze(2) == classes.unsqueeze(1)).float()
    return same / same.sum(2, keepdim=True)


def _taught(similarity: Tensor) -> Tensor:
    """(R, N, N) logits -> (R, N, N): the mean of the targets of rows and of columns, which is all that the gradient needs."""
    return (similarity.float().softmax(2) + similarity.float().softmax(1)) / 2


def _info_nce_slopes(
    p: Tensor,  # (R, N, D), of any norm
    q: Tensor,  # (R, N, D)
    target: Tensor,  # (R, N, N): the mean of what rows and columns should be
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """The gradient of the symmetric InfoNCE of each set with respect to p and q, written out: autograd would take
    three times as many small operations, which is all that a step costs on a small set.

    With L = u v' / temperature of the unit vectors u, v: d loss / d L = (softmax of rows + softmax of columns) / 2 - target,
    over N; and through u = p / |p|, d p = (d u - u <u, d u>) / |p|.
    """
    p_norm, q_norm = (x.norm(dim=2, keepdim=True).clamp(min=1e-12) for x in (p, q))
    u, v = p / p_norm, q / q_norm
    logits = torch.bmm(u, v.mT) / temperature  # (R, N, N)
    slope = ((logits.softmax(2) + logits.softmax(1)) / 2 - target) / (temperature * p.shape[1])
    du, dv = torch.bmm(slope, v), torch.bmm(slope.mT, u)
    return (du - u * (u * du).sum(2, keepdim=True)) / p_norm, (dv - v * (v * dv).sum(2, keepdim=True)) / q_norm


@dataclass(frozen=True)
class Alignment:
    """How much closer paired embeddings of two modalities are than embeddings of different classes."""

    paired: float  # mean cosine of partners
    unpaired: float  # mean cosine of items of different classes
    standard_error: float  # of paired - unpaired
    class_recall: float  # class-level recall@1, mean of both directions
    chance: float  # class_recall at random
    count: int  # pairs

    @property
    def gap(self) -> float:
        return self.paired - self.unpaired

    @property
    def z(self) -> float:
        """The gap in standard errors."""
        if self.standard_error > 0:
            return self.gap / self.standard_error
        return 0.0 if self.gap == 0 else float("inf") if self.gap > 0 else float("-inf")


@torch.no_grad()
def alignment(
    a: Tensor,  # (n, D) unit embeddings of one modality
    b: Tensor,  # (n, D) of the other, same items in the same order
    labels: Tensor,  # (n,) int64
    *,
    limit: int = 4096,
) -> Alignment:
    """The alignment of (at most `limit`, drawn with a fixed seed) pairs.

    Item i moves the gap by h_i = <a_i, b_i> - <a_i, mean of other classes' b> - <mean of other classes' a, b_i>
    (its first-order influence), and the standard error is that of the mean of h: over items, or over classes
    where that is larger. Towers that were never aligned put each class's images somewhere and its sounds somewhere
    else, the same for all of its items: to items alone that would look significant.
    Raises ValueError with fewer than 2 classes or on shapes that do not fit.
    """
    if a.shape != b.shape or a.dim() != 2 or len(a) != len(labels):
        shapes = ", ".join(str(tuple(x.shape)) for x in (a, b, labels))
        raise ValueError(f"a and b must be (n, D) and labels (n,), but got {shapes}")
    if len(a) > limit:
        chosen = torch.randperm(len(a), generator=torch.Generator().manual_seed(0))[:limit].to(a.device)
        a, b, labels = a[chosen], b[chosen], labels[chosen]
    present, labels, counts = labels.unique(return_inverse=True, return_counts=True)
    n, num_present = len(a), len(present)
    if num_present < 2:
        raise ValueError(f"alignment needs at least 2 classes, but there are {num_present}")
    a, b = (torch.nn.functional.normalize(x.double(), dim=1) for x in (a, b))
    one_hot = torch.nn.functional.one_hot(labels, num_present).double()  # (n, C)
    others = (n - counts).double()[labels][:, None]  # (n, 1)
    mean_a, mean_b = ((x.sum(0) - (one_hot.T @ x)[labels]) / others for x in (a, b))  # (n, D): of other classes' items
    paired, from_a, from_b = ((x * y).sum(1) for x, y in ((a, b), (a, mean_b), (mean_a, b)))  # (n,)
    influence = paired - from_a - from_b
    influence = influence - influence.mean()
    over_items = influence.square().sum().sqrt() / n
    over_classes = (one_hot.T @ influence).square().sum().sqrt() / n * (num_present / (num_present - 1)) ** 0.5
    recalls = retrieval_recall(a, b, (1,), labels=labels)
    return Alignment(
        paired=float(paired.mean()),
        unpaired=float((from_a.mean() + from_b.mean()) / 2),
        standard_error=float(torch.maximum(over_items, over_classes)),
        class_recall=sum(recalls.values()) / 2,
        chance=float((counts / n).square().sum()),
        count=n,
    )


def warning(
    found: Alignment,
    modality_a: str,
    modality_b: str,
    *,
    classes: bool = True,
) -> str | None:
    """One line if these modalities are not aligned well enough for a condensation, else None.

    They count as aligned if the gap is at least 3 standard errors, and the nearest item is of the right class for at
    least a tenth of the way from chance to always. Few classes seldom make 3 standard errors, however good the towers are: it
    also counts if the gap is positive, and the nearest is right for half of that way, and by 2 standard errors of chance.
    Without `classes` (every item is one of its own) the nearest must be the partner more often than by chance: of a thousand
    captions, good encoders put the right one first for few.
    """
    if found.z >= 3 and found.class_recall >= found.chance + (0.1 * (1 - found.chance) if classes else 0.0):
        return None
    by_chance = (found.chance * (1 - found.chance) / found.count) ** 0.5  # standard error of recall that is chance
    if classes and found.gap > 0 and found.class_recall >= found.chance + max(0.5 * (1 - found.chance), 2 * by_chance):
        return None
    others, recall = ("different classes", "class recall@1") if classes else ("others", "recall@1")
    return (
        f"{modality_a} and {modality_b} embeddings are not aligned: cosine of partners {found.paired:.3f}, of "
        f"{others} {found.unpaired:.3f} (z = {found.z:.1f}), {recall} {found.class_recall:.3f} at a "
        f"chance of {found.chance:.3f}; cross- and joint-modal terms have nothing to hold on to"
    )


@torch.no_grad()
def chance_to_find(
    similarity: Tensor,  # (m, n)
    same: Tensor,  # (m, n) bool: what counts as an answer; at least one per row
    k: Sequence[int],
) -> Tensor:
    """(len(k), m) float64: probability of an answer among the k most similar, equal similarities in random order."""
    best = torch.where(same, similarity, -torch.inf).amax(1, keepdim=True)  # the most similar answer
    above = (similarity > best).sum(1, dtype=torch.int32)  # certainly ranked before it
    tied = similarity == best
    right = (tied & same).sum(1, dtype=torch.int32).double()
    wrong = tied.sum(1, dtype=torch.int32).double() - right
    found = []
    for each in k:
        room = (each - above).double()  # places left for the tied ones
        # None of the `room` places goes to a right one: C(wrong, room) / C(wrong + right, room), 0 if room > wrong.
        drawn = room.clamp(min=0).minimum(wrong)
        log_miss = _log_choose(wrong, drawn) - _log_choose(wrong + right, drawn)
        miss = torch.where(room > wrong, 0.0, log_miss.exp())
        found.append(torch.where(room > 0, 1 - miss, 0.0))
    return torch.stack(found)


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def alignment_warnings(embedded: Embedded) -> list[str]:
    """One line per pair of modalities that is not aligned; usually none.

    Uses the items that have both modalities; skips a pair whose items have fewer than 2 classes. In data without classes
    every item counts as its own class: items that share content (captions of one sound) are rare.
    """
    found = []
    classes = len(embedded.labels.unique()) > 1
    for a, b in itertools.combinations(embedded.embeddings, 2):
        (of_a, of_b), labels = embedded.having(a, b)
        if not classes:
            labels = torch.arange(len(labels), device=labels.device)
        if len(labels.unique()) < 2:
            continue
        aligned = alignment(of_a, of_b, labels, limit=4096 if classes else 1024)
        text = warning(aligned, a, b, classes=classes)
        if text is not None:
            found.append(text)
    return found
