"""The metric `retrieval`: how often projections trained on a set's pairs find the partners of held-out real items.

n  held-out pairs      C  classes      D  dimension of the unified space

With two classes or more, an item of the query's class counts as found: class-level recall@1, as in
`condense/evaluation/comparison.py`. Where all items share one label, the partner must be found: mean recall, that is the mean of
recall@1, @5 and @10 (a sixth of the `rsum` of image-text retrieval). Both are means over the two directions and over
all pairs of modalities.

Rows may share an item: five captions of one clip are five rows with the same sound. Among partners such an item is one
query and one candidate, and any of its captions answers it, as Clotho and COCO are evaluated.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from condense.embeddings.embeddings import Embedded
from condense.evaluation.item_values import Part, connected, mean_of_parts, mean_over
from condense.evaluation.retrieval import (
    Projections,
    answered,
    chance_to_find,
    train_projection_sets,
    train_projections,
)

PARTNER_RECALLS = (1, 5, 10)
# Computed at every report for every replica, so it may cost about a tenth of the steps between two reports with the smallest
# encoder on a CPU (recall is quadratic in the pairs); with a large encoder it is negligible. Sets whose recalls are a few
# points apart rank similarly to the final scores: a rank correlation of 0.7 to 0.8.
VALIDATION_PAIRS = 500
VALIDATION_TRAINING: dict[str, Any] = {"steps": 50, "learning_rate": 4e-3}
SAME_ITEM = 1e-6  # 1 - cosine below which two rows hold the same item: encoders round a little with their batch
TEACHER_TEMPERATURE = 0.07  # of a teacher's similarities: that of the training itself
MAP_NUMBERS = 2**25  # in the maps of one modality that are trained together: 128 MB, five times that with their moments


def retrieval_scores(
    sets: Sequence[Embedded],  # complete, of any sizes; or a single one
    held_out: Embedded,
    num_classes: int,
    *,
    final: bool = True,
    teachers: Mapping[tuple[str, str], Projections] | None = None,
) -> list[float]:
    """The metric of every set, 0 .. 1: the scores of `judged_retrieval`."""
    found = judged_retrieval(sets, held_out, num_classes, final=final, teachers=teachers)
    return [score for score, _ in found]


def judged_retrieval(
    sets: Sequence[Embedded],  # complete, of any sizes; or a single one
    held_out: Embedded,
    num_classes: int,
    *,
    final: bool = True,
    teachers: Mapping[tuple[str, str], Projections] | None = None,
) -> list[tuple[float, Tensor | None]]:
    """The metric of every set, 0 .. 1, and the values of the n held-out items (`condense/evaluation/item_values.py`). Sets of
    one size are trained together.

    An item is a pair with its queries in both directions; one that is not asked has the score as its value. Rows that share
    an item stand or fall together: the first has the value of all.

    `teachers`: per pair of modalities, projections whose similarities of a set's items are the target (`full_projections`), in
    place of partners or classes.

    A pair of modalities is trained on, and asked of, the items that have both; without such items it is left out.
    `final`: on all held-out pairs, with the defaults of `train_projections`; otherwise cheaper, on at most
    VALIDATION_PAIRS of them. Compare only values of the same kind. Raises ValueError if there is no pair at all.
    """
    training = {} if final else VALIDATION_TRAINING
    n = len(held_out.labels)
    parts: list[list[Part]] = [[] for _ in sets]
    shared: list[Tensor] = []  # (n,) each: equal for rows that share an item
    for a, b in itertools.combinations(held_out.embeddings, 2):
        rows, (real_a, real_b), real_labels = _asked(held_out, a, b, None if final else VALIDATION_PAIRS)
        given = [each.having(a, b) for each in sets]
        if not len(real_labels) or not len(given[0][1]):
            continue
        if num_classes == 1:
            items = distinct_items(real_a), distinct_items(real_b)
            for own in items:
                shared.append(torch.arange(n, device=rows.device).index_copy_(0, rows, rows[own]))
        for members in _of_one_size([len(labels) for _, labels in given], max(1, MAP_NUMBERS // real_a.shape[1] ** 2)):
            x, y = (torch.stack([given[i][0][side] for i in members]) for side in (0, 1))
            labels = None if num_classes == 1 else torch.stack([given[i][1] for i in members])
            taught = None
            if teachers is not None and (a, b) in teachers:
                p, q = teachers[a, b].project(x, y)
                taught = p @ q.mT / TEACHER_TEMPERATURE
            maps = train_projection_sets(x, y, labels=labels, similarity=taught, **training)
            for position, i in enumerate(members):
                projected = Projections(maps.a[position], maps.b[position]).project(real_a, real_b)
                if num_classes == 1:
                    found = partners_found(*projected, *items)
                    parts[i] += [mean_over(rows[first], values) for first, values in found]
                else:
                    parts[i] += [mean_over(rows, values[0]) for values in answered(*projected, (1,), real_labels)]
    if sets and not parts[0]:
        raise ValueError("retrieval needs items with two modalities")
    same = connected(shared) if shared else None
    return [mean_of_parts(own, n, same) for own in parts]


def full_projections(full: Embedded, num_classes: int) -> dict[tuple[str, str], Projections]:
    """Per pair of modalities, the projections that the full data's pairs train: teachers for a set's. Their similarities have at
    most rank D. LoRS (Xu et al. 2024, "Low-Rank Similarity Mining for Multimodal Dataset Distillation") instead learns such a
    matrix together with the items.
    """
    found = {}
    for a, b in itertools.combinations(full.embeddings, 2):
        (of_a, of_b), labels = full.having(a, b)
        if len(labels):
            found[a, b] = train_projections(of_a, of_b, labels=None if num_classes == 1 else labels)
    return found


@torch.no_grad()
def mean_recall(
    a: Tensor,  # (n, D) unit embeddings of one modality
    b: Tensor,  # (n, D) of the other, row i belongs to row i
    items_a: Tensor,  # (n,) int64: rows with the same number hold the same item
    items_b: Tensor,
    k: Sequence[int] = PARTNER_RECALLS,
) -> float:
    """Mean over k and both directions of the recall of partners, among distinct items: the mean of `partners_found`."""
    there, back = (values.mean() for _, values in partners_found(a, b, items_a, items_b, k))
    return float((there + back) / 2)


@torch.no_grad()
def partners_found(
    a: Tensor,  # as in `mean_recall`, as the rest
    b: Tensor,
    items_a: Tensor,
    items_b: Tensor,
    k: Sequence[int] = PARTNER_RECALLS,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Of each direction: the rows of its queries, distinct items (m,); and how often each finds a partner among the k nearest
    distinct items, mean over k (m,) float64. Ties as in `retrieval_recall`.

    With no more than k candidates, recall@k is 1.
    """
    (queries, of_a), (answers, of_b) = (_first_rows(items) for items in (items_a, items_b))
    belong = torch.zeros(len(queries), len(answers), dtype=torch.bool, device=a.device)  # (A, B)
    belong[of_a, of_b] = True
    similarity = a[queries] @ b[answers].T  # (A, B)
    there = chance_to_find(similarity, belong, k).mean(0)
    back = chance_to_find(similarity.T.contiguous(), belong.T.contiguous(), k).mean(0)
    return (queries, there), (answers, back)


