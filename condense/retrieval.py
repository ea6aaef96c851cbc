"""Do the embeddings of two modalities find each other? Recall, projections trained on a condensed set, alignment.

n  items, each with an embedding of both modalities
D  dimension of the unified space
C  classes

Recall counts a query as answered if its partner is among the k nearest by cosine. In a dataset of digits any `7` is
as good an answer to a spoken "seven" as the one it was paired with, so recall of the very partner says little there;
given labels, any item of the query's class counts (its own partner too): class-level recall.

A condensed set is judged by what it teaches: two linear projections are trained on its pairs, contrastively, then
recall is measured on real pairs that nothing was fitted to, and compared with projections trained on the full data.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from condense.embeddings import Embedded

CHUNK = 2**23  # similarities held at a time


@torch.no_grad()
def retrieval_recall(
    a: Tensor,  # (n, D) embeddings of one modality
    b: Tensor,  # (n, D) of the other, same items in the same order
    k: Sequence[int] = (1, 5, 10),
    *,
    labels: Tensor | None = None,  # (n,) int64: count any item of the same class; None: the partner alone
) -> dict[str, float]:
    """`a_to_b/recall@1` and so on, 0 .. 1, in both directions; `a_to_b/class_recall@1` if there are labels.

    Equal similarities count as if their order were drawn at random: embeddings that are all the same have the recall
    of chance, not of perfection. Raises ValueError on shapes that do not fit or k < 1.
    """
    if a.shape != b.shape or a.dim() != 2 or len(a) == 0:
        raise ValueError(f"a and b must both be (n, D) with n > 0, but got {tuple(a.shape)} and {tuple(b.shape)}")
    if any(each < 1 for each in k):
        raise ValueError(f"k must be at least 1, but got {min(k)}")
    name = "recall" if labels is None else "class_recall"
    classes = torch.arange(len(a), device=a.device) if labels is None else labels
    a, b = (torch.nn.functional.normalize(x.float(), dim=1) for x in (a, b))
    recalls = {}
    for direction, queries, answers in (("a_to_b", a, b), ("b_to_a", b, a)):
        found = torch.zeros(len(k), dtype=torch.float64)
        step = max(1, CHUNK // len(a))
        for start in range(0, len(a), step):
            similarity = queries[start : start + step] @ answers.T  # (m, n)
            same = classes[start : start + step, None] == classes  # (m, n)
            found += torch.stack([_chance_to_find(similarity, same, each).sum().cpu() for each in k])
        for each, hits in zip(k, found.tolist(), strict=True):
            recalls[f"{direction}/{name}@{each}"] = hits / len(a)
    return recalls


@dataclass(frozen=True)
class Projections:
    """Linear maps of the two modalities' embeddings into a common space; unit vectors come out."""

    a: Tensor  # (D, D)
    b: Tensor  # (D, D)

    def project(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """(n, D), (n, D) -> the same, projected and L2-normalised."""
        normalize = torch.nn.functional.normalize
        return normalize(a.float() @ self.a, dim=1), normalize(b.float() @ self.b, dim=1)


def train_projections(
    a: Tensor,  # (N, D) unit embeddings of one modality: of the synthetic pairs, or of the full data
    b: Tensor,  # (N, D) of the other
    *,
    seed: int = 0,
    labels: Tensor | None = None,  # (N,) int64: pairs of the same class attract each other; None: only partners do
    steps: int = 200,
    batch_size: int = 512,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    temperature: float = 0.07,
) -> Projections:
    """Both maps start from the identity and minimise symmetric InfoNCE on batches of min(N, batch_size) pairs, by Adam.

    InfoNCE: van den Oord et al. 2018, symmetric as in CLIP (Radford et al. 2021, whose temperature starts at 0.07);
    with labels, the target is uniform over the class (Khosla et al. 2020). `weight_decay / 2 * |W - I|^2`, summed over
    the two maps, keeps a tiny set from moving what it says nothing about. `seed` draws the batches, nothing else: up
    to batch_size pairs the result is deterministic. Raises ValueError on shapes that do not fit.
    """
    if a.shape != b.shape or a.dim() != 2 or len(a) == 0:
        raise ValueError(f"a and b must both be (N, D) with N > 0, but got {tuple(a.shape)} and {tuple(b.shape)}")
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(len(a), device=a.device) if labels is None else labels
    a, b = a.detach().float(), b.detach().float()
    identity = torch.eye(a.shape[1], device=a.device)
    maps = [identity.clone().requires_grad_() for _ in range(2)]
    optimizer = torch.optim.Adam(maps, lr=learning_rate)
    for _ in range(steps):
        chosen: slice | Tensor = slice(None)
        if len(a) > batch_size:
            chosen = torch.randint(len(a), (batch_size,), generator=generator).to(a.device)
        x, y = Projections(*maps).project(a[chosen], b[chosen])
        logits = x @ y.T / temperature  # (B, B)
        same = (classes[chosen][:, None] == classes[chosen]).float()
        target = same / same.sum(1, keepdim=True)  # symmetric: a class has the same size for rows and columns
        loss = torch.nn.functional.cross_entropy(logits, target) / 2
        loss = loss + torch.nn.functional.cross_entropy(logits.T, target) / 2
        loss = loss + weight_decay / 2 * sum((w - identity).square().sum() for w in maps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Projections(maps[0].detach(), maps[1].detach())


RECALLS = (1, 5, 10)
SCORE_STEPS = 100  # of the projections that a score is measured through


def train_projections_together(
    a: Tensor,  # (R, N, D): R sets of N pairs
    b: Tensor,  # (R, N, D)
    *,
    steps: int = SCORE_STEPS,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    temperature: float = 0.07,
) -> list[Projections]:
    """`train_projections` on the partners of each set, all sets at once, on full batches. R of them."""
    a, b = a.detach().float(), b.detach().float()
    identity = torch.eye(a.shape[2], device=a.device)
    maps = [identity.repeat(len(a), 1, 1).requires_grad_() for _ in range(2)]
    optimizer = torch.optim.Adam(maps, lr=learning_rate)
    target = torch.arange(a.shape[1], device=a.device).repeat(len(a))
    normalize = torch.nn.functional.normalize
    for _ in range(steps):
        x, y = normalize(a @ maps[0], dim=2), normalize(b @ maps[1], dim=2)
        logits = x @ y.mT / temperature  # (R, N, N)
        of_rows = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target)
        of_columns = torch.nn.functional.cross_entropy(logits.mT.flatten(0, 1), target)
        loss = len(a) * (of_rows + of_columns) / 2  # a sum over sets: none of them sees another
        loss = loss + weight_decay / 2 * sum((w - identity).square().sum() for w in maps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [Projections(*both) for both in zip(*(w.detach().unbind() for w in maps), strict=True)]


@torch.no_grad()
def partner_recall(a: Tensor, b: Tensor, k: Sequence[int] = RECALLS) -> float:
    """(n, D), (n, D) unit vectors of partners -> mean of recall@k over `k` and both directions, 0 .. 1.

    As `retrieval_recall` without labels (equal similarities in random order), at a fraction of its cost.
    """
    total, step = 0.0, max(1, CHUNK // len(a))
    for queries, answers in ((a, b), (b, a)):
        for first in range(0, len(a), step):
            similarity = queries[first : first + step] @ answers.T
            own = similarity.diagonal(first)[:, None]
            above, tied = (similarity > own).sum(1), (similarity == own).sum(1)
            total += sum(float(((each - above) / tied).clamp(0, 1).sum()) for each in k)
    return total / (2 * len(k) * len(a))


def retrieval_scores(
    sets: Sequence[Embedded],  # complete and of the same size; or a single one
    held_out: Embedded,
) -> list[float]:
    """How well each set teaches to find partners: `partner_recall` on `held_out`, mean over pairs of modalities.

    A pair is trained on, and asked of, the items that have both; without such items it is left out.
    Raises ValueError if there is no pair at all.
    """
    scores, pairs = torch.zeros(len(sets), dtype=torch.float64), 0
    for m, other in itertools.combinations(held_out.embeddings, 2):
        asked, _ = held_out.having(m, other)
        given = [of.having(m, other)[0] for of in sets]
        if not len(asked[0]) or not len(given[0][0]):
            continue
        pairs += 1
        if len(given[0][0]) <= 512:
            x, y = (torch.stack(tensors) for tensors in zip(*given, strict=True))
            found = train_projections_together(x, y)
        else:
            found = [train_projections(x, y, steps=SCORE_STEPS) for x, y in given]
        for i, maps in enumerate(found):
            scores[i] += partner_recall(*maps.project(*asked))
    if not pairs:
        raise ValueError("retrieval needs items with two modalities")
    return (scores / pairs).tolist()


@dataclass(frozen=True)
class Alignment:
    """How much closer paired embeddings of two modalities are than those of different classes."""

    paired: float  # mean cosine of partners
    unpaired: float  # mean cosine of items of different classes
    standard_error: float  # of paired - unpaired
    class_recall: float  # class-level recall@1, mean of both directions
    chance: float  # what it would be at random

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
    )


def warning(
    found: Alignment,
    modality_a: str,
    modality_b: str,
) -> str | None:
    """One line if a condensation should not count on these modalities being aligned, else None.

    They count as aligned if the gap is at least 3 standard errors, and the nearest item is of the right class for at
    least a tenth of the way from chance to always.
    """
    if found.z >= 3 and found.class_recall >= found.chance + 0.1 * (1 - found.chance):
        return None
    return (
        f"{modality_a} and {modality_b} embeddings are not aligned: cosine of partners {found.paired:.3f}, of "
        f"different classes {found.unpaired:.3f} (z = {found.z:.1f}), class recall@1 {found.class_recall:.3f} at a "
        f"chance of {found.chance:.3f}; cross- and joint-modal terms have nothing to hold on to"
    )


def _chance_to_find(
    similarity: Tensor,  # (m, n)
    same: Tensor,  # (m, n) bool: what counts as an answer; at least one per row
    k: int,
) -> Tensor:
    """(m,) float64: probability of an answer among the k most similar, equal similarities in random order."""
    best = similarity.masked_fill(~same, -torch.inf).amax(1, keepdim=True)  # the most similar answer
    above = (similarity > best).sum(1)  # what is surely before it
    tied = similarity == best
    right, wrong = (tied & same).sum(1).double(), (tied & ~same).sum(1).double()
    room = (k - above).double()  # places left for the tied ones
    # None of the `room` places goes to a right one: C(wrong, room) / C(wrong + right, room), 0 if room > wrong.
    drawn = room.clamp(min=0).minimum(wrong)
    log_miss = _log_choose(wrong, drawn) - _log_choose(wrong + right, drawn)
    miss = torch.where(room > wrong, 0.0, log_miss.exp())
    return torch.where(room > 0, 1 - miss, 0.0)


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def alignment_warnings(embedded: Embedded) -> list[str]:
    """One line per pair of modalities whose embeddings do not belong together; usually none.

    Of a pair, the items that have both are looked at; where these are of fewer than 2 classes there is nothing to say.
    """
    found = []
    for a, b in itertools.combinations(embedded.embeddings, 2):
        (of_a, of_b), labels = embedded.having(a, b)
        if len(labels.unique()) < 2:
            continue
        text = warning(alignment(of_a, of_b, labels), a, b)
        if text is not None:
            found.append(text)
    return found
