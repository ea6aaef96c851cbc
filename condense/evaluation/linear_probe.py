"""Linear probes: how good a condensed set is, judged on its embeddings by the frozen encoder.

A probe is softmax regression on the concatenated unit embeddings of all modalities, with zeros for a modality that an
item lacks. Many probes are trained in one batched computation, since a search does this at every report of every
trial.

R  replicas (condensed sets), each with a probe per head seed
H  head seeds
N  items of a set; shorter sets are padded with items of weight 0
d  features of an item (number of modalities x dimension of the unified space)
C  classes
r  rank of the problem, min(N, d + 1)

Objective of one probe, with item weights w_i that sum to 1, x_i the features moved to mean 0 and divided by their
root mean square norm (of the set that it is trained on), and y_i the label, or a row of probabilities (a soft label):

    sum_i w_i * cross_entropy(x_i W + b, y_i) + weight_decay / 2 * (|W|^2 + |b|^2)

The one rule serves 10 synthetic items and 200,000 real ones, and every encoder: the data term is a mean, so the decay
does not depend on N; and embeddings of trained towers often share one large direction (a cosine of 0.99 between any
two) and separate the classes in the remaining hundredths: without this, the same decay would erase them.
In scikit-learn's LogisticRegression, C = 1 / (weight_decay * N), on such x_i with a constant 1 appended.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WEIGHT_DECAY = 1e-3
TOLERANCE = 1e-7  # nats above the minimum at which a probe counts as trained
NEWTON_SIZE = 128  # unknowns of a probe up to which its Hessian is factorised


@dataclass(frozen=True)
class Probes:
    """Trained heads."""

    weight: Tensor  # (R, H, d, C) float32
    bias: Tensor  # (R, H, C) float32
    steps: int  # of the slowest probe
    converged: Tensor  # (R, H) bool: within TOLERANCE of its minimum


@dataclass(frozen=True)
class Accuracy:
    """Accuracies of each probe, 0 .. 1."""

    overall: Tensor  # (R, H) float32
    per_class: Tensor  # (R, H, C) float32; NaN for a class without items


def pad(
    features: Sequence[Tensor],  # R x (N_r, d)
    labels: Sequence[Tensor],  # R x (N_r,)
) -> tuple[Tensor, Tensor, Tensor]:
    """Sets of different sizes for `train_probes`: features (R, N, d), labels (R, N), weights (R, N) of 1 or 0."""
    weights = [torch.ones(len(x), device=x.device) for x in features]
    stack = torch.nn.utils.rnn.pad_sequence
    return stack(list(features), True), stack(list(labels), True), stack(weights, True)


@torch.no_grad()
def train_probes(
    features: Tensor,  # (R, N, d) float
    labels: Tensor,  # (R, N) int64 in 0 .. C-1; anything where the weight is 0
    weights: Tensor | None,  # (R, N) >= 0, relative weights of a set's items; None: all the same
    num_classes: int,
    head_seeds: Sequence[int] = (0,),
    *,
    targets: Tensor | None = None,  # (R, N, C) probabilities; anything where the weight is 0; None: the labels
    steps: int = 2000,
    weight_decay: float = WEIGHT_DECAY,
) -> Probes:
    """Probes trained to their minimum, full batch, all R * H at once.

    The objective is strictly convex: where the probe starts (what a head seed draws) does not matter once it is
    trained, so one head seed is enough; several show that it is trained.

    Method: gradient descent on a quadratic upper bound, accelerated. The Hessian of the data term is at most
    1/2 X'diag(w)X for every class (Boehning 1992, "Multinomial logistic regression algorithm"), which is diagonal in
    the principal axes of X: rotated there once, every step is a cheap, preconditioned one. Nesterov momentum restarts
    whenever it points uphill (O'Donoghue & Candes 2015). A probe stops by itself as soon as strong convexity proves
    it within TOLERANCE of its minimum, |gradient|^2 / (2 * weight_decay), so it does not depend on its neighbours.
    Where C * r is small, Newton's method gets there in a tenth of the steps, and in less time.
    At most `steps` steps. Memory: about 3 times the features, also for full data (200,000 x 2,048: 5 GB).

    `targets`: soft labels, in place of `labels`. The cross entropy with probabilities has the same Hessian, so that all of
    the above holds.

    Raises ValueError on shapes that do not fit, a set without weight, labels outside 0 .. C-1, or targets that are no
    probabilities.
    """
    weights = _checked_weights(features, labels, weights, num_classes, weight_decay)
    R, _, d = features.shape
    H, C = len(head_seeds), num_classes
    present = weights > 0  # (R, N)
    x, mean, scale = _standardized(features.float().masked_fill(~present.unsqueeze(2), 0.0), weights)
    x = torch.cat([x, torch.ones_like(x[:, :, :1])], 2)  # (R, N, d+1): the bias is the weight of a constant 1
    axes, size = _principal_axes(x, weights)  # (R, d+1, r), (R, r)
    z = x @ axes  # (R, N, r): the same items in these axes
    wz = z * weights.unsqueeze(2)  # (R, N, r)
    target = torch.nn.functional.one_hot(labels.masked_fill(~present, 0), C).float()  # (R, N, C)
    if targets is not None:
        known = torch.where(present.unsqueeze(2), targets, target) if targets.shape == target.shape else targets
        target = checked_targets(known, target.shape)
    pull = (target.mT @ wz).unsqueeze(2)  # (R, C, 1, r): the labels' part of the gradient
    step_size = (1.0 / (size / 2 + weight_decay))[:, None, None]  # (R, 1, 1, r)

    start = torch.stack([_initial_head(seed, d, C) for seed in head_seeds], 1).to(x.device)  # (C, H, d+1)
    # Dropped: the part of a start outside the span of the items, which changes no logit and is 0 at the minimum.
    u = (start.flatten(0, 1) @ axes).view(R, C, H, -1)  # (R, C, H, r)
    if C * u.shape[3] <= NEWTON_SIZE:
        u, taken, converged = _newton(u, z, weights, target, weight_decay, steps)
    else:
        u, taken, converged = _accelerated(u, z, wz, pull, step_size, weight_decay, steps)
    head = torch.einsum("rkj,rchj->rhkc", axes, u)  # (R, H, d+1, C), for the standardised features
    weight = head[:, :, :d] / scale[:, None, None, None]
    bias = head[:, :, d] - torch.einsum("rk,rhkc->rhc", mean, weight)
    return Probes(weight, bias, taken, converged)


@torch.no_grad()
def hits(
    probes: Probes,
    features: Tensor,  # (n, d) items to classify, the same for every probe
    labels: Tensor,  # (n,) int64 in 0 .. C-1
) -> Tensor:
    """(n, R, H) bool: which items every probe gets right. Ties go to the lower class."""
    return torch.cat([logits.argmax(3) == y for logits, y in _logits(probes, features, labels)])


@torch.no_grad()
def log_probabilities(
    probes: Probes,
    features: Tensor,  # (n, d) items to classify, the same for every probe
    labels: Tensor,  # (n,) int64 in 0 .. C-1
) -> Tensor:
    """(n, R, H) float32: the natural logarithm of the probability that every probe gives to the right class."""
    found = []
    for logits, y in _logits(probes, features, labels):
        right = logits.gather(3, y[..., None].expand(*logits.shape[:3], 1)).squeeze(3)
        found.append(right - logits.logsumexp(3))
    return torch.cat(found)


def _logits(probes: Probes, features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Every probe's logits of some items at a time, (m, R, H, C), and these items' labels, (m, 1, 1)."""
    R, H, d, C = probes.weight.shape
    heads = probes.weight.permute(2, 0, 1, 3).reshape(d, R * H * C)
    chunk = max(1, 2**24 // (R * H * C))  # 64 MB
    for x, y in zip(features.float().split(chunk), labels.split(chunk), strict=True):
        yield (x @ heads).view(-1, R, H, C) + probes.bias, y[:, None, None]


@torch.no_grad()
def accuracy(
    probes: Probes,
    features: Tensor,  # (n, d) items to classify, the same for every probe
    labels: Tensor,  # (n,) int64 in 0 .. C-1
) -> Accuracy:
    """The accuracy of every probe, from its `hits`."""
    R, H, _, C = probes.weight.shape
    right = hits(probes, features, labels).float()  # (n, R, H)
    membership = torch.nn.functional.one_hot(labels, C).float()  # (n, C)
    per_class = (membership.T @ right.flatten(1)).view(C, R, H) / membership.sum(0)[:, None, None]
    return Accuracy(right.mean(0), per_class.permute(1, 2, 0))


def as_share(
    value: float,  # accuracy, recall, ... of a condensed set
    full: float,  # the same of the full data
) -> float:
    """`value` as a share of the full data's; may exceed 1. Raises ValueError unless full > 0."""
    if not full > 0:
        raise ValueError(f"the full data's value must be > 0, but got {full}")
    return value / full


def checked_targets(
    targets: Tensor,  # (..., C)
    shape: Sequence[int],
) -> Tensor:
    """`targets` as float32. Raises ValueError unless they are of this shape, >= 0, and every row sums to 1 (within 1e-4)."""
    if tuple(targets.shape) != tuple(shape):
        raise ValueError(f"targets must be {tuple(shape)}, but got {tuple(targets.shape)}")
    targets = targets.float()
    if not bool((targets >= 0).all()) or not bool(((targets.sum(-1) - 1).abs() <= 1e-4).all()):
        raise ValueError("targets must be probabilities: >= 0, and each row must sum to 1")
    return targets


def _checked_weights(
    features: Tensor, labels: Tensor, weights: Tensor | None, num_classes: int, weight_decay: float
) -> Tensor:
    """(R, N) float32, each set's sum 1."""
    if features.dim() != 3 or labels.shape != features.shape[:2]:
        shapes = f"{tuple(features.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"features must be (R, N, d) and labels (R, N), but got {shapes}")
    if weight_decay <= 0:
        raise ValueError(f"weight_decay must be > 0, but got {weight_decay}")
    if weights is None:
        weights = torch.ones(labels.shape, device=features.device)
    if weights.shape != labels.shape:
        raise ValueError(f"weights must be {tuple(labels.shape)}, but got {tuple(weights.shape)}")
    total = weights.float().sum(1, keepdim=True)
    if not bool((weights >= 0).all()) or not bool((total > 0).all()):
        raise ValueError("weights must be >= 0, and > 0 for at least one item of every set")
    used = labels[weights > 0]
    if bool((used < 0).any()) or bool((used >= num_classes).any()):
        raise ValueError(f"labels must be 0 .. {num_classes - 1}, but got {int(used.min())} .. {int(used.max())}")
    return weights.float() / total


def _standardized(
    x: Tensor,  # (R, N, d), 0 where the weight is
    weights: Tensor,  # (R, N), each set's sum 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Each set shifted to mean 0 and divided by its root mean square norm; the mean (R, d); the divisor (R,)."""
    mean = torch.einsum("rn,rnd->rd", weights, x)
    x = x - mean.unsqueeze(1)
    variance = torch.einsum("rn,rn->r", weights, x.square().sum(2))
    scale = variance.sqrt().clamp(min=1e-6)  # identical items stay at 0
    return x / scale[:, None, None], mean, scale


def _principal_axes(
    x: Tensor,  # (R, N, D) float32
    weights: Tensor,  # (R, N)
) -> tuple[Tensor, Tensor]:
    """Orthonormal axes (R, D, r) in which X' diag(w) X is diagonal, and that diagonal (R, r); r = min(N, D).

    From the smaller of the two Gram matrices. Axes without any item along them are 0.
    """
    scaled = x * weights.sqrt().unsqueeze(2)
    if x.shape[1] > x.shape[2]:
        size, axes = torch.linalg.eigh((scaled.mT @ scaled).double())  # (R, D), (R, D, D)
        return axes.float(), size.clamp(min=0.0).float()
    scaled = scaled.double()
    size, left = torch.linalg.eigh(scaled @ scaled.mT)  # (R, N), (R, N, N)
    # Below this share of the largest one, an eigenvalue is the rounding of 0 and its axis is noise.
    seen = size > 1e-10 * size[:, -1:]
    inverse = torch.where(seen, size, 1.0).rsqrt() * seen
    return ((scaled.mT @ left) * inverse.unsqueeze(1)).float(), (size * seen).float()


def _accelerated(
    u: Tensor,  # (R, C, H, r) where to start
    z: Tensor,  # (R, N, r)
    wz: Tensor,  # (R, N, r)
    pull: Tensor,  # (R, C, 1, r)
    step_size: Tensor,  # (R, 1, 1, r)
    weight_decay: float,
    steps: int,
) -> tuple[Tensor, int, Tensor]:
    """Accelerated gradient descent: the heads, steps taken, (R, H) whether each is trained."""
    R, C, H, _ = u.shape
    zt = z.mT  # (R, r, N)
    ahead = u
    pull = pull.expand_as(u).reshape(R, C * H, -1)
    coefficient = _nesterov(steps).to(z.device)
    since = torch.zeros(R, H, dtype=torch.int64, device=z.device)  # steps since the momentum started (anew)
    active = torch.ones(R, 1, H, 1, device=z.device)  # 1 or 0
    taken = 0
    while taken < steps and bool(active.any()):
        for _ in range(min(8, steps - taken)):  # the check costs as much as a step on a small set, and waits for a GPU
            probability = torch.bmm(ahead.view(R, C * H, -1), zt).view(R, C, -1).softmax(1)  # (R, C, H * N)
            gradient = torch.baddbmm(
                ahead.view(R, C * H, -1), probability.view(R, C * H, -1), wz, beta=weight_decay
            ).sub_(pull)
            gradient = gradient.view(R, C, H, -1)
            moved = torch.addcmul(ahead, gradient, step_size, value=-1).sub_(u).mul_(active)
            u = u + moved
            since.masked_fill_((gradient * moved).sum((1, 3)) > 0, 0)  # uphill
            ahead = torch.addcmul(u, moved, coefficient[since].view(R, 1, H, 1))
            since.add_(1)
            taken += 1
        gap = gradient.square().sum((1, 3), keepdim=True) / (2 * weight_decay)
        active = active * (gap > TOLERANCE)
    return u, taken, active[:, 0, :, 0] == 0


def _newton(
    u: Tensor,  # (R, C, H, r) where to start
    z: Tensor,  # (R, N, r)
    weights: Tensor,  # (R, N), each set's sum 1
    target: Tensor,  # (R, N, C) probabilities
    weight_decay: float,
    steps: int,
) -> tuple[Tensor, int, Tensor]:
    """Newton's method in float64, each step halved until the objective falls enough (Armijo); as `_accelerated`.

    The Hessian is sum_i w_i (diag(p_i) - p_i p_i') x z_i z_i' + weight_decay, of C * r rows.
    """
    R, C, H, r = u.shape
    at = u.permute(0, 2, 1, 3).double()  # (R, H, C, r)
    x, w, y = z.double().unsqueeze(1), weights.double()[:, None, :, None], target.double().unsqueeze(1)  # (R, 1, N, .)
    unit = weight_decay * torch.eye(C * r, dtype=torch.float64, device=u.device)

    def value(at: Tensor) -> tuple[Tensor, Tensor]:
        """The objective (R, H), and log-probabilities (R, H, N, C)."""
        logp = (x @ at.mT).log_softmax(3)
        return -(w * y * logp).sum((2, 3)) + weight_decay / 2 * at.square().sum((2, 3)), logp

    now, logp = value(at)
    taken = 0
    while True:
        p = logp.exp()
        gradient = (w * (p - y)).mT @ x + weight_decay * at  # (R, H, C, r)
        converged = gradient.square().sum((2, 3)) / (2 * weight_decay) <= TOLERANCE  # (R, H)
        if taken == steps or bool(converged.all()):
            return at.permute(0, 2, 1, 3).float(), taken, converged
        moved = (w.sqrt() * p).unsqueeze(4) * x.unsqueeze(3)  # (R, H, N, C, r)
        hessian = unit - moved.flatten(3).mT @ moved.flatten(3)
        blocks = torch.einsum("rhnc,rhnk,rhnl->rhckl", w * p, x.expand(R, H, -1, r), x.expand(R, H, -1, r))
        hessian.view(R, H, C, r, C, r).diagonal(dim1=2, dim2=4).add_(blocks.permute(0, 1, 3, 4, 2))
        step = torch.cholesky_solve(gradient.view(R, H, -1, 1), torch.linalg.cholesky(hessian)).view_as(gradient)
        step = step.masked_fill(converged[:, :, None, None], 0.0)
        enough = 1e-4 * (gradient * step).sum((2, 3))  # (R, H)
        size = torch.ones_like(now)
        for _ in range(30):
            ahead = at - size[:, :, None, None] * step
            then, logp = value(ahead)
            short = then > now - size * enough
            if not bool(short.any()):
                break
            size = torch.where(short, size / 2, size)
        at, now = ahead, then
        taken += 1


@functools.cache
def _nesterov(steps: int) -> Tensor:
    """(steps + 1,): (t_k - 1) / t_{k+1} with t_0 = 1, t_{k+1} = (1 + sqrt(1 + 4 t_k^2)) / 2, for k = 0, 1, ..."""
    t, coefficients = 1.0, []
    for _ in range(steps + 1):
        following = (1 + (1 + 4 * t * t) ** 0.5) / 2
        coefficients.append((t - 1) / following)
        t = following
    return torch.tensor(coefficients)


def _initial_head(seed: int, d: int, num_classes: int) -> Tensor:
    """(C, d + 1) float32: normal with variance 1 / d, bias 0; drawn on the CPU: the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(num_classes, d, generator=generator) / d**0.5
    return torch.cat([weight, torch.zeros(num_classes, 1)], 1)
