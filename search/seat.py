"""A member's side of an engine: joining, advancing, and joining again after what happens to engines."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import ray

from search.engine_actor import LEASE, UnknownMember

SECONDS_TO_LEAVE = 2.0
ATTEMPTS = 5  # engines that may die one after the other before a member gives up


class Seat:
    """A member's place in its device's engine; taken again in a new engine if the old one died."""

    def __init__(self, broker: Any, member: str, node: str, gpu: str) -> None:
        self.broker, self.member, self.node, self.gpu = broker, member, node, gpu
        self.incarnation, self.engine = ray.get(broker.get.remote(node, gpu))
        self._arguments: tuple[Any, ...] = ()
        self._state: bytes | None = None  # at step `self.step`
        self._cpus: float | None = None
        self._secondary: list[str] = []
        self.pending: Any = None  # what `report` waits for
        self.leaving: Any = None  # what `forget` waits for
        self._resumable = True
        self.step = self._target = 0
        self._deaths = 0
        self.renew_if_dead()

    @staticmethod
    def here(broker: Any, member: str) -> Seat:
        """On this process's node, and on the GPU that Ray gave it, if any."""
        gpus = ray.get_gpu_ids()
        return Seat(broker, member, ray.get_runtime_context().get_node_id(), str(gpus[0]) if gpus else "")

    def join(
        self,
        tasks: Sequence[dict[str, Any]],
        hyperparameters: dict[str, Any],
        seeds: Sequence[int],
        total_steps: int,
        state: bytes | None = None,
        cpus: float | None = None,
        secondary: Sequence[str] = (),
        lease: float = LEASE,
        resumable: bool = True,
    ) -> None:
        """See `EngineActor.join`."""
        self._lease, self._resumable = lease, resumable
        self._arguments, self._state = (list(tasks), hyperparameters, list(seeds), total_steps), state
        self._cpus, self._secondary = cpus, list(secondary)
        self.step = self._join()

    def start(self, target: int) -> None:
        """Lets the engine go on to step `target`; `report` waits for it."""
        self._target = target
        self.pending = self.engine.advance.remote(self.member, target - self.step)

    def report(self) -> dict[str, Any]:
        """The report at the step that was started for; see `EngineActor.advance`.

        If the engine dies, or has forgotten this member, it joins again where its last report was.
        """
        while (report := self.report_or_join_again()) is None:
            pass
        return report

    def report_or_join_again(self) -> dict[str, Any] | None:
        """`report`, or None if it has to be waited for once more, because this member had to join again."""
        try:
            report: dict[str, Any] = ray.get(self.pending)
        except (ray.exceptions.RayActorError, UnknownMember) as error:
            self._deaths += 1
            if self._deaths == ATTEMPTS:
                raise
            if not isinstance(error, ray.exceptions.ActorUnavailableError | UnknownMember):
                self.renew()  # else it is a broken connection: the engine lives
            self._again()
            return None
        self.step, self._state, self._deaths = report["step"], report["state"], 0
        return report

    def _again(self) -> None:
        try:
            self.step = self._join()
        except ray.exceptions.RayActorError:
            return  # the next one's `ray.get` meets it, and counts
        finally:
            self.start(self._target)

    def _join(self) -> int:
        more = self._state, self._lease, self._cpus, self._secondary, self._resumable
        joined = self.engine.join.remote(self.member, *self._arguments, *more)
        return int(ray.get(joined))

    def renew_if_dead(self) -> None:
        """Takes the next engine if this one died when nobody was looking."""
        try:
            ray.get(self.engine.work_done.remote())
        except ray.exceptions.ActorUnavailableError:  # a broken connection
            pass
        except ray.exceptions.RayActorError:
            self.renew()

    def renew(self) -> None:
        """After the engine's death: takes the next one. The caller joins again."""
        self.incarnation, self.engine = ray.get(self.broker.get.remote(self.node, self.gpu, self.incarnation))

    def leave(self) -> None:
        """Gives the place up, without waiting: an engine does not take calls in their order, see `forget`."""
        self.leaving = self.engine.leave.remote(self.member)


def forget(seats: Sequence[Seat], seconds: float | None = None) -> None:
    """After `leave`: waits until the places are free, and what was started is over; for so many `seconds` at most, if given.
    Ray prints the errors that nobody has asked for, and these are some."""
    left = [call for seat in seats for call in (seat.pending, seat.leaving) if call is not None]
    if left:
        for done in ray.wait(left, num_returns=len(left), timeout=seconds)[0]:
            with contextlib.suppress(Exception):
                ray.get(done)
