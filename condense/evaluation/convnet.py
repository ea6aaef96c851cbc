"""The evaluation protocol of the condensation papers: a small ConvNet trained from scratch on the synthetic inputs.

It never saw the encoder that the inputs were optimised through. Each modality has its own ConvNet; their features are
concatenated and go into one linear head. For clips (clips, channels, height, width), such as ImageBind's sounds, the
clips count as channels. A missing modality is zeros. Every training set, 10 synthetic items or all real ones,
gets the same number of steps, the same augmentation and the same schedule.

B  items of a batch
N  items of the training set
C  classes
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from condense.data.dataset import Split
from condense.evaluation.linear_probe import checked_targets
from condense.inputs.spec import InputSpec
from condense.system.errors import UserError
from condense.system.precision import full_float32

WIDTHS = (16, 32, 32)  # channels of the three blocks
IMAGES = ("vision", "depth", "thermal")
CHANNELS_LAST = ("text",)  # (length, channels); every other 1-d modality is (channels, length)


class ConvNet(nn.Module):
    """`forward(inputs)`: modality -> (B, *shape) float32, to logits (B, C)."""

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],  # modality -> (channels, height, width), two sizes if it is 1-d, or clips
        num_classes: int,
        generator: torch.Generator,
        widths: Sequence[int] = WIDTHS,
    ) -> None:
        super().__init__()
        shapes = {modality: _clips_as_channels(shape) for modality, shape in shapes.items()}
        self.towers = nn.ModuleDict({modality: _tower(modality, shape, widths) for modality, shape in shapes.items()})
        features = sum(widths[-1] * 4 ** (len(shape) - 1) for shape in _channels_first(shapes).values())
        self.head = nn.utils.skip_init(nn.Linear, features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        nn.init.normal_(self.head.weight, std=features**-0.5, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        features = []
        for modality, tower in self.towers.items():
            x = inputs[modality]
            x = x.flatten(1, 2) if x.dim() == 5 else x
            features.append(tower(x.transpose(1, 2) if modality in CHANNELS_LAST else x).flatten(1))
        return self.head(torch.cat(features, 1))


@full_float32()
def train_from_scratch(
    items: Split,  # read a batch at a time
    num_classes: int,
    seed: int,
    device: torch.device,
    targets: Tensor | None = None,  # (N, C) probabilities, a row per item; None: the labels
    *,
    steps: int = 300,
    batch_size: int = 32,
    learning_rate: float = 1e-2,
    weight_decay: float = 0.05,
    augmentation: bool = True,
    widths: Sequence[int] = WIDTHS,
) -> ConvNet:
    """A ConvNet after `steps` AdamW steps on batches of min(N, batch_size), cosine learning rate, in eval mode.

    With `targets` the loss is the cross entropy with an item's row, which stays the same however the item is augmented.
    Start, batches and augmentation come from `seed` alone (drawn on the CPU); no global random state is touched.
    Raises ValueError if `targets` are not N rows of C probabilities.
    """
    if targets is not None:
        targets = checked_targets(targets, (len(items), num_classes)).to(device)
    generator = torch.Generator().manual_seed(seed)
    shapes = {m: x.shape[1:] for m, x in items.load(range(1)).items()}
    model = ConvNet(shapes, num_classes, generator, widths).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    model.train()
    batches = _batches(len(items), batch_size, generator)
    for _ in range(steps):
        indices = next(batches)
        batch, labels = _read(items, indices, device)
        if augmentation:
            batch = augment(batch, generator)
        wanted = labels if targets is None else targets[indices.to(device)]
        loss = nn.functional.cross_entropy(model(batch), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@full_float32()
def convnet_accuracies(
    models: Sequence[ConvNet],
    items: Split,  # read once, a batch at a time
    device: torch.device,
    batch_size: int = 256,
    each: Callable[..., Iterable[int]] = map,  # a pool's `map` runs models side by side
) -> list[float]:
    """Each model's accuracy. Raises ValueError without items."""
    if len(items) == 0:
        raise ValueError("accuracy needs at least one item")

    def hits(model: ConvNet, batch: Mapping[str, Tensor], labels: Tensor) -> int:
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


