"""MANY condensations on one device: one encoder, one copy of the embeddings, one pass per step.

The synthetic items of all replicas go through the frozen encoder together, forward and backward. This is exact: in
evaluation mode items do not see each other, and the total loss is a sum of losses of which each has one replica's
items only. Replicas join and leave between steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from condense.condensation import Condensation, Divergence
from condense.embeddings import Embedded, Task
from condense.evaluate import accuracy, pad, train_probes
from condense.objective import TERMS, Objective

ADAM_BETA2 = 0.999
ADAM_EPSILON = 1e-8


@dataclass
class Group:
    """Replicas whose losses are one batched computation: same task, dpc and kind of objective. Q of them."""

    replicas: list[Condensation]
    objective: Objective
    frequencies: dict[str, Tensor]  # modality -> (Q, P, D)
    phi_real: dict[str, Tensor]  # modality -> (2, Q, C, P)
    weights: Tensor  # (Q, 3) lambdas
    normalizer: Tensor  # (Q, 3)
    item_factor: float  # gradients are of item_factor * total

    @staticmethod
    def kind(replica: Condensation) -> tuple[object, ...]:
        h = replica.hyperparameters
        return (
            id(replica.task),
            replica.dpc,
            h.discrepancy,
            h.scaling,
            h.num_frequencies,
            h.frequency_pool,
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
            # Terms are means over classes and items. Their sum over items makes a learning rate mean the same thing
            # for every number of classes and dpc. The published scaling has no such factor.
            1.0 if hs[0].scaling == "paper" else float(task.dataset.num_classes * first.dpc),
        )

    def backward(self, synthetic: Mapping[str, Tensor]) -> Tensor:
        """Adds the gradient of the weighted loss to the leaves `synthetic` (modality -> (Q, C, s, D)).

        Returns (Q, 4), detached: uni, cross, joint as they are, and the normalised weighted total.
        """
        frequencies, phi_real = {}, {}
        if self.frequencies:
            chosen = torch.stack([r.next_frequencies() for r in self.replicas]).to(self.weights.device)  # (Q, F)
            classes = self.replicas[0].task.dataset.num_classes
            for m, pool in self.frequencies.items():
                q, size, dim = pool.shape
                rows = chosen + size * torch.arange(q, device=chosen.device)[:, None]
                frequencies[m] = pool.view(-1, dim).index_select(0, rows.view(-1)).view(q, -1, dim)
                index = chosen[None, :, None, :].expand(2, -1, classes, -1)
                phi_real[m] = self.phi_real[m].gather(3, index)
        terms = self.objective.terms(synthetic, frequencies, phi_real)
        if self.replicas[0].step == 0:
            self._set_normalizer(terms)
        total = (self.weights * terms / self.normalizer).sum(1)
        (self.item_factor * total.sum()).backward()
        return torch.cat([terms.detach(), total.detach()[:, None]], 1)

    def _set_normalizer(self, terms: Tensor) -> None:
        size = terms.detach().abs()
        one = torch.ones_like(size)
        # A term that is zero at the start (a single modality has no pairs) is left as it is.
        known = one if self.objective.scaling == "paper" else torch.where(size > 1e-8, size, one)
        self.normalizer = torch.where(size.isfinite(), known, one)
        for replica, own in zip(self.replicas, self.normalizer, strict=True):
            replica.normalizer = own.clone()


class Pack:
    """Replicas that share an encoder, laid out for one pass. The replicas' tensors become views of the pack's."""

    def __init__(self, replicas: Iterable[Condensation]) -> None:
        replicas = list(replicas)
        kinds = {kind: i for i, kind in enumerate(dict.fromkeys(Group.kind(r) for r in replicas))}
        ordered = sorted(replicas, key=lambda r: kinds[Group.kind(r)])
        self.replicas = ordered
        self.encoder = ordered[0].task.encoder
        self.groups = [Group.of(list(same)) for _, same in itertools.groupby(ordered, key=Group.kind)]
        self.inputs: dict[str, Tensor] = {}
        self.velocity: dict[str, Tensor] = {}
        self.square: dict[str, Tensor] = {}
        self.rate: dict[str, Tensor] = {}
        self.momentum: dict[str, Tensor] = {}
        self.range: dict[str, tuple[float, float]] = {}
        self.adam: dict[str, Tensor] = {}
        self.owner: dict[str, Tensor] = {}  # modality -> (N,) int64: which of `replicas` an item belongs to
        for m in dict.fromkeys(m for r in ordered for m in r.inputs):
            self._lay_out(m, [r for r in ordered if m in r.inputs])

    def _lay_out(self, m: str, members: list[Condensation]) -> None:
        device = members[0].task.device
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
        spec = members[0].task.dataset.specs[m]
        self.range[m] = (spec.low, spec.high)
        for r, x, v in zip(members, self.inputs[m].split(counts), self.velocity[m].split(counts), strict=True):
            r.inputs[m], r.velocity[m] = x, v
        if any(r.square for r in members):
            self.adam[m] = per_item([float(bool(r.square)) for r in members]).bool()
            self.square[m] = torch.cat([r.square.get(m, torch.zeros_like(r.inputs[m])) for r in members])
            for r, s in zip(members, self.square[m].split(counts), strict=True):
                if r.square:
                    r.square[m] = s

    def step(self) -> list[tuple[list[Condensation], Tensor]]:
        """One optimiser step of every replica. Returns per group its replicas and their losses, (Q, 4) on the device."""
        leaves = {m: x.detach().requires_grad_() for m, x in self.inputs.items()}
        embedded = {m: self.encoder.embed(m, x) for m, x in leaves.items()}
        cut = {m: x.detach().requires_grad_() for m, x in embedded.items()}
        losses = []
        offset = dict.fromkeys(cut, 0)
        for group in self.groups:
            first = group.replicas[0]
            q, s = len(group.replicas), first.dpc
            synthetic = {}
            for m in first.inputs:
                count = sum(len(r.inputs[m]) for r in group.replicas)
                part = cut[m][offset[m] : offset[m] + count]
                synthetic[m] = part.view(q, -1, s, part.shape[1])
                offset[m] += count
            losses.append((group.replicas, group.backward(synthetic)))
        gradients = torch.autograd.grad(list(embedded.values()), list(leaves.values()), [cut[m].grad for m in embedded])
        factors = torch.tensor([r.schedule_factor for r in self.replicas]).to(self.groups[0].weights.device)
        with torch.no_grad():
            for m, gradient in zip(leaves, gradients, strict=True):
                rate = self.rate[m] * factors[self.owner[m]].view(self.rate[m].shape)
                self._update(m, gradient, rate)
        for replica in self.replicas:
            replica.step += 1
        return losses

    def _update(self, m: str, gradient: Tensor, rate: Tensor) -> None:
        velocity, momentum = self.velocity[m], self.momentum[m]
        if m not in self.square:
            velocity.mul_(momentum).add_(gradient)  # SGD: v = mu v + g; x -= lr v
            self.inputs[m].addcmul_(velocity, rate, value=-1)
        else:
            adam, square = self.adam[m], self.square[m]
            velocity.mul_(momentum).add_(gradient * torch.where(adam, 1 - momentum, torch.ones_like(momentum)))
            square.mul_(ADAM_BETA2).addcmul_(gradient, gradient, value=1 - ADAM_BETA2)
            steps = (
                torch.cat([torch.full((len(r.inputs[m]),), r.step + 1.0) for r in self.replicas if m in r.inputs])
                .to(gradient)
                .view(momentum.shape)
            )
            unbiased = velocity / (1 - momentum.pow(steps))
            root = (square / (1 - torch.pow(ADAM_BETA2, steps))).sqrt_().add_(ADAM_EPSILON)
            self.inputs[m].addcmul_(torch.where(adam, unbiased / root, velocity), rate, value=-1)
        self.inputs[m].clamp_(*self.range[m])


class Engine:
    """Steps any number of replicas on one device. Not thread-safe: one thread at a time."""

    def __init__(self) -> None:
        self._packs: dict[tuple[int, ...], list[Pack]] = {}
        self._history: dict[int, list[Tensor]] = {}

    def step(self, replicas: Sequence[Condensation]) -> None:
        """One step of each of `replicas` that has not diverged."""
        live = [r for r in replicas if r.divergence is None]
        for pack in self._packs_of(live):
            for members, losses in pack.step():
                for replica, row in zip(members, losses.unbind(), strict=True):
                    self._history.setdefault(id(replica), []).append(row)

    def run(self, replicas: Sequence[Condensation], steps: int) -> dict[int, Tensor]:
        """`steps` steps of each; returns position in `replicas` -> its losses, as `losses_of`."""
        for _ in range(steps):
            self.step(replicas)
        return {i: self.losses_of(r) for i, r in enumerate(replicas)}

    def losses_of(self, replica: Condensation) -> Tensor:
        """(steps, 4) float32 on the CPU: uni, cross, joint, total of the steps since the last call.

        Sets `replica.divergence` at the first loss that is not finite. This is where host and device meet.
        """
        rows = self._history.pop(id(replica), [])
        if not rows:
            return torch.empty(0, 4)
        losses = torch.stack(rows).cpu()
        bad = (~losses.isfinite()).nonzero()
        if len(bad) and replica.divergence is None:
            at, column = bad[0].tolist()
            step = replica.step - len(losses) + at + 1
            replica.divergence = Divergence(step, (*TERMS, "total")[column])
        return losses

    def leave(self, replica: Condensation) -> None:
        """Forgets a replica; its tensors become its own again."""
        self._history.pop(id(replica), None)
        self._packs.clear()
        for tensors in (replica.inputs, replica.velocity, replica.square):
            for name in tensors:
                tensors[name] = tensors[name].clone()

    def _packs_of(self, replicas: Sequence[Condensation]) -> list[Pack]:
        """Packs for exactly these replicas, one per encoder; rebuilt when replicas come, go, or get their normaliser."""
        key = tuple(id(r) for r in replicas) + tuple(r.step == 0 for r in replicas)
        if key not in self._packs:
            self._packs = {}  # a replica's tensors are views of one pack at a time
            by_encoder: dict[int, list[Condensation]] = {}
            for replica in replicas:
                by_encoder.setdefault(id(replica.task.encoder), []).append(replica)
            self._packs = {key: [Pack(same) for same in by_encoder.values()]}
        return self._packs[key]


@torch.no_grad()
def synthetic_features(replicas: Sequence[Condensation]) -> list[Tensor]:
    """Embeddings of each replica's items, all modalities side by side: (C * dpc, M * D) each, in one encoder pass."""
    features: list[list[Tensor]] = [[] for _ in replicas]
    by_encoder: dict[tuple[int, str], list[int]] = {}
    for i, replica in enumerate(replicas):
        for m in replica.inputs:
            by_encoder.setdefault((id(replica.task.encoder), m), []).append(i)
    for (_, m), members in by_encoder.items():
        inputs = torch.cat([replicas[i].inputs[m] for i in members])
        embedded = replicas[members[0]].task.encoder.embed(m, inputs)
        for i, part in zip(members, embedded.split([len(replicas[i].inputs[m]) for i in members]), strict=True):
            features[i].append(part)
    return [torch.cat(parts, 1) for parts in features]


