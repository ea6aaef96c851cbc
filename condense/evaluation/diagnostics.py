"""Diagnostics of replicas besides their score: signs of modality collapse and poor alignment.

Computed from the embeddings of a validation, for all replicas together, without another pass through the encoder.
`search/analysis/failure_signatures.py` turns these values into failure signatures. Per replica:

    gradient_share/<modality>  ||dL/dS_m|| over its sum over modalities, 0 .. 1
    alone/<modality>           score of the items with this modality only, from chance (0) to full data (1)
    alignment                  how often an item's nearest one of another modality is of its class, mean over ordered pairs,
                               from chance (0) to as often as among as many real items (1)

Both are measured from chance: with 2 classes half is right by luck, so no threshold on the plain share would suit every
dataset. They may be below 0 or above 1. Meaningless values are left out: for a single modality; for a modality from which
even full data learns hardly anything; for towers that do not align real data.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from condense.embeddings.embeddings import Embedded
from condense.embeddings.task import Task
from condense.engine.group import Group, tangent
from condense.evaluation.linear_probe import Probes, accuracy, train_probes
from condense.evaluation.replica_scores import probe_accuracy
from condense.evaluation.row_blocks import row_blocks, sets_at_once
from condense.method.condensation import Condensation
from condense.system import device_memory as memory

log = logging.getLogger(__name__)
# Full data must be above chance by this share of the way to 1, and by so many standard errors over the validation items;
# otherwise there is nothing to lose.
LEAST_TO_LOSE, CERTAIN = 0.1, 4.0
SMALL = 300  # items; for larger sets the probes of single modalities, which cost most, run at the last step only
AT_ONCE = 32  # replicas whose gradients are computed together, with their frequencies copied side by side
REAL_QUERIES = 2000  # about so many queries measure the alignment of real items: a standard error of 0.01


@dataclass
class Diagnostics:
    """Diagnostics of replicas, and their references on full data, computed once per task."""

    _alone: dict[int, tuple[Task, dict[str, tuple[float, float]]]] = field(default_factory=dict)
    _aligned: dict[tuple[int, int], tuple[Task, dict[tuple[str, str], tuple[float, float]]]] = field(
        default_factory=dict
    )

    def of(self, replicas: Sequence[Condensation], features: Sequence[Tensor]) -> list[dict[str, float]]:
        """The diagnostics of each replica, from its `synthetic_features` (C * s, M * D); {} for a diverged replica.

        Changes no result: a replica's next frequencies are drawn here, and its next step gets the same ones. Running out of
        memory is not an error: the diagnostics are left out.
        """
        try:
            return self._of(replicas, features)
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
            log.warning("no diagnostics at this report: %s", error)
            return [{} for _ in replicas]

    def _of(self, replicas: Sequence[Condensation], features: Sequence[Tensor]) -> list[dict[str, float]]:
        figures: list[dict[str, float]] = [{} for _ in replicas]
        sound = [
            i
            for i, (replica, x) in enumerate(zip(replicas, features, strict=True))
            if replica.step > 0 and replica.divergence is None and len(replica.inputs) > 1 and bool(x.isfinite().all())
        ]
        own = {i: _by_modality(replicas[i], features[i]) for i in sound}
        with_own_loss = [i for i in sound if not replicas[i].bank]  # with a bank the loss is not of these features
        for members in _alike(with_own_loss, lambda i: Group.kind(replicas[i])):
            for some in _parts(members, AT_ONCE):
                synthetic = {m: torch.stack([own[i][m] for i in some]) for m in own[some[0]]}
                for i, found in zip(some, gradient_shares([replicas[i] for i in some], synthetic), strict=True):
                    figures[i] |= found
        for members in _alike(sound, lambda i: (id(replicas[i].task), replicas[i].items_per_class)):
            task, dpc = replicas[members[0]].task, replicas[members[0]].items_per_class
            synthetic = {m: torch.stack([own[i][m] for i in members]).flatten(1, 2) for m in task.modalities}
            for i, value in zip(members, self._alignment(task, dpc, synthetic), strict=True):
                if math.isfinite(value):
                    figures[i]["alignment"] = value
            small = dpc * task.dataset.num_classes <= SMALL
            last = [k for k, i in enumerate(members) if small or replicas[i].step >= replicas[i].total_steps]
            if last and task.dataset.num_classes > 1:
                items = {m: x[last] for m, x in synthetic.items()}
                for k, found in zip(last, self._shares_alone(task, dpc, items), strict=True):
                    figures[members[k]] |= found
        return figures

    def _alignment(self, task: Task, dpc: int, synthetic: Mapping[str, Tensor]) -> list[float]:
        """modality -> (Q, C * dpc, D) to one value per replica."""
        key = (id(task), dpc)
        if key not in self._aligned:
            self._aligned[key] = (
                task,
                {
                    pair: real_recall(task.validation, *pair, task.dataset.num_classes, dpc)
                    for pair in itertools.combinations(task.modalities, 2)
                },
            )
        values = []
        for (a, b), (real, chance) in self._aligned[key][1].items():
            if real - chance >= LEAST_TO_LOSE * (1 - chance):
                found = class_recall(synthetic[a], synthetic[b], _labels(task, dpc))
                values.append((found - chance) / (real - chance))
        return torch.stack(values).mean(0).tolist() if values else [math.nan] * len(synthetic[task.modalities[0]])

    def _shares_alone(self, task: Task, dpc: int, synthetic: Mapping[str, Tensor]) -> list[dict[str, float]]:
        """modality -> (Q, C * dpc, D) to `alone/<modality>` of each replica."""
        found: list[dict[str, float]] = [{} for _ in synthetic[task.modalities[0]]]
        if id(task) not in self._alone:
            full_data = {m: full_alone(task, m) for m in task.modalities}
            self._alone[id(task)] = task, {m: of for m, of in full_data.items() if _tells(task, of, m)}
        known = self._alone[id(task)][1]
        if not known:
            return found
        x = torch.cat([synthetic[m] for m in known])  # (M * Q, N, D)
        probes = train_probes(x, _labels(task, dpc).expand(len(x), -1), None, task.dataset.num_classes)
        for (m, (full, chance)), part in zip(known.items(), _split(probes, len(found)), strict=True):
            (held_out,), labels = task.validation.having(m)
            for own, value in zip(found, accuracy(part, held_out, labels).overall.mean(1).tolist(), strict=True):
                own[f"alone/{m}"] = (value - chance) / (full - chance)
        return found


def gradient_shares(replicas: list[Condensation], synthetic: Mapping[str, Tensor]) -> list[dict[str, float]]:
    """Gradient shares of replicas of one `Group.kind` that have taken a step; synthetic: modality -> (Q, C, s, D), unit
    embeddings.

    The gradient is that of the next step, along the unit sphere: embeddings are normalised, so the radial part never
    reaches an item. {} if no modality has a gradient.
    """
    leaves = {m: x.detach().clone().requires_grad_() for m, x in synthetic.items()}
    with torch.enable_grad():
        Group.of(replicas).backward(leaves, plain=True)
    norms = []
    for x in leaves.values():
        gradient = torch.zeros_like(x) if x.grad is None else x.grad
        along = tangent(gradient, torch.nn.functional.normalize(x.detach(), dim=3))
        norms.append(along.flatten(1).norm(dim=1))
    size = torch.stack(norms, 1)  # (Q, M)
    shares = size / size.sum(1, keepdim=True)
    return [
        {f"gradient_share/{m}": v for m, v in zip(leaves, row, strict=True)} if all(map(math.isfinite, row)) else {}
        for row in shares.tolist()
    ]


@torch.no_grad()
def class_recall(
    a: Tensor,  # (Q, N, D) unit embeddings of one modality
    b: Tensor,  # (Q, N, D) of the other
    labels: Tensor,  # (N,) int64, or (Q, N)
) -> Tensor:
    """(Q,): recall@1 of the class, mean of both directions; equal similarities as if in random order."""
    labels = labels.expand(a.shape[:2])
    parts = zip(*(x.split(sets_at_once(a.shape[1])) for x in (a, b, labels)), strict=True)
    return torch.cat([_right_share(*part) for part in parts])


def _right_share(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
    """`class_recall` of sets (Q, N, D), labels (Q, N), some of their rows at a time."""
    found = torch.zeros(len(a), device=a.device)
    for queries, answers in ((a, b), (b, a)):
        for rows in row_blocks(a.shape[1], a.shape[0] * a.shape[1]):
            similarity = queries[:, rows] @ answers.mT  # (Q, m, N)
            nearest = similarity == similarity.amax(2, keepdim=True)
            same = labels[:, rows, None] == labels[:, None]
            found += ((nearest & same).sum(2) / nearest.sum(2)).sum(1)
    return found / (2 * a.shape[1])


def real_recall(held_out: Embedded, a: str, b: str, num_classes: int, dpc: int) -> tuple[float, float]:
    """(`class_recall` among as many real items per class as synthetic ones, mean over draws; chance level).

    Uses the items that have both modalities; a class with fewer than dpc of them gives all it has. Without classes every
    item is its own class. (0, 0) if there are none.
    """
    (of_a, of_b), labels = held_out.having(a, b)
    if not len(labels):
        return 0.0, 0.0
    generator = torch.Generator().manual_seed(0)
    by_class = [(labels == c).nonzero().squeeze(1).cpu() for c in range(num_classes)]
    count = sum(min(dpc, len(items)) for items in by_class)
    recalls = []
    for _ in range(max(1, REAL_QUERIES // count)):
        drawn = torch.cat([items[torch.randperm(len(items), generator=generator)[:dpc]] for items in by_class])
        drawn = drawn.to(labels.device)
        own = labels[drawn] if num_classes > 1 else torch.arange(count, device=labels.device)
        recalls.append(class_recall(of_a[drawn][None], of_b[drawn][None], own).item())
    sizes = [min(dpc, len(items)) for items in by_class] if num_classes > 1 else [1] * count
    return fmean(recalls), sum(size * size for size in sizes) / count**2


def full_alone(task: Task, modality: str) -> tuple[float, float]:
    """(Validation accuracy of a probe on one modality of the whole condense split; accuracy of the commonest class.)

    Uses the items that have the modality. (0, 0) if no item of the validation split has it.
    """
    (x,), y = task.condense.having(modality)
    (held_out,), labels = task.validation.having(modality)
    if not len(labels):
        return 0.0, 0.0
    full = probe_accuracy(Embedded({modality: x}, y), Embedded({modality: held_out}, labels), task.dataset.num_classes)
    return full, labels.bincount().max().item() / len(labels)


def _tells(task: Task, measured: tuple[float, float], *modalities: str) -> bool:
    """Whether a value (real data, chance) is far enough above chance, on the items that have these modalities."""
    value, chance = measured
    count = max(1, len(task.validation.having(*modalities)[1]))
    error = math.sqrt(chance * (1 - chance) / count)
    return value > chance and value - chance >= max(LEAST_TO_LOSE * (1 - chance), CERTAIN * error)


def _by_modality(replica: Condensation, features: Tensor) -> dict[str, Tensor]:
    """(N, M * D) -> modality -> (C, s, D)."""
    parts = features.split(replica.task.encoder.dim, 1)
    return {
        m: x.reshape(-1, replica.items_per_class, x.shape[1])
        for m, x in zip(replica.task.modalities, parts, strict=True)
    }


def _labels(task: Task, dpc: int) -> Tensor:
    """(C * dpc,) int64; without classes every item is its own class."""
    classes = task.dataset.num_classes
    labels = torch.arange(classes, device=task.device).repeat_interleave(dpc)
    return labels if classes > 1 else torch.arange(dpc, device=task.device)


def _split(probes: Probes, size: int) -> list[Probes]:
    return [
        Probes(weight, bias, probes.steps, converged)
        for weight, bias, converged in zip(
            probes.weight.split(size), probes.bias.split(size), probes.converged.split(size), strict=True
        )
    ]


def _alike(positions: Sequence[int], key: Callable[[int], object]) -> list[list[int]]:
    """Groups positions by key."""
    groups: dict[object, list[int]] = {}
    for i in positions:
        groups.setdefault(key(i), []).append(i)
    return list(groups.values())


def _parts(positions: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    return (positions[first : first + most] for first in range(0, len(positions), most))
