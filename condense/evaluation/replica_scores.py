"""Scores of the replicas' items: linear probes on their embeddings, or projections for retrieval, trained for all
replicas together."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from condense.embeddings.embeddings import Embedded
from condense.embeddings.task import Task
from condense.encoders.protocol import Encoder
from condense.evaluation.item_values import geometric_mean
from condense.evaluation.linear_probe import Probes, accuracy, hits, log_probabilities, pad, train_probes
from condense.evaluation.retrieval_metric import judged_retrieval, retrieval_scores
from condense.method.condensation import Condensation, Divergence
from condense.method.objective import TERMS
from condense.system.device_memory import in_halves, is_out_of_memory
from condense.system.precision import full_float32

AT_ONCE = 256  # items in one pass of the encoder; more are not faster


class Judged(NamedTuple):
    """A score, and what each held-out item contributes to it."""

    score: float  # NaN: an embedding was not finite
    values: Tensor | None = None  # (n,) on the CPU, whose mean is the score (`condense/evaluation/item_values.py`)
    log_loss: float | None = None  # exp(-log-loss) of the probe, where the metric has one


@torch.no_grad()
def synthetic_features(replicas: Sequence[Condensation]) -> list[Tensor]:
    """Embeddings of each replica's items, all modalities side by side: (C * s, M * D) each, s items per class. Small replicas
    are encoded together, large ones in parts, which shrink if memory runs out."""
    features: list[list[Tensor]] = [[] for _ in replicas]
    by_encoder: dict[tuple[int, str], list[int]] = {}
    formed = [replica.formed() for replica in replicas]
    for i, replica in enumerate(replicas):
        for m in replica.inputs:
            by_encoder.setdefault((id(replica.task.encoder), m), []).append(i)
    for (_, m), members in by_encoder.items():
        inputs = [formed[i][m] for i in members]
        with full_float32():
            embedded = _embedded(replicas[members[0]].task.encoder, m, inputs)
        for i, part in zip(members, embedded.split([len(x) for x in inputs]), strict=True):
            features[i].append(part)
    return [torch.cat(parts, 1) for parts in features]


def _embedded(encoder: Encoder, m: str, inputs: Sequence[Tensor]) -> Tensor:
    """The embeddings of all of `inputs`, one after the other."""
    at_once = AT_ONCE
    while True:
        try:
            return torch.cat([encoder.embed(m, batch) for batch in _batches(inputs, at_once)])
        except Exception as error:
            if at_once == 1 or not is_out_of_memory(error):
                raise
        # Outside the handler: the exception's frames, and the memory they held, are released.
        at_once = (at_once + 1) // 2
        if inputs[0].is_cuda:
            torch.cuda.empty_cache()


def _batches(inputs: Sequence[Tensor], at_once: int) -> Iterator[Tensor]:
    """All items of `inputs` in order, at most `at_once` at a time."""
    waiting: list[Tensor] = []
    for piece in (piece for x in inputs for piece in x.split(at_once)):
        if sum(map(len, waiting)) + len(piece) > at_once:
            yield torch.cat(waiting)
            waiting = []
        waiting.append(piece)
    yield torch.cat(waiting)


def validate(
    replicas: Sequence[Condensation], head_seeds: Sequence[int] = (0,), features: Sequence[Tensor] | None = None
) -> list[float]:
    """Validation score of each replica's items, by its metric: accuracy or log-loss score of a probe trained on them (mean over
    heads), or retrieval (`retrieval_scores`). All are trained together. `features`: their `synthetic_features`, where these
    are known.

    NaN if an embedding is not finite: the replica has diverged (in its last step, if no loss shows it yet).
    """
    return [judged.score for judged in validate_items(replicas, head_seeds, features)]


def validate_items(
    replicas: Sequence[Condensation], head_seeds: Sequence[int] = (0,), features: Sequence[Tensor] | None = None
) -> list[Judged]:
    """`validate`, with the values of the items where there is one head or the metric has no heads, and with the probes'
    log-loss scores where the metric has probes. Where memory runs out, fewer replicas are judged together."""
    scores = [Judged(float("nan"))] * len(replicas)
    features = synthetic_features(replicas) if features is None else features
    by_probes: dict[int, list[int]] = {}
    by_retrieval: dict[int, list[int]] = {}
    for i, replica in enumerate(replicas):
        if bool(features[i].isfinite().all()):
            by_metric = by_retrieval if replica.metric == "retrieval" else by_probes
            by_metric.setdefault(id(replica.task), []).append(i)
        elif replica.divergence is None:
            replica.divergence = Divergence(replica.step + 1, TERMS[0])
    for groups, judged in ((by_probes, _probed), (by_retrieval, _retrieved)):
        for members in groups.values():
            work = functools.partial(judged, replicas, features, head_seeds=head_seeds)
            for i, own in zip(members, in_halves(work, members), strict=True):
                scores[i] = own
    return scores


def _probed(
    replicas: Sequence[Condensation], features: Sequence[Tensor], members: Sequence[int], head_seeds: Sequence[int]
) -> list[Judged]:
    """Replicas `members`, of one task, by probes that are trained together."""
    task: Task = replicas[members[0]].task
    x, y, w = pad([features[i] for i in members], [replicas[i].formed_labels for i in members])
    probes = train_probes(x, y, w, task.dataset.num_classes, head_seeds)
    return judged_probes(probes, task.validation, [replicas[i].metric for i in members])


def _retrieved(
    replicas: Sequence[Condensation], features: Sequence[Tensor], members: Sequence[int], head_seeds: Sequence[int]
) -> list[Judged]:
    """Replicas `members`, of one task, by projections that are trained together; these have no heads."""
    task: Task = replicas[members[0]].task
    sets = [as_embedded(features[i], replicas[i]) for i in members]
    recalls = judged_retrieval(sets, task.validation, task.dataset.num_classes, final=False)
    return [Judged(score, None if values is None else values.cpu()) for score, values in recalls]


def judged_probes(probes: Probes, held_out: Embedded, metrics: Sequence[str]) -> list[Judged]:
    """What each set's probes say of held-out items: `accuracy` or `log_loss`, mean over heads. `metrics`: of each set."""
    right = hits(probes, held_out.features, held_out.labels)  # (n, R, H)
    logs = log_probabilities(probes, held_out.features, held_out.labels)
    found = []
    for own, metric in enumerate(metrics):
        geometric = [geometric_mean(of_head) for of_head in logs[:, own].T]
        log_loss = fmean(score for score, _ in geometric)
        if metric == "log_loss":
            score, values = log_loss, geometric[0][1]
        else:
            score, values = right[:, own].float().mean().item(), right[:, own, 0]
        found.append(Judged(score, values.cpu() if len(geometric) == 1 else None, log_loss))
    return found


