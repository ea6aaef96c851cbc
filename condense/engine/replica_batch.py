"""Replicas laid out for ONE pass: their items side by side in the frozen encoder, their losses in batched form.

This is exact: in evaluation mode items do not see each other, and the total loss is a sum of losses of which each has one
replica's items only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from condense.embeddings.statistics import RealStatistics
from condense.inputs.formation import in_turn, parts, parts_of
from condense.method.condensation import Condensation
from condense.method.objective import Objective

ADAM_BETA2 = 0.999
ADAM_EPSILON = 1e-8


@dataclass
class Group:
    """Replicas whose losses are one batched computation: same task, dpc and kind of objective. Q of them."""

    replicas: list[Condensation]
    objective: Objective
    frequencies: dict[str, Tensor]  # modality -> (Q, P, D)
    phi_real: dict[str, Tensor]  # modality -> (2, Q, C, P); with V views (2, Q, V, C, P)
    weights: Tensor  # (Q, 3) lambdas
    normalizer: Tensor  # (Q, 3)
    item_factor: float  # gradients are of item_factor * total

    @staticmethod
    def kind(replica: Condensation) -> tuple[object, ...]:
        h = replica.hyperparameters
        return (
            replica.task.serial,
            replica.dpc,
            h.discrepancy,
            h.scaling,
            h.num_frequencies,
            h.frequency_pool,
            h.formation,
            h.views,
            replica.step == 0,  # those that still need their normaliser are kept apart for one step
        )

    @staticmethod
    def of(replicas: list[Condensation]) -> Group:
        first, device = replicas[0], replicas[0].task.device
        hs = [r.hyperparameters for r in replicas]
        alpha: Tensor | float = hs[0].alpha
        beta: Tensor | float = hs[0].beta
        if len({(h.alpha, h.beta) for h in hs}) > 1:
            alpha = torch.tensor([h.alpha for h in hs], device=device)[:, None, None]
            beta = torch.tensor([h.beta for h in hs], device=device)[:, None, None]
        task = first.task
        return Group(
            replicas,
            Objective(task.statistics, task.encoder.output_scale, hs[0].discrepancy, hs[0].scaling, alpha, beta),
            {m: torch.stack([r.frequencies[m] for r in replicas]) for m in first.frequencies},
            {m: torch.stack([r.phi_real[m] for r in replicas], 1) for m in first.phi_real},
            torch.tensor([[h.lambda_uni, h.lambda_cross, h.lambda_joint] for h in hs], device=device),
            torch.stack([r.normalizer for r in replicas]),
            # Terms are means over classes and items. With their sum over items an item moves as far as it would alone,
            # whatever the number of classes and dpc; with the sum over classes the items of a class share its movement,
            # which is what larger sets, that start closer to the real data, need. The published scaling has neither.
            _item_factor(hs[0].scaling, task.dataset.num_classes, first.items_per_class),
        )

    def backward(self, synthetic: Mapping[str, Tensor], plain: bool = False) -> Tensor:
        """Adds the gradient of the weighted loss to the leaves `synthetic` (modality -> (Q, C, s, D)).

        `plain`: they are embeddings of the items as they are, whatever the step's view.
        Returns (Q, 4), detached: uni, cross, joint as they are, and the normalised weighted total.
        """
        frequencies, phi_real = {}, {}
        objective, known = self.objective, self.phi_real
        if self.replicas[0].seen_as:
            views = [0 if plain else r.view for r in self.replicas]
            objective = replace(objective, real=self._real(views))
            known = {m: torch.stack([of[:, i, v] for i, v in enumerate(views)], 1) for m, of in known.items()}
        if self.frequencies:
            chosen = on_device(
                torch.stack([r.next_frequencies() for r in self.replicas]), self.weights.device
            )  # (Q, F)
            classes = self.replicas[0].task.dataset.num_classes
            for m, pool in self.frequencies.items():
                q, size, dim = pool.shape
                rows = chosen + size * torch.arange(q, device=chosen.device)[:, None]
                frequencies[m] = pool.view(-1, dim).index_select(0, rows.view(-1)).view(q, -1, dim)
                index = chosen[None, :, None, :].expand(2, -1, classes, -1)
                phi_real[m] = known[m].gather(3, index)
        terms = objective.terms(synthetic, frequencies, phi_real)
        if self.replicas[0].step == 0:
            self._set_normalizer(terms, list(synthetic.values()))
        total = (self.weights * terms / self.normalizer).sum(1)
        (self.item_factor * total.sum()).backward()
        return torch.cat([terms.detach(), total.detach()[:, None]], 1)

    def _real(self, views: Sequence[int]) -> RealStatistics:
        """Statistics of each replica's view: as those of a task, with a dimension Q before C."""
        seen = [r.seen_as[v].statistics for r, v in zip(self.replicas, views, strict=True)]
        return RealStatistics(
            {m: torch.stack([of.mean[m] for of in seen]) for m in seen[0].mean},
            {pair: torch.stack([of.product[pair] for of in seen]) for pair in seen[0].product},
            seen[0].share,  # which items have what does not depend on the view
        )

    def _set_normalizer(self, terms: Tensor, synthetic: Sequence[Tensor]) -> None:
        size = terms.detach().abs()
        one = torch.ones_like(size)
        # A term that is zero at the start (a single modality has no pairs, or the items start as all that there are) is left
        # as it is: divided by its rounding it would drown the others.
        known = (size > size.new_tensor(self.objective.zero)) & size.isfinite()
        if self.objective.scaling == "relative":
            size, known = size / size[:, :1], known & known[:, :1]
        elif self.objective.scaling == "gradient":
            size = torch.stack([pull_of(term, synthetic) for term in terms.unbind(1)], 1)
            known = known & known[:, :1] & (size > 0) & size.isfinite()
        self.normalizer = one if self.objective.scaling == "paper" else torch.where(known, size, one)
        for replica, own in zip(self.replicas, self.normalizer, strict=True):
            replica.normalizer = own.clone()


