"""ONE condensation from its start to its end: its steps, its reports, and what is kept in case that it is interrupted."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from condense.embeddings.embeddings import QUIET
from condense.engine.engine import Engine
from condense.evaluation.comparison import share_of
from condense.evaluation.replica_scores import validate as validation_scores
from condense.export.unfinished import Damaged, Kept, Unfinished
from condense.method.condensation import Condensation
from condense.method.objective import TERMS
from condense.system.devices import named
from condense.system.interruption import Interruption
from condense.system.progress import Progress

REPORTS = 10  # validations during a run
KEEP_EVERY = 30.0  # seconds between two states of a run that is kept
PIECE = 1.0  # seconds of steps, about, after which a run that is kept looks whether to keep its state, or to stop
COLUMNS = (*TERMS, "total")  # of the losses


class Interrupted(KeyboardInterrupt):
    """A run that is kept was interrupted: the same one goes on from `step`."""

    def __init__(self, step: int, steps: int, folder: Path) -> None:
        super().__init__(
            f"interrupted: kept at step {step}/{steps} in {folder}: run the same again to go on from there"
        )
        self.step = step


@dataclass(frozen=True)
class RunReport:
    """How far a condensation is: what `on_report` gets."""

    step: int
    steps: int
    losses: dict[str, float] | None  # uni, cross, joint, total of the last step; None before the first
    score: float  # on validation, 0 .. 1
    share: float | None  # of the full data's score


class SingleRun:
    """Steps and validates one replica.

    A report is due at the start, at every tenth of the steps, and at the end; whether it is depends on the replica's step
    only. So a run that was interrupted anywhere has the reports of one that was not.

    Attributes:
        replica: what is stepped.
        losses: (steps taken, 4) float32 on the CPU: uni, cross, joint, total.
        reports: so far.
    """

    def __init__(
        self,
        make: Callable[[], Condensation],
        steps: int,
        full: float,
        unfinished: Unfinished | None = None,
        engine: Engine | None = None,
    ) -> None:
        """`make`: the replica at its start. `full`: the full data's score. `unfinished`: where the state is kept; what is
        kept there already is gone on from, if it is of the same run."""
        self.make, self.steps, self.full, self.unfinished = make, steps, full, unfinished
        self.engine = engine or Engine()
        self.every = max(1, math.ceil(steps / REPORTS))
        self.started = self.kept = time.monotonic()
        self.kept_step: int | None = None  # of the state on disk
        self.earlier = 0.0  # seconds, before an interruption
        self.cannot_keep = False
        self.replica = make()
        self.losses, self.reports = torch.empty(0, 4), list[RunReport]()
        if unfinished is not None:
            self._go_on_from(unfinished)

    @property
    def seconds(self) -> float:
        """That it has taken, without the time in which it was interrupted."""
        return self.earlier + time.monotonic() - self.started

    def go(self, on_report: Callable[[RunReport], None] | None = None) -> None:
        """To the end, or to a divergence, which the replica then says.

        Raises:
            Interrupted: Ctrl-C, SIGTERM or SIGHUP, and the state is kept.
        """
        engine, pace = self.engine, 1

        def line(done: int, rate: float, left: str) -> str:
            score = f", validation {100 * self.reports[-1].score:.1f} %" if self.reports else ""
            return f"condensing: step {done}/{self.steps}{score}, {left}"

        quiet = QUIET if on_report is None else math.inf
        with (
            Progress(self.steps, line, self.replica.step, quiet) as progress,
            Interruption(waits=True) if self.unfinished is not None else contextlib.nullcontext() as interruption,
            self._told_as_kept(),
        ):
            while True:
                if self._is_due():
                    self._report(on_report)
                if self.replica.divergence is not None:
                    break
                progress.show(self.replica.step)
                if interruption is not None:
                    self._keep_if_due(interruption.asked)
                    interruption.check()
                left = self.every - self.replica.step % self.every
                count = min(left, self.steps - self.replica.step, left if interruption is None else pace)
                if count == 0:
                    break
                began = time.monotonic()
                self.losses = torch.cat([self.losses, engine.run([self.replica], count)[0]])
                if self.replica.divergence is not None:
                    break
                pace = max(1, int(count * PIECE / max(1e-6, time.monotonic() - began)))
        engine.leave(self.replica)

    def _is_due(self) -> bool:
        step = self.replica.step
        if self.reports and self.reports[-1].step == step:
            return False
        return step % self.every == 0 or step >= self.steps

    def _report(self, on_report: Callable[[RunReport], None] | None) -> None:
        score = validation_scores([self.replica])[0]
        if self.replica.divergence is not None:
            return
        losses, share = named_losses(self.losses[-1:]), share_of(score, self.full)
        self.reports.append(RunReport(self.replica.step, self.steps, losses, score, share))
        if on_report is not None:
            on_report(self.reports[-1])

    def _devices(self) -> str:
        return named(self.engine.devices or [self.replica.task.device])

    # What is kept ----------------------------------------------------------------------------------------------------

    def _go_on_from(self, unfinished: Unfinished) -> None:
        try:
            found = unfinished.read()
            if found is None:
                return
            kept, difference = found
            if difference is not None:
                _say(
                    f"{unfinished.folder} holds an unfinished run of another configuration ({difference}): "
                    "starting anew in its place"
                )
                return
            reports = [RunReport(**report) for report in kept.reports]
            self.replica.load_state_dict(kept.state)
        except (Damaged, ValueError, KeyError, TypeError, RuntimeError) as error:
            _say(f"warning: the unfinished run in {unfinished.folder} is damaged ({error}): starting anew")
            self.replica = self.make()  # which may have taken a part of the state
            return
        self.losses, self.reports, self.earlier = kept.losses, reports, kept.seconds
        self.kept_step = self.replica.step
        device = self._devices()
        elsewhere = "" if kept.device == device else f" (so far on {kept.device}, from here on {device})"
        _say(f"going on from step {self.replica.step}/{self.steps}, kept in {unfinished.folder}{elsewhere}")

    def _keep_if_due(self, asked: bool) -> None:
        """`asked`: to stop. What has taken long is kept at its end as well, in case that the export fails."""
        ends = self.replica.step >= self.steps and self.kept_step is not None
        if self.kept_step == self.replica.step or not (asked or ends or time.monotonic() - self.kept >= KEEP_EVERY):
            return
        assert self.unfinished is not None
        reports = [asdict(report) for report in self.reports]
        kept = Kept(self.replica.state_dict(), self.losses, reports, self.seconds, self._devices())
        try:
            self.unfinished.write(kept)
            self.kept_step = self.replica.step
        except OSError as error:
            if not self.cannot_keep:
                _say(f"warning: an unfinished run cannot be kept in {self.unfinished.folder}: {error.strerror}")
            self.cannot_keep = True
        self.kept = time.monotonic()

    @contextlib.contextmanager
    def _told_as_kept(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            if self.unfinished is None or self.kept_step is None:
                raise
            raise Interrupted(self.kept_step, self.steps, self.unfinished.folder) from None


def named_losses(row: Tensor) -> dict[str, float] | None:
    """(1, 4) -> {uni, cross, joint, total}; None of (0, 4)."""
    return dict(zip(COLUMNS, row[0].tolist(), strict=True)) if len(row) else None


def _say(text: str) -> None:
    print(text, file=sys.stderr)