def validate(replicas: Sequence[Condensation], head_seeds: Sequence[int] = (0,)) -> list[float]:
    """Validation accuracy of a probe trained on each replica's items (mean over heads); probes are trained together.

    NaN where an embedding is not finite: such a replica has diverged (in its last step, if no loss has shown it yet).
    """
    scores = [float("nan")] * len(replicas)
    features = synthetic_features(replicas)
    by_task: dict[int, list[int]] = {}
    for i, replica in enumerate(replicas):
        if bool(features[i].isfinite().all()):
            by_task.setdefault(id(replica.task), []).append(i)
        elif replica.divergence is None:
            replica.divergence = Divergence(replica.step + 1, TERMS[0])
    for members in by_task.values():
        task: Task = replicas[members[0]].task
        x, y, w = pad([features[i] for i in members], [replicas[i].labels for i in members])
        probes = train_probes(x, y, w, task.dataset.num_classes, head_seeds)
        right = accuracy(probes, task.validation.features, task.validation.labels).overall.mean(1)
        for i, value in zip(members, right.tolist(), strict=True):
            scores[i] = value
    return scores


def probe_accuracy(train: Embedded, held_out: Embedded, num_classes: int, head_seeds: Sequence[int] = (0,)) -> float:
    """Accuracy on `held_out` of a probe trained on all of `train`."""
    probes = train_probes(train.features[None], train.labels[None], None, num_classes, head_seeds)
    return accuracy(probes, held_out.features, held_out.labels).overall.mean().item()


def held_out_accuracy(replicas: Sequence[Condensation], held_out: Sequence[Embedded]) -> list[float]:
    """As `validate`, on other data: `held_out[i]` for `replicas[i]`."""
    features = synthetic_features(replicas)
    return [
        probe_accuracy(Embedded({"all": x}, r.labels), data, r.task.dataset.num_classes)
        if bool(x.isfinite().all())
        else float("nan")
        for x, r, data in zip(features, replicas, held_out, strict=True)
    ]
