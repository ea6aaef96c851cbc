"""Replicas laid out for ONE pass: their items side by side in the frozen encoder, their losses in batched form.

This is exact: in evaluation mode items do not see each other, and the total loss is a sum of losses of which each has one
replica's items only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from condense.engine.group import Group, on_device, tangent
from condense.engine.spread import Place, Spread
from condense.inputs.formation import in_turn, parts, parts_of
from condense.method.condensation import Condensation

Item = TypeVar("Item")
Result = TypeVar("Result")

ADAM_BETA2 = 0.999
ADAM_EPSILON = 1e-8


@dataclass(frozen=True)
class Pass:
    """What one pass yields."""

    gradients: dict[str, Tensor]  # modality -> (N, *shape), as the pack's inputs
    losses: list[tuple[list[Condensation], Tensor]]  # per group its replicas and their losses, (Q, 4) on the device
    pulls: dict[str, list[Tensor]]  # modality -> per starting replica the norm of its items' pull on the sphere, ()


class ReplicaBatch:
    """Replicas that share an encoder, or a bank of them, laid out for one pass. The replicas' tensors become views of the pack's.

    With a bank the pack has a member per encoder, with the same inputs.
    """

    def __init__(self, replicas: Iterable[Condensation], of: ReplicaBatch | None = None) -> None:
        """`of`: the pack that this is a member of."""
        replicas = list(replicas)
        kinds = {kind: i for i, kind in enumerate(dict.fromkeys(Group.kind(r) for r in replicas))}
        ordered = sorted(replicas, key=lambda r: kinds[Group.kind(r)])
        self.replicas = ordered
        self.encoder = ordered[0].task.encoder
        self.device = ordered[0].task.device
        self.here = Place(self.encoder, self.device)
        self.torn = False
        bank = len(ordered[0].bank)
        same = [list(group) for _, group in itertools.groupby(ordered, key=Group.kind)]
        self.groups = [] if bank else [Group.of(members) for members in same]
        self.inputs: dict[str, Tensor] = {}
        self.velocity: dict[str, Tensor] = {}
        self.square: dict[str, Tensor] = {}
        self.rate: dict[str, Tensor] = {}
        self.momentum: dict[str, Tensor] = {}
        self.range: dict[str, tuple[Any, Any]] = {}  # numbers, or tensors on the device where places differ
        self.adam: dict[str, Tensor] = {}
        self.changed = any(r.views or r.items_in_each > 1 for r in ordered)
        # modality -> replicas with the places of their stored items and of their embeddings, which may be more
        self.places: dict[str, list[tuple[Condensation, slice, slice]]] = {}
        self.owner: dict[str, Tensor] = {}  # modality -> (N,) int64: which of `replicas` an item belongs to
        for m in dict.fromkeys(m for r in ordered for m in r.inputs):
            having = [r for r in ordered if m in r.inputs]
            self._find_places(m, having)
            if of is None:
                self._lay_out(m, having)
            else:
                self.inputs[m] = of.inputs[m]
        self.members = [ReplicaBatch([r.bank[i] for r in ordered], self) for i in range(bank)]

    def _find_places(self, m: str, members: list[Condensation]) -> None:
        self.places[m], first, there = [], 0, 0
        for r in members:
            count = len(r.inputs[m])
            embedded = count * parts_of(r.task.dataset.specs[m], r.hyperparameters.formation)
            self.places[m].append((r, slice(first, first + count), slice(there, there + embedded)))
            first, there = first + count, there + embedded

    def _lay_out(self, m: str, members: list[Condensation]) -> None:
        device = self.device
        counts = [len(r.inputs[m]) for r in members]
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
        for r, x, v in zip(members, self.inputs[m].split(counts), self.velocity[m].split(counts), strict=True):
            r.inputs[m], r.velocity[m] = x, v
        if any(r.square for r in members):
            self.adam[m] = per_item([float(bool(r.square)) for r in members]).bool()
            self.square[m] = torch.cat([r.square.get(m, torch.zeros_like(r.inputs[m])) for r in members])
            for r, s in zip(members, self.square[m].split(counts), strict=True):
                if r.square:
                    r.square[m] = s

    def gradients(self, at_once: int | None = None, spread: Spread | None = None) -> Pass:
        """Losses of every replica and their gradients; changes nothing that the same step, asked again, does not change as well.

        `at_once`: stored items of each modality that may go through the encoder with their activations kept. A single replica
        that has more goes through in blocks of classes, each forward and backward once: its loss is a mean over classes. In
        its first step, which measures what the terms are divided by, and where not even a class fits, all are embedded
        without activations first, and the gradient comes from a second pass, part by part: the encoder runs forward twice.
        The result is the same. With a bank losses and gradients are means over its encoders.

        `spread`: devices that share the blocks of a single replica, or its parts; `at_once` is for each of them.
        """
        if self.members:
            return self._mean([member.gradients(at_once, spread) for member in self.members])
        done = self._gradients(at_once, spread if len(self.replicas) == 1 else None)
        for m, gradient in done.gradients.items():
            self._measure_units(m, gradient, done.pulls[m])
            for replica, at, _ in self.places[m]:
                if m in replica.rate_unit:
                    gradient[at] *= replica.rate_unit[m]
        return done

    def _mean(self, passes: list[Pass]) -> Pass:
        gradients = {m: torch.stack([done.gradients[m] for done in passes]).mean(0) for m in self.inputs}
        losses, first = [], 0
        for parts_of_group in zip(*(done.losses for done in passes), strict=True):
            count = len(parts_of_group[0][0])
            mean = torch.stack([values for _, values in parts_of_group]).mean(0)
            losses.append((self.replicas[first : first + count], mean))
            first += count
        return Pass(gradients, losses, {})

    def _gradients(self, at_once: int | None, spread: Spread | None) -> Pass:
        fits = at_once is None or all(len(x) <= at_once for x in self.inputs.values())
        if fits and spread is None:
            return self._through(self.here)
        replica, most = self.replicas[0], max(map(len, self.inputs.values())) if at_once is None else at_once
        devices = 1 if spread is None else len(spread.devices)
        if len(self.replicas) == 1 and replica.step and most >= replica.dpc:
            return self._by_blocks(most // replica.dpc, devices, spread)
        return self._through(self.here) if fits else self._twice(most, spread)

    def _through(self, place: Place, block: slice | None = None) -> Pass:
        """Forward and backward, of all items or of those of a block of the only replica's classes."""
        items = {m: range(len(x)) for m, x in self.inputs.items()}
        if block is not None:
            dpc = self.replicas[0].dpc
            items = dict.fromkeys(items, range(block.start * dpc, block.stop * dpc))
        leaves = {m: self._leaf(m, own) for m, own in items.items()}
        embedded = {m: self._embed(m, leaves[m], own, place) for m, own in items.items()}
        cut = {m: x.detach().requires_grad_() for m, x in embedded.items()}
        losses = self._losses(cut, block)
        outward = {m: _gradient(x) for m, x in cut.items()}
        pulled = _carried(list(embedded.values()), list(leaves.values()), list(outward.values()))
        pulls = self._pulls(cut, outward) if block is None else {m: [] for m in items}
        return Pass(dict(zip(leaves, pulled, strict=True)), losses, pulls)

    def _by_blocks(self, size: int, least: int, spread: Spread | None) -> Pass:
        """As `_through`, `size` classes at a time at most, in blocks that differ by one class at most; their number is a multiple
        of `least`, if there are as many classes."""
        (replica,), classes = self.replicas, self.replicas[0].task.dataset.num_classes
        count = min(classes, -(-classes // (size * least)) * least)
        edges = [classes * i // count for i in range(count + 1)]
        blocks = [slice(start, stop) for start, stop in itertools.pairwise(edges)]
        gradients = {m: torch.empty_like(x) for m, x in self.inputs.items()}
        if self.groups[0].frequencies:
            replica.next_frequencies()  # drawn here, once: blocks may ask for them at the same time

        def of_block(block: slice, place: Place) -> list[Tensor]:
            done = self._through(place, block)
            for m, gradient in done.gradients.items():
                gradients[m][block.start * replica.dpc : block.stop * replica.dpc] = gradient
            return [own for _, own in done.losses]

        losses = [own for of in self._each(of_block, blocks, spread) for own in of]
        return Pass(gradients, [([replica], torch.stack(losses).sum(0))], {m: [] for m in gradients})

    def _twice(self, at_once: int, spread: Spread | None) -> Pass:
        """As `_through`, `at_once` items of a modality at a time, which are embedded twice."""
        embedded, gradients = {}, {}
        for m, x in self.inputs.items():

            def values(items: range, place: Place, m: str = m, x: Tensor = x) -> Tensor:
                with torch.no_grad():  # which is a thread's own
                    return self._embed(m, x[items.start : items.stop], items, place)

            embedded[m] = torch.cat(self._each(values, ranges(len(x), at_once), spread))
        cut = {m: x.requires_grad_() for m, x in embedded.items()}
        losses = self._losses(cut)
        outward = {m: _gradient(x) for m, x in cut.items()}
        for m, x in self.inputs.items():

            def pulled(items: range, place: Place, m: str = m) -> Tensor:
                return self._pull(m, items, outward[m], place)

            gradients[m] = torch.cat(self._each(pulled, ranges(len(x), at_once), spread))
        return Pass(gradients, losses, self._pulls(cut, outward))

    def _each(
        self, work: Callable[[Item, Place], Result], items: Sequence[Item], spread: Spread | None
    ) -> list[Result]:
        return [work(item, self.here) for item in items] if spread is None else spread.each(work, items, self.encoder)

    def _leaf(self, m: str, items: range) -> Tensor:
        return self.inputs[m][items.start : items.stop].detach().requires_grad_()

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

    def _embed(self, m: str, inputs: Tensor, items: range, place: Place) -> Tensor:
        """The embeddings of `inputs`, which are stored `items`, as this step sees them: their parts, under the step's view.

        (n, *shape) -> (sum of the parts, D), both on the pack's device, wherever they are embedded.
        """
        if not self.changed:
            return place.encoder.embed(m, inputs.to(place.device)).to(self.device)
        seen = []
        for replica, at, _ in self._within(m, items):
            own = parts(replica.task.dataset.specs[m], inputs[at], replica.hyperparameters.formation)
            transformation = replica.views[replica.view].transformation if replica.views else None
            seen.append(own if transformation is None else transformation(m, own))
        return place.encoder.embed(m, torch.cat(seen).to(place.device)).to(self.device)

    def _pull(self, m: str, items: range, outward: Tensor, place: Place) -> Tensor:
        """The gradient of all embeddings (N, D), carried to the inputs of some items."""
        leaf = self._leaf(m, items)
        outer = torch.cat([outward[there] for _, _, there in self._within(m, items)])
        (gradient,) = _carried([self._embed(m, leaf, items, place)], [leaf], [outer])
        return gradient

    def _starting(self, m: str) -> list[tuple[Condensation, slice, slice]]:
        """The replicas whose gradients are in units that their first step measures, and the places of their items and
        embeddings."""
        return [place for place in self.places[m] if place[0].step == 0 and place[0].measures_units]

    def _pulls(self, cut: Mapping[str, Tensor], outward: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        return {
            m: [tangent(outward[m][at], x.detach()[at]).norm() for _, _, at in self._starting(m)]
            for m, x in cut.items()
        }

    def _measure_units(self, m: str, gradient: Tensor, pulls: Sequence[Tensor]) -> None:
        """Sets `rate_unit` of the replicas that start: the items' standard deviation over the encoder's gain, which is the
        root mean square change of their values by a pull of norm 1 on the sphere."""
        for (replica, at, _), pull in zip(self._starting(m), pulls, strict=True):
            own, items = gradient[at], self.inputs[m][at]
            gain = own.norm() / (pull * math.sqrt(own[0].numel()))
            unit = items.std(correction=0) / gain
            replica.rate_unit[m] = torch.where(unit.isfinite() & (unit > 0), unit, torch.ones_like(unit))

    def _losses(self, cut: dict[str, Tensor], block: slice | None = None) -> list[tuple[list[Condensation], Tensor]]:
        """Per group its replicas and their losses, (Q, 4); adds the gradients to the leaves `cut`. `block`: the classes of the
        only replica that these are of; the losses are then these classes' part."""
        losses = []
        offset = dict.fromkeys(cut, 0)
        for group in self.groups:
            first = group.replicas[0]
            q, s = len(group.replicas), first.items_per_class
            classes = first.task.dataset.num_classes if block is None else block.stop - block.start
            synthetic = {}
            for m in first.inputs:
                each = parts_of(first.task.dataset.specs[m], first.hyperparameters.formation)
                count = each * q * classes * first.dpc
                part = in_turn(cut[m][offset[m] : offset[m] + count], each, first.items_in_each)
                synthetic[m] = part.view(q, classes, s, part.shape[1])
                offset[m] += count
            losses.append((group.replicas, group.backward(synthetic, block=block)))
        return losses

    def update(self, done: Pass) -> None:
        """The optimiser step of every replica, in place. An error in here leaves them between two steps: `torn`."""
        factors = on_device(torch.tensor([r.schedule_factor for r in self.replicas]), self.device)
        self.torn = True
        with torch.no_grad():
            for m, gradient in done.gradients.items():
                rate = self.rate[m] * factors[self.owner[m]].view(self.rate[m].shape)
                self._update(m, gradient, rate)
        for replica in self.replicas:
            replica.step += 1
            for each in replica.bank:
                each.step = replica.step
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


def _carried(embedded: Sequence[Tensor], leaves: Sequence[Tensor], outward: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradients `outward` of the `embedded`, carried to the leaves. They are those of the inner product, bit for bit. For
    gradients that it is given autograd imports sympy, which takes a tenth of a process's time to its first step."""
    inner = torch.stack([(x * gradient).sum() for x, gradient in zip(embedded, outward, strict=True)]).sum()
    return torch.autograd.grad(inner, leaves)


def _gradient(leaf: Tensor) -> Tensor:
    """What has arrived at a leaf: zeros if no term depends on it."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
