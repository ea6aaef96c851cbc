"""The objective of ImageBindDC (arXiv 2511.08263): distribution matching in a unified embedding space, at three levels.

Notation, the same throughout this file (arrays are float32 unless a test passes float64):

    Q   replicas that are computed together (condensations of the same shape; they never mix)
    C   classes                n_c  real items of class c        s   synthetic items per class (dpc)
    D   embedding dimension    F    frequencies in one step      P   frequencies in the pool
    r_m, s_m   unit embeddings of modality m of one real / synthetic item, (D,)
    S   synthetic embeddings, modality -> (Q, C, s, D)
    R   statistics of the real embeddings, `RealStatistics`
    *   elementwise product      < , >   inner product

    phi_X(t) = mean_i exp(i <t, x_i>)     empirical characteristic function (CF) of X at frequency t = sigma z, z ~ N(0, I)

Terms are means over classes, and over modalities (uni) or unordered pairs of modalities (cross, joint).
Real items may lack modalities. phi_R and the mean of r_m are over the items of a class that have m (at least one does);
the mean of r_a * r_b is over the items that have both a and b, since pairs are only formed where both are
present. A class without any such item has no joint term of this pair and is left out of the mean over classes; a pair
without any in all classes is left out of the mean over pairs.
Nothing here grows with the number of real items: they enter through class means and CF values computed once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F_
from torch import Tensor
from torch.autograd.function import once_differentiable

from condense.embeddings.statistics import RealStatistics, pairs_of

TERMS = ("uni", "cross", "joint")
PAPER_CF_FACTOR = 300.0  # in the published code (loss/NCFM.py)
SQRT_FLOOR = math.sqrt(0.5e-12)
"""Least value of the CF discrepancy at a frequency, 7e-7: just above the float32 error of phi, which is 2e-8 to 5e-7
(mean over frequencies, sigma 0.1 to 4, D up to 1024; see tests). Under it the gradient is 0, above it bounded.
At alpha = beta = 0.5 it equals the published code's clamp of the phase part."""


def class_characteristic_function(
    embeddings: Tensor, labels: Tensor, num_classes: int, frequencies: Tensor, chunk: int = 512
) -> Tensor:
    """phi of each class of the real items: (n, D), (n,), frequencies (P, D) -> (2, C, P), real and imaginary part.

    The items are those that have the modality: a row of zeros would count, with a phi of 1.
    Exact over all n items; done once per replica. Memory is bounded by `chunk` items at a time, whose sums run on in
    float64: in float32 the error would grow with n, to hundreds of times SQRT_FLOOR.
    """
    total = torch.zeros(2, num_classes, len(frequencies), dtype=torch.float64, device=embeddings.device)
    for x, y in zip(embeddings.split(chunk), labels.split(chunk), strict=True):
        angle = x @ frequencies.T  # (chunk, P)
        members = F_.one_hot(y, num_classes).to(x.dtype).T
        total[0] += members @ angle.cos()
        total[1] += members @ angle.sin_()
    return (total / torch.bincount(labels, minlength=num_classes)[:, None]).to(embeddings.dtype)


