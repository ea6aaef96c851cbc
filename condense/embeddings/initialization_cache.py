"""What condensations of a task start from, kept for those that start the same way.

Trials have their seeds in common, and herding does not even depend on them: without this, each of a search's thousand replicas
would choose its items, and read and decode them from disk, anew.
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
    """The last ones that were asked for, on the CPU. Safe for threads, which may make one twice, the same both times."""

    def __init__(self, limit: int | None = None) -> None:
        """`limit`: bytes; by default a share of what the host has left."""
        self.limit = int(SHARE * host_memory()) if limit is None else limit
        self._known: OrderedDict[Hashable, tuple[Inputs, Tensor | None]] = OrderedDict()
        self._lock = threading.Lock()

    def get_or_make(self, key: Hashable, generator: torch.Generator, make: Callable[[], Inputs]) -> Inputs:
        """The inputs of `key`, made if they are not known; `generator`, which `make` may draw from, is left as it leaves it.

        The tensors are shared: whoever changes them copies them first.
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
            # Where nothing was drawn, the key may be without the generator's state: then there is none to be restored.
            self._known[key] = inputs, None if torch.equal(before, after) else after
            while sum(_bytes(kept) for kept, _ in self._known.values()) > self.limit:
                self._known.popitem(last=False)
        return inputs


def _bytes(inputs: Inputs) -> int:
    return sum(x.nbytes for x in inputs.values())