@torch.no_grad()
def distinct_items(
    embeddings: Tensor,  # (n, D) of unit norm
    chunk: int = 1024,
) -> Tensor:
    """(n,) int64: each row's first row with the same embedding, up to rounding."""
    first = [(x @ embeddings.T >= 1 - SAME_ITEM).to(torch.uint8) for x in embeddings.split(chunk)]
    own = torch.arange(len(embeddings), device=embeddings.device)
    return torch.cat([same.argmax(1) for same in first]).minimum(own)


def _asked(held_out: Embedded, a: str, b: str, most: int | None) -> tuple[Tensor, list[Tensor], Tensor]:
    """The held-out items that have both modalities, their rows first; at most so many, drawn with a fixed seed."""
    embeddings, labels = held_out.having(a, b)
    rows = held_out.rows_having(a, b)
    if most is None or len(labels) <= most:
        return rows, embeddings, labels
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:most].sort().values
    chosen = chosen.to(labels.device)
    return rows[chosen], [x[chosen] for x in embeddings], labels[chosen]


def _of_one_size(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Groups positions by size, at most so many per group."""
    by_size: dict[int, list[int]] = {}
    for i, size in enumerate(sizes):
        by_size.setdefault(size, []).append(i)
    for members in by_size.values():
        yield from (members[first : first + most] for first in range(0, len(members), most))


def _first_rows(items: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct items, (A,) as the row of each, and which of them is in each row, (n,) in 0 .. A-1."""
    distinct, of_row = items.unique(return_inverse=True)
    return distinct, of_row