def cf_discrepancy(phi_real: Tensor, phi_syn: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
    """CF discrepancy, averaged over frequencies: (2, ..., F), (2, ..., F) -> (...).

    sqrt(alpha (|phi_R| - |phi_S|)^2 + 2 beta (|phi_R||phi_S| - Re phi_R Re phi_S - Im phi_R Im phi_S)), the amplitude and
    the phase part (NCFM, arXiv 2502.20653, eq. 7). With alpha = beta that is beta |phi_R - phi_S|^2; else see `Parts`. Nothing
    here subtracts nearly equal numbers when R and S are close.
    """
    if isinstance(alpha, float) and alpha == beta:
        squared = beta * (phi_real - phi_syn).square().sum(0)
    else:
        parts = Parts.of(phi_syn[0], phi_syn[1], phi_real)
        squared = alpha * parts.amplitude.square() + beta * parts.phase
    return squared.clamp_min(SQRT_FLOOR**2).sqrt().mean(-1)


@dataclass(frozen=True)
class Parts:
    """The quantities that alpha and beta weight, per frequency, as exact as d = phi_S - phi_R.

    Attributes:
        amplitude: |phi_S| - |phi_R|.
        phase: 2 (|phi_R||phi_S| - phi_R . phi_S) = 2 turn^2 / (|phi_R||phi_S| + phi_R . phi_S), where that has no zero below.
        turn: Re phi_R Im d - Im phi_R Re d = |phi_R||phi_S| sin(the angle between them).
        length: |phi_S|.
    """

    amplitude: Tensor
    phase: Tensor
    turn: Tensor
    length: Tensor

    @staticmethod
    def of(real: Tensor, imaginary: Tensor, phi_real: Tensor) -> Parts:
        """`real`, `imaginary`: phi_S, (..., F) each; phi_real: (2, ..., F)."""
        tiny = torch.finfo(real.dtype).tiny
        length = (real.square() + imaginary.square() + tiny).sqrt()
        other = (phi_real.square().sum(0) + tiny).sqrt()
        apart_real, apart_imaginary = real - phi_real[0], imaginary - phi_real[1]
        turn = phi_real[0] * apart_imaginary - phi_real[1] * apart_real
        both, inner = other * length, phi_real[0] * real + phi_real[1] * imaginary
        # Each formula is exact where it is used; the other one's denominator is kept away from zero.
        phase = torch.where(inner > 0, 2 * turn.square() / (both + inner.clamp_min(0)), 2 * (both - inner))
        return Parts(length - other, phase, turn, length)


def uni_modal(
    synthetic: Tensor,  # (Q, C, s, D)
    frequencies: Tensor,  # (Q, F, D)
    phi_real: Tensor,  # (2, Q, C, F)
    alpha: Tensor | float,  # () or (Q, 1, 1)
    beta: Tensor | float,
) -> Tensor:
    """CF discrepancy of one modality, mean over classes -> (Q,). Its gradient goes to `synthetic` only."""
    loss: Tensor = _UniModal.apply(synthetic, frequencies, phi_real, alpha, beta)
    return loss


class _UniModal(torch.autograd.Function):
    """`cf_discrepancy` of phi_syn, with its gradient written out: the arrays of (Q, C, s, F) are most of a step's memory
    traffic outside the encoder, and autograd would pass over them three times as often.

    With d = phi_S - phi_R and alpha = beta, root = sqrt(beta) |d| and d root / d phi_S = beta d / root, per frequency. Else, with
    `Parts`, root = sqrt(alpha amplitude^2 + beta phase) and, along phi_S and across it (u = phi_S / |phi_S|),
    d root / d phi_S = ((alpha amplitude + beta phase / (2 |phi_S|)) u + beta turn / |phi_S| i u) / root.
    d phi_S / d angle = i exp(i angle) / s.
    """

    @staticmethod
    def forward(
        ctx: Any, synthetic: Tensor, frequencies: Tensor, phi_real: Tensor, alpha: Tensor | float, beta: Tensor | float
    ) -> Tensor:
        q, c, s, d = synthetic.shape
        angle = torch.bmm(synthetic.reshape(q, c * s, d), frequencies.transpose(1, 2)).view(q, c, s, -1)
        cos, sin = angle.cos(), angle.sin_()
        real, imaginary = (cos[:, :, 0], sin[:, :, 0]) if s == 1 else (cos.mean(2), sin.mean(2))  # (Q, C, F)
        if isinstance(alpha, float) and alpha == beta:
            pull_real, pull_imaginary = real - phi_real[0], imaginary - phi_real[1]  # d, later d root / d phi_S
            squared = pull_real.square().addcmul_(pull_imaginary, pull_imaginary).mul_(beta)
            pull_real.mul_(beta)
            pull_imaginary.mul_(beta)
        else:
            parts = Parts.of(real, imaginary, phi_real)
            squared = alpha * parts.amplitude.square() + beta * parts.phase
            along = (alpha * parts.amplitude + beta * parts.phase / (2 * parts.length)) / parts.length
            across = beta * parts.turn / parts.length.square()
            pull_real, pull_imaginary = along * real - across * imaginary, along * imaginary + across * real
        root = squared.clamp_min(SQRT_FLOOR**2).sqrt_()
        if ctx.needs_input_grad[0]:
            weight = torch.where(squared >= SQRT_FLOOR**2, root.reciprocal(), 0.0).mul_(1 / (s * root.shape[2] * c))
            pull_real, pull_imaginary = pull_real.mul_(weight).unsqueeze(2), pull_imaginary.mul_(weight).unsqueeze(2)
            slope = cos.mul_(pull_imaginary).sub_(sin.mul_(pull_real))  # (Q, C, s, F): d loss / d angle
            ctx.save_for_backward(slope.view(q, c * s, -1), frequencies)
            ctx.shape = synthetic.shape
        return root.mean((1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        slope, frequencies = ctx.saved_tensors
        return torch.bmm(slope, frequencies).mul_(gradient[:, None, None]).view(ctx.shape), None, None, None, None


def mean_discrepancy(synthetic: Tensor, real_mean: Tensor) -> Tensor:
    """Squared distance of class means (linear-kernel MMD, as distribution matching, arXiv 2110.04181), mean over classes.

    (Q, C, s, D), (C, D) -> (Q,).
    """
    return (synthetic.mean(2) - real_mean).square().sum(-1).mean(1)


def cross_modal(syn_mean: Mapping[str, Tensor], real_mean: Mapping[str, Tensor]) -> Tensor:
    """Hybrid real/synthetic pairs: 1 - cos(mean(R_a) * mean(S_b), mean(R_b) * mean(S_a)), mean over classes and pairs.

    syn_mean: modality -> (Q, C, D); real_mean: modality -> (C, D). Returns (Q,). `CGM` in AVDD; a true cosine here.
    """
    pairs = pairs_of(list(syn_mean))
    terms = [
        (1 - F_.cosine_similarity(real_mean[a] * syn_mean[b], real_mean[b] * syn_mean[a], dim=-1, eps=1e-12)).mean(1)
        for a, b in pairs
    ]
    return torch.stack(terms).mean(0)


def joint_modal(
    synthetic: Mapping[str, Tensor],
    real_product: Mapping[tuple[str, str], Tensor],
    share: Mapping[tuple[str, str], Tensor] | None = None,
) -> Tensor:
    """mean over all pairs of a real and a synthetic item of 1 - <r_a * r_b, s_a * s_b>, mean over classes and pairs -> (Q,).

    The mean over real items is taken inside the inner product: (C, D) is all that is needed of them. `ICM` in AVDD.
    `real_product` and `share`: see `RealStatistics`. Without any pair it is 0.
    """
    terms = []
    for (a, b), product in real_product.items():
        apart = 1 - ((synthetic[a] * synthetic[b]).mean(2) * product).sum(-1)  # (Q, C)
        terms.append(apart @ share[a, b] if share and (a, b) in share else apart.mean(1))
    if not terms:
        some = next(iter(synthetic.values()))
        return some.new_zeros(len(some))
    return torch.stack(terms).mean(0)


def paper_cross_modal(
    syn_mean: Mapping[str, Tensor], real_mean: Mapping[str, Tensor], output_scale: Mapping[str, float]
) -> Tensor:
    """The published code's cross term: 1 - <mean(R_a) * mean(S_b), mean(R_b) * mean(S_a)> of *unnormalised* embeddings.

    ImageBind's audio embeddings have norm 20, so this goes far below zero.
    """
    terms = []
    for a, b in pairs_of(list(syn_mean)):
        scale = (output_scale[a] * output_scale[b]) ** 2
        terms.append((1 - scale * (real_mean[a] * syn_mean[b] * real_mean[b] * syn_mean[a]).sum(-1)).mean(1))
    return torch.stack(terms).sum(0)


@dataclass(frozen=True)
class Objective:
    """The three terms for a group of Q replicas of the same shape, each with its own frequencies and weights."""

    real: RealStatistics
    output_scale: Mapping[str, float]
    discrepancy: str  # cf | mmd
    scaling: str  # normalized | relative | paper
    alpha: Tensor | float  # number, or (Q, 1, 1)
    beta: Tensor | float

    @property
    def zero(self) -> tuple[float, float, float]:
        """Sizes of uni, cross and joint below which they are only rounding errors."""
        return (2 * SQRT_FLOOR if self.discrepancy == "cf" else 1e-8), 1e-6, 1e-6

    def terms(
        self, synthetic: Mapping[str, Tensor], frequencies: Mapping[str, Tensor], phi_real: Mapping[str, Tensor]
    ) -> Tensor:
        """S: modality -> (Q, C, s, D); frequencies: (Q, F, D); phi_real: (2, Q, C, F). Returns (Q, 3): uni, cross, joint.

        `paper` scaling: 300 times the CF discrepancy, summed over modalities, and the unnormalised cross term.
        """
        if self.discrepancy == "cf":
            uni = [uni_modal(x, frequencies[m], phi_real[m], self.alpha, self.beta) for m, x in synthetic.items()]
        else:
            uni = [mean_discrepancy(x, self.real.mean[m]) for m, x in synthetic.items()]
        paper = self.scaling == "paper"
        factor = PAPER_CF_FACTOR if paper and self.discrepancy == "cf" else 1.0
        uni_term = factor * (torch.stack(uni).sum(0) if paper else torch.stack(uni).mean(0))
        if len(synthetic) < 2:
            return torch.stack([uni_term, torch.zeros_like(uni_term), torch.zeros_like(uni_term)], 1)
        means = {m: x.mean(2) for m, x in synthetic.items()}
        if paper:
            cross = paper_cross_modal(means, self.real.mean, self.output_scale)
            joint = joint_modal(synthetic, self.real.product, self.real.share) * len(self.real.product)
        else:
            cross = cross_modal(means, self.real.mean)
            joint = joint_modal(synthetic, self.real.product, self.real.share)
        return torch.stack([uni_term, cross, joint], 1)


def draw_frequencies(
    count: int,
    dim: int,
    scale: float,
    generator: torch.Generator,
    sampling: str = "independent",
    device: torch.device | None = None,
) -> Tensor:
    """t = sigma z, z ~ N(0, I): (count, dim), float32 on `device`. A Gaussian kernel of bandwidth 1 / sigma.

    `orthogonal`: each `dim` successive frequencies are orthogonal to each other (the last ones may be fewer), and each of
    them for itself is still N(0, sigma^2 I): Gaussian vectors g_1 .. g_D made orthogonal by Gram and Schmidt's method (which
    QR is), with their lengths kept. Q of a Gaussian matrix is uniform and independent of R, whose columns have the lengths
    of the g_i. So estimates over t have the same mean and, as no direction is seen twice before all are seen once, less
    variance (Yu et al. 2016, Orthogonal Random Features, arXiv 1610.09072).
    """
    if sampling == "independent":
        return scale * torch.randn(count, dim, generator=generator).to(device)
    drawn = torch.randn(-(-count // dim), dim, dim, generator=generator).to(device)
    # In float64: Q's last columns are as exact as the matrix is well-conditioned, and a seed means the same everywhere.
    q, r = torch.linalg.qr(drawn.double())
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]  # LAPACK leaves the signs open
    t = (q * r.norm(dim=1, keepdim=True)).transpose(1, 2)  # each row a frequency
    return scale * t.reshape(-1, dim)[:count].to(drawn.dtype)


def pass_over(pool: int, count: int, block: int, generator: torch.Generator) -> Tensor:
    """Indices of `pool` frequencies, (pool // count * count,) int64, of which each step takes the next `count`; no index twice.

    `block`: how many successive ones are orthogonal to each other; a step's are taken from as few blocks as can be.
    """
    blocks = torch.randperm(-(-pool // block), generator=generator).tolist()
    order = [b * block + torch.randperm(min(block, pool - b * block), generator=generator) for b in blocks]
    return torch.cat(order)[: pool // count * count]


def expected_noise_floor(dpc: int) -> float:
    """The size of |phi_R - phi_S| where |phi| is near zero: the sampling error of `dpc` items, 1 / sqrt(dpc)."""
    return 1.0 / math.sqrt(dpc)