def _item_factor(scaling: str, num_classes: int, dpc: int) -> float:
    if (
        scaling == "gradient"
    ):  # all items together are pulled by 1: each alone, and those of a class together, by 1 again
        return math.sqrt(num_classes / dpc)
    return {"paper": 1.0, "relative": float(num_classes)}.get(scaling, float(num_classes * dpc))


def pull_of(term: Tensor, synthetic: Sequence[Tensor]) -> Tensor:
    """(Q,): norm of the gradient of each replica's `term` (Q,) on the unit sphere, over all its items and modalities.

    synthetic: (Q, C, s, D) per modality, unit embeddings. The radial part is left out: no item can follow it. 0 if the term
    depends on none of them.
    """
    if not term.requires_grad:
        return torch.zeros_like(term)
    gradients = torch.autograd.grad(term.sum(), synthetic, retain_graph=True, allow_unused=True)
    squared = [
        tangent(g, x.detach()).square().sum((1, 2, 3))
        for g, x in zip(gradients, synthetic, strict=True)
        if g is not None
    ]
    return torch.stack(squared).sum(0).sqrt()


def tangent(gradient: Tensor, unit: Tensor) -> Tensor:
    """The part of `gradient` (..., D) along the sphere at `unit` (..., D)."""
    return gradient - unit * (unit * gradient).sum(-1, keepdim=True)


@dataclass(frozen=True)
class Pass:
    """What one pass yields."""

    gradients: dict[str, Tensor]  # modality -> (N, *shape), as the pack's inputs
    losses: list[tuple[list[Condensation], Tensor]]  # per group its replicas and their losses, (Q, 4) on the device
    pulls: dict[str, list[Tensor]]  # modality -> per starting replica the norm of its items' pull on the sphere, ()


