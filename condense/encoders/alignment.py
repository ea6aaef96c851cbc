"""Trains the heads of an `aligned` encoder on the pairs of the condense split, without labels (Zhai et al. 2022, LiT).

n  items of a batch that have both modalities        x, y  (n, D) their embeddings, of unit norm        t  temperature

infonce   symmetric InfoNCE, as CLIP: each item's partner among all partners of the batch
siglip    each pair by itself, is it one or not (Zhai et al. 2023): mean over i of the sum over j of
          -log sigmoid(z_ij (x_i . y_j / t + b)), z = 1 for i = j, else -1; b is learned, and starts at -10
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condense.config.towers import AlignedEncoder
from condense.encoders.tiny import augment
from condense.inputs.spec import InputSpec
from condense.system.precision import full_float32
from condense.system.progress import Progress

BATCH = 256
SIGLIP_BIAS = -10.0
QUIET = 3.0  # seconds before progress is shown


def info_nce(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """(n, D), (n, D) -> (); the mean of both directions."""
    logits, target = x @ y.T / temperature, torch.arange(len(x))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def siglip(x: Tensor, y: Tensor, temperature: float, bias: Tensor) -> Tensor:
    """(n, D), (n, D), () -> ()."""
    signs = 2 * torch.eye(len(x)) - 1
    return -F.logsigmoid(signs * (x @ y.T / temperature + bias)).sum(1).mean()


@full_float32()
def align(
    config: AlignedEncoder,
    embed: Mapping[str, Callable[[Tensor], Tensor]],  # modality -> (n, ...) of `items` to (n, D) of unit norm
    items: Mapping[str, Tensor],  # modality -> (N, width) standardised features, or (N, *shape) inputs
    raw: Mapping[str, InputSpec],  # of those modalities whose items are inputs: these are augmented, features dropped
    present: Mapping[str, Tensor],  # modality -> (N,) bool, as in `Split`
    trained: list[nn.Parameter],
) -> None:
    """Trains the parameters in place. One modality has no partner to align with: nothing is trained then."""
    pairs = list(itertools.combinations(items, 2))
    if not pairs:
        return
    generator = torch.Generator().manual_seed(config.seed + 1)
    count = len(next(iter(items.values())))
    steps = max(1, math.ceil(count / BATCH))
    total = config.epochs * steps
    bias = nn.Parameter(torch.tensor(SIGLIP_BIAS))
    optimizer = torch.optim.AdamW(
        [{"params": trained, "weight_decay": config.weight_decay}, {"params": [bias], "weight_decay": 0.0}],
        config.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=total + 1)
    value = 0.0

    def told(have: int, rate: float, left: str) -> str:
        return f"aligning {', '.join(items)}: epoch {have // steps} of {config.epochs}, loss {value:.3f}, {left}"

    with Progress(total, told, quiet=QUIET) as progress:
        for step in range(total):
            if step % steps == 0:
                batches = torch.randperm(count, generator=generator).tensor_split(steps)
            batch = batches[step % steps]
            embedded = {}
            for name, x in items.items():
                taken = x[batch]
                changed = (
                    augment(taken, raw[name], generator) if name in raw else drop(taken, config.dropout, generator)
                )
                embedded[name] = embed[name](changed)
            loss = torch.zeros(())
            for a, b in pairs:
                x, y = _both(embedded[a], embedded[b], [present[m][batch] for m in (a, b) if m in present])
                if len(x):
                    loss = loss + (
                        info_nce(x, y, config.temperature)
                        if config.loss == "infonce"
                        else siglip(x, y, config.temperature, bias)
                    )
            optimizer.zero_grad()
            if loss.requires_grad:  # not so if no item of the batch has two modalities
                loss.backward()
            optimizer.step()
            schedule.step()
            value = loss.item() / len(pairs)
            progress.show(step + 1)
        progress.end(total)


def drop(features: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """(n, width) with a share of the values set to 0, their mean, and the others enlarged, as dropout does."""
    kept = torch.rand(features.shape, generator=generator) >= share
    return features * kept / (1 - share)


def _both(x: Tensor, y: Tensor, masks: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The rows of items that have both modalities."""
    if not masks:
        return x, y
    both = torch.stack(masks).all(0)
    return x[both], y[both]
