"""A cache of the initial items of condensations, for replicas that start the same way.

Trials share their seeds, and herding does not even depend on them. Without the cache, each of a search's thousand replicas
would choose its items, and read and decode them from disk, again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from condense.system.device_memory import host_memory

SHARE = 1 / 16  # of the host's free memory that may be spent on them

Inputs = dict[str, Tensor]


class InitializationCache:
    """The most recently used initial items, on the CPU. Thread-safe; two threads may make the same entry twice."""

    def __init__(self, limit: int | None = None) -> None:
        """`limit`: bytes; by default a share of the host's free memory."""
        self.limit = int(SHARE * host_memory()) if limit is None else limit
        self._known: OrderedDict[Hashable, tuple[Inputs, Tensor | None]] = OrderedDict()
        self._lock = threading.Lock()

    def get_or_make(self, key: Hashable, generator: torch.Generator, make: Callable[[], Inputs]) -> Inputs:
        """The inputs of `key`, made if they are not cached. `generator` ends in the state that `make` leaves it in, either way.

        The tensors are shared: copy them before changing them.
        """
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                inputs, after = self._known[key]
                if after is not None:
                    generator.set_state(after)
                return inputs
        before = generator.get_state()
        inputs = make()
        after = generator.get_state()
        with self._lock:
            # If nothing was drawn, the key need not include the generator's state, and there is none to restore.
            self._known[key] = inputs, None if torch.equal(before, after) else after
            while sum(_bytes(kept) for kept, _ in self._known.values()) > self.limit:
                self._known.popitem(last=False)
        return inputs


def _bytes(inputs: Inputs) -> int:
    return sum(x.nbytes for x in inputs.values())