class ReplicaBatch:
    """Replicas that share an encoder, laid out for one pass. The replicas' tensors become views of the pack's."""

    def __init__(self, replicas: Iterable[Condensation]) -> None:
        replicas = list(replicas)
        kinds = {kind: i for i, kind in enumerate(dict.fromkeys(Group.kind(r) for r in replicas))}
        ordered = sorted(replicas, key=lambda r: kinds[Group.kind(r)])
        self.replicas = ordered
        self.encoder = ordered[0].task.encoder
        self.torn = False
        self.groups = [Group.of(list(same)) for _, same in itertools.groupby(ordered, key=Group.kind)]
        self.inputs: dict[str, Tensor] = {}
        self.velocity: dict[str, Tensor] = {}
        self.square: dict[str, Tensor] = {}
        self.rate: dict[str, Tensor] = {}
        self.momentum: dict[str, Tensor] = {}
        self.range: dict[str, tuple[Any, Any]] = {}  # numbers, or tensors on the device where places differ
        self.adam: dict[str, Tensor] = {}
        self.changed = any(r.seen_as or r.items_in_each > 1 for r in ordered)
        # modality -> replicas with the places of their stored items and of their embeddings, which may be more
        self.places: dict[str, list[tuple[Condensation, slice, slice]]] = {}
        self.owner: dict[str, Tensor] = {}  # modality -> (N,) int64: which of `replicas` an item belongs to
        for m in dict.fromkeys(m for r in ordered for m in r.inputs):
            self._lay_out(m, [r for r in ordered if m in r.inputs])

    def _lay_out(self, m: str, members: list[Condensation]) -> None:
        device = members[0].task.device
        counts = [len(r.inputs[m]) for r in members]
        self.places[m], first, there = [], 0, 0
        for r, count in zip(members, counts, strict=True):
            embedded = count * parts_of(r.task.dataset.specs[m], r.hyperparameters.formation)
            self.places[m].append((r, slice(first, first + count), slice(there, there + embedded)))
            first, there = first + count, there + embedded
        column = (-1,) + (1,) * (members[0].inputs[m].ndim - 1)

        def per_item(values: Sequence[float]) -> Tensor:
            return (
                torch.tensor(values, device=device).repeat_interleave(torch.tensor(counts, device=device)).view(column)
            )

        self.inputs[m] = torch.cat([r.inputs[m] for r in members])
        self.velocity[m] = torch.cat([r.velocity[m] for r in members])
        places = [i for i, r in enumerate(self.replicas) if m in r.inputs]
        self.owner[m] = torch.tensor(places, device=device).repeat_interleave(torch.tensor(counts, device=device))
        self.rate[m] = per_item([r.hyperparameters.learning_rate_of(m) for r in members])
        self.momentum[m] = per_item([r.hyperparameters.momentum for r in members])
        low, high = members[0].task.dataset.specs[m].bounds()
        self.range[m] = (low.to(device), high.to(device)) if low.ndim else (low.item(), high.item())
        for r, rate in zip(members, self.rate[m].split(counts), strict=True):
            if m in r.rate_unit:
                rate *= r.rate_unit[m]
        for r, x, v in zip(members, self.inputs[m].split(counts), self.velocity[m].split(counts), strict=True):
            r.inputs[m], r.velocity[m] = x, v
        if any(r.square for r in members):
            self.adam[m] = per_item([float(bool(r.square)) for r in members]).bool()
            self.square[m] = torch.cat([r.square.get(m, torch.zeros_like(r.inputs[m])) for r in members])
            for r, s in zip(members, self.square[m].split(counts), strict=True):
                if r.square:
                    r.square[m] = s

    def gradients(self, at_once: int | None = None) -> Pass:
        """Losses of every replica and their gradients; changes nothing, so it may be asked again for the same step.

        `at_once`: items that may go through the encoder with their activations kept. Where a pack has more, all are
        embedded without activations first, and the gradient comes from a second pass, part by part: the encoder runs
        forward twice, and the result is the same.
        """
        leaves: dict[str, Tensor] = {}
        embedded: dict[str, Tensor] = {}
        if at_once is None or all(len(x) <= at_once for x in self.inputs.values()):
            leaves = {m: x.detach().requires_grad_() for m, x in self.inputs.items()}
            embedded = {m: self._embed(m, x, range(len(x))) for m, x in leaves.items()}
            cut = {m: x.detach().requires_grad_() for m, x in embedded.items()}
        else:
            with torch.no_grad():
                cut = {
                    m: torch.cat(
                        [self._embed(m, x[items.start : items.stop], items) for items in ranges(len(x), at_once)]
                    )
                    for m, x in self.inputs.items()
                }
            cut = {m: x.requires_grad_() for m, x in cut.items()}
        losses = self._losses(cut)
        outward = {m: _gradient(x) for m, x in cut.items()}
        if embedded:
            pulled = torch.autograd.grad(list(embedded.values()), list(leaves.values()), list(outward.values()))
            return Pass(dict(zip(leaves, pulled, strict=True)), losses, self._pulls(cut, outward))
        assert at_once is not None
        gradients = {}
        for m, x in self.inputs.items():
            gradients[m] = torch.cat([self._pull(m, items, outward[m]) for items in ranges(len(x), at_once)])
        return Pass(gradients, losses, self._pulls(cut, outward))

    def _within(self, m: str, items: range) -> Iterator[tuple[Condensation, slice, slice]]:
        """The replicas of some stored items: their places among these, and those of their embeddings in all of the pack's."""
        for replica, at, there in self.places[m]:
            start, stop = max(items.start, at.start), min(items.stop, at.stop)
            if start < stop:
                each = (there.stop - there.start) // (at.stop - at.start)
                first = there.start - each * at.start
                yield (
                    replica,
                    slice(start - items.start, stop - items.start),
                    slice(first + each * start, first + each * stop),
                )

    def _embed(self, m: str, inputs: Tensor, items: range) -> Tensor:
        """The embeddings of `inputs`, which are stored `items`, as this step sees them: their parts, under the step's view.

        (n, *shape) -> (sum of the parts, D).
        """
        if not self.changed:
            return self.encoder.embed(m, inputs)
        seen = []
        for replica, at, _ in self._within(m, items):
            own = parts(replica.task.dataset.specs[m], inputs[at], replica.hyperparameters.formation)
            transformation = replica.seen_as[replica.view].transformation if replica.seen_as else None
            seen.append(own if transformation is None else transformation(m, own))
        return self.encoder.embed(m, torch.cat(seen))

    def _pull(self, m: str, items: range, outward: Tensor) -> Tensor:
        """The gradient of all embeddings (N, D), carried to the inputs of some items."""
        leaf = self.inputs[m][items.start : items.stop].detach().requires_grad_()
        outer = torch.cat([outward[there] for _, _, there in self._within(m, items)])
        (gradient,) = torch.autograd.grad(self._embed(m, leaf, items), leaf, outer)
        return gradient

    def _starting(self, m: str) -> list[tuple[Condensation, slice, slice]]:
        """The replicas whose learning rates are in units that their first step measures, and the places of their items and
        embeddings."""
        return [place for place in self.places[m] if place[0].step == 0 and place[0].rates_are_relative]

    def _pulls(self, cut: Mapping[str, Tensor], outward: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        return {
            m: [tangent(outward[m][at], x.detach()[at]).norm() for _, _, at in self._starting(m)]
            for m, x in cut.items()
        }

    def _measure_rates(self, m: str, gradient: Tensor, pulls: Sequence[Tensor]) -> None:
        """Sets `rate_unit` of the replicas that start: the items' standard deviation over the encoder's gain, which is the
        root mean square change of their values by a pull of norm 1 on the sphere."""
        for (replica, at, _), pull in zip(self._starting(m), pulls, strict=True):
            own, items = gradient[at], self.inputs[m][at]
            gain = own.norm() / (pull * math.sqrt(own[0].numel()))
            unit = items.std(correction=0) / gain
            replica.rate_unit[m] = torch.where(unit.isfinite() & (unit > 0), unit, torch.ones_like(unit))
            self.rate[m][at] *= replica.rate_unit[m]

    def _losses(self, cut: dict[str, Tensor]) -> list[tuple[list[Condensation], Tensor]]:
        """Per group its replicas and their losses, (Q, 4); adds the gradients to the leaves `cut`."""
        losses = []
        offset = dict.fromkeys(cut, 0)
        for group in self.groups:
            first = group.replicas[0]
            q, s = len(group.replicas), first.items_per_class
            synthetic = {}
            for m in first.inputs:
                each = parts_of(first.task.dataset.specs[m], first.hyperparameters.formation)
                count = each * sum(len(r.inputs[m]) for r in group.replicas)
                part = in_turn(cut[m][offset[m] : offset[m] + count], each, first.items_in_each)
                synthetic[m] = part.view(q, -1, s, part.shape[1])
                offset[m] += count
            losses.append((group.replicas, group.backward(synthetic)))
        return losses

    def update(self, done: Pass) -> None:
        """The optimiser step of every replica, in place. An error in here leaves them between two steps: `torn`."""
        factors = on_device(torch.tensor([r.schedule_factor for r in self.replicas]), self.groups[0].weights.device)
        self.torn = True
        with torch.no_grad():
            for m, gradient in done.gradients.items():
                self._measure_rates(m, gradient, done.pulls[m])
                rate = self.rate[m] * factors[self.owner[m]].view(self.rate[m].shape)
                self._update(m, gradient, rate)
        for replica in self.replicas:
            replica.step += 1
        self.torn = False

    def _update(self, m: str, gradient: Tensor, rate: Tensor) -> None:
        velocity, momentum = self.velocity[m], self.momentum[m]
        if m not in self.square:
            velocity.mul_(momentum).add_(gradient)  # SGD: v = mu v + g; x -= lr v
            self.inputs[m].addcmul_(velocity, rate, value=-1)
        else:
            adam, square = self.adam[m], self.square[m]
            velocity.mul_(momentum).add_(gradient * torch.where(adam, 1 - momentum, torch.ones_like(momentum)))
            square.mul_(ADAM_BETA2).addcmul_(gradient, gradient, value=1 - ADAM_BETA2)
            taken = torch.cat([torch.full((len(r.inputs[m]),), r.step + 1.0) for r in self.replicas if m in r.inputs])
            steps = on_device(taken, gradient.device).view(momentum.shape)
            unbiased = velocity / (1 - momentum.pow(steps))
            root = (square / (1 - torch.pow(ADAM_BETA2, steps))).sqrt_().add_(ADAM_EPSILON)
            self.inputs[m].addcmul_(torch.where(adam, unbiased / root, velocity), rate, value=-1)
        self.inputs[m].clamp_(*self.range[m])


def ranges(count: int, size: int) -> list[range]:
    """0 .. count - 1 in ranges of `size`; the last may be smaller."""
    return [range(count)[first : first + size] for first in range(0, count, size)]


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """`values`, which the CPU has just made, on the device, without waiting for it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def _gradient(leaf: Tensor) -> Tensor:
    """What has arrived at a leaf: zeros if no term depends on it."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