def augment(
    batch: Mapping[str, Tensor],  # modality -> (B, *shape)
    generator: torch.Generator,  # on the CPU
) -> dict[str, Tensor]:
    """Augmentation that keeps an item's class, drawn anew for every item of a batch.

    Images: moved by up to 1/10 of the side, scaled by 0.9 .. 1.1, turned by up to 10 degrees. Spectrograms: moved by
    up to 1/8 in time and 1/20 in frequency. Edges are repeated. The clips of an item move together. Other modalities
    are unchanged.
    """
    moved = {}
    for modality, given in batch.items():
        x = given.flatten(1, 2) if given.dim() == 5 else given
        if modality in IMAGES and x.dim() == 4:
            x = _affine(x, generator, turn=math.radians(10), scale=0.1, shift=(0.1, 0.1))
        elif modality == "audio" and x.dim() == 4:
            x = _affine(x, generator, turn=0.0, scale=0.0, shift=(0.125, 0.05))
        moved[modality] = x.reshape(given.shape)
    return moved


def _affine(
    x: Tensor,  # (B, channels, height, width)
    generator: torch.Generator,
    turn: float,  # largest angle, radians
    scale: float,  # largest change of size
    shift: tuple[float, float],  # largest move right and down, as shares of width and height
) -> Tensor:
    uniform = torch.rand(4, len(x), generator=generator) * 2 - 1  # (4, B)
    angle, size = uniform[0] * turn, 1 + uniform[1] * scale
    right, down = uniform[2] * 2 * shift[0], uniform[3] * 2 * shift[1]  # the grid runs from -1 to 1
    cos, sin = angle.cos() / size, angle.sin() / size
    theta = torch.stack([torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)], 1)  # (B, 2, 3)
    grid = nn.functional.affine_grid(theta.to(x.device, x.dtype), list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _batches(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of min(n, batch_size) indices from one permutation after another."""
    size = min(n, batch_size)
    while True:
        order = torch.randperm(n, generator=generator)
        for start in range(0, n - size + 1, size):
            yield order[start : start + size]


def check_shapes(specs: Mapping[str, InputSpec], instead: str = "use --convnet-seeds 0") -> None:
    """Raises UserError for inputs that no ConvNet supports; `instead`: what to do then."""
    for modality, spec in specs.items():
        if len(spec.shape) not in (2, 3, 4):
            raise UserError(
                f"{modality}: a ConvNet takes items of 2 or 3 dimensions, or clips of them, but got {len(spec.shape)}: "
                f"{instead}"
            )


def _clips_as_channels(shape: Sequence[int]) -> Sequence[int]:
    return (shape[0] * shape[1], *shape[2:]) if len(shape) == 4 else shape


def _channels_first(shapes: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    return {modality: shape[::-1] if modality in CHANNELS_LAST else shape for modality, shape in shapes.items()}


def _tower(modality: str, shape: Sequence[int], widths: Sequence[int]) -> nn.Sequential:
    """(B, *shape) -> (B, widths[-1], 4, 4), or (B, widths[-1], 4) for a 1-d modality.

    Blocks of convolution, instance norm, ReLU, average pooling, as the ConvNet of Gidaris & Komodakis 2018 that DC
    and DM evaluate with; a further one for every doubling of the longer side above 32. The first block halves its
    input by the stride of its convolution, not by pooling: full resolution took three quarters of the time.
    """
    if len(shape) not in (2, 3):
        raise ValueError(f"{modality}: a ConvNet takes items of 2 or 3 dimensions, but got {len(shape)}")
    channels, *sides = _channels_first({modality: shape})[modality]
    one = len(sides) == 1
    convolution = nn.Conv1d if one else nn.Conv2d
    pool = nn.AvgPool1d if one else nn.AvgPool2d
    further = max(0, math.ceil(math.log2(max(sides) / 32)))
    layers: list[nn.Module] = []
    for i, width in enumerate([*widths, *[widths[-1]] * further]):
        kernel, stride = (5, 2) if i == 0 else (3, 1)
        layers.append(
            nn.utils.skip_init(convolution, channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        )
        layers += [nn.GroupNorm(width, width), nn.ReLU()]  # a group per channel: instance norm, and faster
        if i > 0:
            layers.append(pool(2, ceil_mode=True))
        sides = [math.ceil(side / 2) for side in sides]
        channels = width
    if any(side != 4 for side in sides):  # not needed for 32 x 32; costs as much as a pooling
        layers.append((nn.AdaptiveAvgPool1d if one else nn.AdaptiveAvgPool2d)(4))
    return nn.Sequential(*layers)