def as_embedded(features: Tensor, replica: Condensation) -> Embedded:
    """A replica's items, from their features (N, M * D)."""
    parts = features.split(replica.task.encoder.dim, 1)
    return Embedded(dict(zip(replica.task.modalities, parts, strict=True)), replica.formed_labels)


def full_score(task: Task, metric: str) -> float:
    """The score of training on the whole condense split, measured like `validate`, whose scores are shares of it."""
    if metric == "retrieval":
        return retrieval_scores([task.condense], task.validation, task.dataset.num_classes, final=False)[0]
    return judge(task.condense, task.validation, task.dataset.num_classes, metric).score


def score_of(train: Embedded, held_out: Embedded, num_classes: int, metric: str = "accuracy") -> float:
    """The score on `held_out` of training on `train`, by a task's metric, 0 .. 1, for final results."""
    return judge(train, held_out, num_classes, metric).score


def judge(train: Embedded, held_out: Embedded, num_classes: int, metric: str = "accuracy") -> Judged:
    """`score_of`, with the items' values."""
    if metric == "retrieval":
        score, values = judged_retrieval([train], held_out, num_classes)[0]
        return Judged(score, None if values is None else values.cpu())
    probes = train_probes(train.features[None], train.labels[None], None, num_classes, (0,))
    return judged_probes(probes, held_out, [metric])[0]


def probe_accuracy(
    train: Embedded,
    held_out: Embedded,
    num_classes: int,
    head_seeds: Sequence[int] = (0,),
    targets: Tensor | None = None,  # (n, C) soft labels of `train`; None: its labels
) -> float:
    """Accuracy on `held_out` of a probe trained on all of `train`."""
    soft = None if targets is None else targets[None].to(train.labels.device)
    probes = train_probes(train.features[None], train.labels[None], None, num_classes, head_seeds, targets=soft)
    return accuracy(probes, held_out.features, held_out.labels).overall.mean().item()


def probe_hits(train: Embedded, held_out: Embedded, num_classes: int, targets: Tensor | None = None) -> Tensor:
    """(n,) bool: which items of `held_out` the probe of `probe_accuracy` gets right."""
    soft = None if targets is None else targets[None].to(train.labels.device)
    probes = train_probes(train.features[None], train.labels[None], None, num_classes, (0,), targets=soft)
    return hits(probes, held_out.features, held_out.labels)[:, 0, 0]


def held_out_scores(replicas: Sequence[Condensation], held_out: Sequence[Embedded]) -> list[float]:
    """Final scores (`score_of`) on other data than validation: `held_out[i]` for `replicas[i]`. NaN as in `validate`."""
    return [judged.score for judged in held_out_items(replicas, held_out)]


def held_out_items(replicas: Sequence[Condensation], held_out: Sequence[Embedded]) -> list[Judged]:
    """`held_out_scores`, with the items' values."""
    features = synthetic_features(replicas)
    return [
        judge(as_embedded(x, r), data, r.task.dataset.num_classes, r.metric)
        if bool(x.isfinite().all())
        else Judged(float("nan"))
        for x, r, data in zip(features, replicas, held_out, strict=True)
    ]
