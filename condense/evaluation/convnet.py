"""The evaluation protocol of the condensation papers: a small network trained from scratch on the synthetic inputs.

It never saw the encoder that the inputs were optimised through. Which network, and how it is trained, is a
`NetworkProtocol` (`condense/evaluation/network_protocol.py`). A missing modality is zeros. Every training set, 10 synthetic
items or all real ones, gets the same augmentation and the same schedule, and the same number of steps (`fast`) or of
epochs (`dc`).

B  items of a batch
N  items of the training set
C  classes
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from condense.data.dataset import Split
from condense.evaluation.augmentation import augment, augment_dsa
from condense.evaluation.linear_probe import checked_targets
from condense.evaluation.network_protocol import FAST, NetworkProtocol
from condense.evaluation.networks import ConvNet, Kinds, Network, PublishedConvNet, Shapes
from condense.evaluation.resnet import ResNet
from condense.inputs.spec import InputSpec
from condense.system.errors import UserError
from condense.system.precision import full_float32

MOMENTUM = 0.9  # of the optimizer `sgd`


def build_network(
    protocol: NetworkProtocol, shapes: Shapes, num_classes: int, generator: torch.Generator, kinds: Kinds = None
) -> Network:
    """The protocol's network for items of `shapes` (modality -> shape without a batch), untrained, on the CPU."""
    if protocol.architecture == "resnet":
        return ResNet(shapes, num_classes, generator, kinds=kinds)
    if protocol.convnet == "published":
        return PublishedConvNet(shapes, num_classes, generator, protocol.widths, kinds)
    return ConvNet(shapes, num_classes, generator, protocol.widths, kinds)


@full_float32()
def train_from_scratch(
    items: Split,  # read a batch at a time
    num_classes: int,
    seed: int,
    device: torch.device,
    targets: Tensor | None = None,  # (N, C) probabilities, a row per item; None: the labels
    *,
    protocol: NetworkProtocol = FAST,
    steps: int | None = None,  # None: the protocol's
    batch_size: int | None = None,
    augmentation: bool = True,
    kinds: Kinds = None,
) -> Network:
    """A protocol's network, trained on batches of min(N, batch_size), in eval mode.

    With `targets` the loss is the cross entropy with an item's row, which stays the same however the item is augmented.
    Start, batches and augmentation come from `seed` alone (drawn on the CPU); no global random state is touched.
    Raises ValueError if `targets` are not N rows of C probabilities.
    """
    if steps is not None:
        protocol = replace(protocol, steps=steps, epochs=None)
    if batch_size is not None:
        protocol = replace(protocol, batch_size=batch_size)
    if targets is not None:
        targets = checked_targets(targets, (len(items), num_classes)).to(device)
    generator = torch.Generator().manual_seed(seed)
    shapes = {m: x.shape[1:] for m, x in items.load(range(1)).items()}
    model = build_network(protocol, shapes, num_classes, generator, kinds).to(device)
    optimizer, schedule = _optimizer(model, protocol, len(items))
    model.train()
    batches = _batches(len(items), protocol.batch_size, generator, rest=protocol.whole_epochs)
    for step in range(protocol.steps_for(len(items))):
        indices = next(batches)
        batch, labels = _read(items, indices, device)
        if augmentation:
            batch = _augmented(batch, protocol, generator, kinds)
        wanted = labels if targets is None else targets[indices.to(device)]
        loss = nn.functional.cross_entropy(model(batch), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule(step)
    return model.eval()


def _optimizer(
    model: Network, protocol: NetworkProtocol, n: int
) -> tuple[torch.optim.Optimizer, Callable[[int], None]]:
    """The optimizer, and what sets its learning rate after each step (counted from 0)."""
    rate, decay = protocol.learning_rate, protocol.weight_decay
    if protocol.optimizer == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            model.parameters(), lr=rate, weight_decay=decay, fused=True
        )
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=MOMENTUM, weight_decay=decay)
    if protocol.schedule == "cosine":
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, protocol.steps_for(n)))
        return optimizer, lambda step: cosine.step()
    last = protocol.first_half(n) - 1

    def lower(step: int) -> None:
        if step == last:
            optimizer.state.clear()  # as published: a new optimizer
            for group in optimizer.param_groups:
                group["lr"] = rate / 10

    return optimizer, lower


def _augmented(
    batch: dict[str, Tensor], protocol: NetworkProtocol, generator: torch.Generator, kinds: Kinds
) -> dict[str, Tensor]:
    if protocol.augmentation == "dsa":
        return augment_dsa(batch, generator, kinds, flip=protocol.flip)
    return augment(batch, generator, kinds) if protocol.augmentation == "mild" else batch


@full_float32()
def convnet_accuracies(
    models: Sequence[Network],
    items: Split,  # read once, a batch at a time
    device: torch.device,
    batch_size: int = 256,
    each: Callable[..., Iterable[int]] = map,  # a pool's `map` runs models side by side
) -> list[float]:
    """Each model's accuracy. Raises ValueError without items."""
    if len(items) == 0:
        raise ValueError("accuracy needs at least one item")

    def hits(model: Network, batch: Mapping[str, Tensor], labels: Tensor) -> int:
        with torch.no_grad():
            return int((model(batch).argmax(1) == labels).sum())

    right = [0] * len(models)
    for indices in torch.arange(len(items)).split(batch_size):
        batch, labels = _read(items, indices, device)
        found = each(functools.partial(hits, batch=batch, labels=labels), models)
        right = [before + more for before, more in zip(right, found, strict=True)]
    return [count / len(items) for count in right]


def _read(items: Split, indices: Tensor, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Some items as a batch: modality -> (B, *shape) float32, and their labels (B,)."""
    batch = {modality: x.to(device, torch.float32) for modality, x in items.load(indices).items()}
    return batch, items.labels[indices.to(items.labels.device)].to(device)


def _batches(n: int, batch_size: int, generator: torch.Generator, *, rest: bool) -> Iterator[Tensor]:
    """Endless batches of min(n, batch_size) indices from one permutation after another.

    `rest`: what is left of a permutation is a smaller batch; otherwise it is passed over.
    """
    size = min(n, batch_size)
    while True:
        order = torch.randperm(n, generator=generator)
        for start in range(0, n if rest else n - size + 1, size):
            yield order[start : start + size]


def check_shapes(specs: Mapping[str, InputSpec], instead: str = "use --convnet-seeds 0") -> None:
    """Raises UserError for inputs that no ConvNet supports; `instead`: what to do then."""
    for modality, spec in specs.items():
        if len(spec.shape) not in (2, 3, 4):
            raise UserError(
                f"{modality}: a ConvNet takes items of 2 or 3 dimensions, or clips of them, but got {len(spec.shape)}: "
                f"{instead}"
            )
