"""How many runs a device takes when it is free, so that all devices end at about the same time, whatever their speeds.

Runs that are taken together go through the encoder together, so few large portions are quicker than many small ones. A device's
first portion in a stage is half of what falls to it; after that, when speeds are known, it takes what falls to it of the rest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Device = TypeVar("Device", bound=Hashable)


@dataclass
class _Portion:
    runs: int
    began: float


class Portions(Generic[Device]):
    """Of several devices. A device has one portion at a time."""

    def __init__(self, devices: Sequence[Device], clock: Callable[[], float] = time.monotonic) -> None:
        self.devices, self.clock = list(devices), clock
        self._rate: dict[Device, float] = {}  # runs a second, of its last portion
        self._out: dict[Device, _Portion] = {}
        self._begun: set[Device] = set()  # in this stage
        self._total = 0

    def begin_stage(self, total: int) -> None:
        """Of so many runs; nothing is out any more."""
        self._total = total
        self._out.clear()
        self._begun.clear()

    def of(self, device: Device, left: int) -> int:
        """How many of `left` runs that nobody has this device should take, at least 1."""
        if len(self.devices) == 1:
            return left
        if device not in self._begun:
            most = math.ceil(self._total * self._part_of(device) / 2)
        else:
            most = math.ceil((left + self._under_way()) * self._part_of(device))
        return min(left, max(1, most))

    def took(self, device: Device, runs: int) -> None:
        """It has `runs` runs from now on."""
        self._begun.add(device)
        self._out[device] = _Portion(runs, self.clock())

    def ended(self, device: Device) -> None:
        """It has none any more."""
        portion = self._out.pop(device, None)
        if portion is not None:
            self._rate[device] = portion.runs / max(self.clock() - portion.began, 1e-9)

    def _part_of(self, device: Device) -> float:
        """A device's part of the speed of all. One that is at its first portion still is at most as fast as it can have been; of
        which nothing is known is as fast as this one."""
        own = self._rate.get(device)
        if own is None:
            return 1 / len(self.devices)
        rates = [self._most(other, own) for other in self.devices]
        return own / sum(rates)

    def _under_way(self) -> float:
        """Of the runs that are out, how much is left of them, at least."""
        now, left = self.clock(), 0.0
        for device, portion in self._out.items():
            if device in self._rate:
                left += max(0.0, portion.runs - self._rate[device] * (now - portion.began))
        return left

    def _most(self, device: Device, otherwise: float) -> float:
        rate, portion = self._rate.get(device, math.inf), self._out.get(device)
        if portion is not None:
            rate = min(rate, portion.runs / max(self.clock() - portion.began, 1e-9))
        return otherwise if math.isinf(rate) else rate
