"""Replicas of one kind: their losses and the gradients of these in batched form, and what each term is divided by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from condense.embeddings.statistics import RealStatistics
from condense.method.condensation import Condensation
from condense.method.objective import Objective


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

    def backward(self, synthetic: Mapping[str, Tensor], plain: bool = False, block: slice | None = None) -> Tensor:
        """Adds the gradient of the weighted loss to the leaves `synthetic` (modality -> (Q, C, s, D)).

        `plain`: they are embeddings of the items as they are, whatever the step's view.
        `block`: they are those of some classes only. Terms are means over classes, so that these classes' part of each is
        computed: losses and gradients of blocks add up to those of all classes. Not in a step that sets normalisers.
        Returns (Q, 4), detached: uni, cross, joint as they are, and the normalised weighted total.
        """
        frequencies, phi_real = {}, {}
        objective, views = self.objective, None
        if self.replicas[0].views:
            views = [0 if plain else r.view for r in self.replicas]
            objective = replace(objective, real=self._real(views))
        if self.frequencies:
            chosen = on_device(
                torch.stack([r.next_frequencies() for r in self.replicas]), self.weights.device
            )  # (Q, F)
            own = slice(None) if block is None else block
            for m, pool in self.frequencies.items():
                q, size, dim = pool.shape
                rows = chosen + size * torch.arange(q, device=chosen.device)[:, None]
                frequencies[m] = pool.view(-1, dim).index_select(0, rows.view(-1)).view(q, -1, dim)
                known = self.phi_real[m][..., own, :]
                if views is None:
                    index = chosen[None, :, None, :].expand(2, -1, known.shape[2], -1)
                    phi_real[m] = known.gather(3, index)
                else:
                    seen = [known[:, i, view].index_select(2, chosen[i]) for i, view in enumerate(views)]
                    phi_real[m] = torch.stack(seen, 1)
        part = 1.0
        if block is not None:
            part = (block.stop - block.start) / self.replicas[0].task.dataset.num_classes
            objective = replace(objective, real=objective.real.of_classes(block))
        terms = part * objective.terms(synthetic, frequencies, phi_real)
        if self.replicas[0].step == 0:
            self._set_normalizer(terms, list(synthetic.values()))
        total = (self.weights * terms / self.normalizer).sum(1)
        (self.item_factor * total.sum()).backward()
        return torch.cat([terms.detach(), total.detach()[:, None]], 1)

    def _real(self, views: Sequence[int]) -> RealStatistics:
        """Statistics of each replica's view: as those of a task, with a dimension Q before C."""
        seen = [r.views[v].statistics for r, v in zip(self.replicas, views, strict=True)]
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
    if scaling == "gradient":  # the pull of all items together is 1: of those of a class, 1 again
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


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """`values`, which the CPU has just made, on the device, without waiting for it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
