"""ONE condensation on several devices: a copy of its encoder on each, of which every one takes some blocks of its classes.

The loss is a mean over classes, so that blocks of them are stepped each by itself (`condense.engine.replica_batch`). What is
costly, the encoder forward and backward, is done on a block's device. Losses and the update stay on the first device, where
real data, items and optimiser are: per step a block's items and gradients cross over, and its embeddings.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

import torch

from condense.encoders.protocol import Encoder
from condense.system.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Place:
    """Where items are embedded."""

    encoder: Encoder
    device: torch.device


class Spread:
    """Devices, the copies of encoders on them, and a thread to drive each."""

    def __init__(self, devices: Sequence[torch.device]) -> None:
        """`devices`: the first is that of the task. Those that are CPUs get a core each."""
        self.devices = list(devices)
        self._copies: dict[int, list[Place]] = {}  # id of an encoder, which the first place keeps alive
        self._threads: list[ThreadPoolExecutor] = []

    def places(self, encoder: Encoder) -> list[Place]:
        """One per device; the first has `encoder` itself. Raises UserError if it cannot be copied."""
        if id(encoder) not in self._copies:
            first, *others = self.devices
            self._copies[id(encoder)] = [Place(encoder, first), *(Place(copied(encoder, d), d) for d in others)]
        return self._copies[id(encoder)]

    def each(self, work: Callable[[Item, Place], Result], items: Sequence[Item], encoder: Encoder) -> list[Result]:
        """`work` on each item at its place: items go to devices in turn, and each device takes its own one after the other."""
        places = self.places(encoder)
        if not self._threads:
            self._threads = [ThreadPoolExecutor(1, f"engine-{device}", _start, (device,)) for device in self.devices]

        def of_one(number: int) -> list[Result]:
            return [work(item, places[number]) for item in items[number :: len(places)]]

        under_way = [thread.submit(of_one, number) for number, thread in enumerate(self._threads)]
        wait(under_way)  # all of them, also if one fails: whoever tries again is not to meet the rest of this
        per_device = [done.result() for done in under_way]
        return [per_device[i % len(places)][i // len(places)] for i in range(len(items))]


def _start(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)  # for encoders that say just "cuda"
    else:
        torch.set_num_threads(1)


def copied(encoder: Encoder, device: torch.device) -> Encoder:
    """A copy on `device`. Raises UserError if it is none of PyTorch's modules, or does not allow it."""
    if not isinstance(encoder, torch.nn.Module):
        raise UserError(
            f"encoder {type(encoder).__name__}: several devices need a torch.nn.Module, which can be copied"
        )
    try:
        return copy.deepcopy(encoder).to(device)
    except (TypeError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(f"encoder {type(encoder).__name__}: cannot be copied to {device}: {error}") from error
