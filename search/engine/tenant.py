"""What an engine knows of one of its tenants."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from condense.method.condensation import Condensation
from search.engine.state_files import StateFiles

Answer = Callable[[dict[str, Any] | None, Exception | None], None]  # a report, or why there is none


@dataclass
class Tenant:
    """The replicas of one trial (or of one confirmed setting): tasks x seeds."""

    replicas: list[Condensation]
    lease: float | None  # seconds that it may be silent; None: forever
    heard: float  # time of its last call or answer
    cpus: float | None = None  # granted cores; None: unknown
    secondary: Sequence[str] = ()  # further scores in its reports
    resumable: bool = True  # whether its reports hold a checkpoint; else the items that were right
    target: int = 0  # the step to go to
    answer: Answer | None = None  # called when the target is reached
    files: StateFiles | None = None  # where its state is kept if that is too large for its reports
    writing: bool = False  # its answer waits for a file

    @property
    def step(self) -> int:
        return self.replicas[0].step

    @property
    def diverged(self) -> bool:
        return any(r.divergence is not None for r in self.replicas)

    @property
    def size(self) -> int:
        """Bytes of its state."""
        kept = [x for r in self.replicas for of in (r.inputs, r.velocity, r.square) for x in of.values()]
        return sum(x.numel() * x.element_size() for x in kept)

    @property
    def has_arrived(self) -> bool:
        """Whether it has taken all steps that there are."""
        return self.step >= self.replicas[0].total_steps

    def tell(self, report: dict[str, Any] | None, error: Exception | None = None) -> None:
        """Answers the waiting call."""
        if self.answer is not None:
            answer, self.answer = self.answer, None
            self.heard = time.monotonic()
            answer(report, error)
