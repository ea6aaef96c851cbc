"""A tenant's handle to its engine: joins, advances, and joins again if the engine dies."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any

import ray

from search.engine.actor import LEASE
from search.engine.left_out import NoDeviceLeft
from search.engine.state_files import StateUnreachable
from search.engine.tenant_lost import TenantLost
from search.space.plan import Keeping

log = logging.getLogger(__name__)
SECONDS_TO_LEAVE = 2.0
ATTEMPTS = 5  # a tenant gives up after so many engines died in a row
PAUSES = (5.0, 15.0, 25.0, 25.0)  # seconds between attempts to reach the storage of a state


class Client:
    """A tenant's handle to its device's engine; joins a new engine if the old one died."""

    def __init__(self, pool: Any, tenant: str, node: str, gpu: str, stays: bool = False) -> None:
        """`stays`: only an engine on `node` will do, for what it writes there. Raises NoDeviceLeft."""
        self.pool, self.tenant, self.node, self.gpu, self.stays = pool, tenant, node, gpu, stays
        self.incarnation, self.engine = self._get()
        self._arguments: tuple[Any, ...] = ()
        self._checkpoint: bytes | None = None  # at step `self.step`
        self._cpus: float | None = None
        self._secondary: list[str] = []
        self.pending: Any = None  # what `report` waits for
        self.leaving: Any = None  # what `forget` waits for
        self._resumable = True
        self._keeping: Keeping | None = None
        self.step = self._target = self._told = 0
        self._deaths = 0
        self.renew_if_unfit()

    @staticmethod
    def here(pool: Any, tenant: str) -> Client:
        """A client on this process's node, and on the GPU that Ray assigned to it, if any."""
        gpus = ray.get_gpu_ids()
        return Client(pool, tenant, ray.get_runtime_context().get_node_id(), str(gpus[0]) if gpus else "")

    def join(
        self,
        tasks: Sequence[dict[str, Any]],
        hyperparameters: dict[str, Any],
        seeds: Sequence[int],
        total_steps: int,
        checkpoint: bytes | None = None,
        cpus: float | None = None,
        secondary: Sequence[str] = (),
        lease: float = LEASE,
        resumable: bool = True,
        keeping: Keeping | None = None,
    ) -> None:
        """See `EngineActor.join`. If the engine dies meanwhile, the next one is joined."""
        self._keeping = keeping
        self._lease, self._resumable = lease, resumable
        self._arguments, self._checkpoint = (list(tasks), hyperparameters, list(seeds), total_steps), checkpoint
        self._cpus, self._secondary = cpus, list(secondary)
        for more in reversed(range(ATTEMPTS)):
            try:
                self.step = self._told = self._join()
                return
            except ray.exceptions.RayActorError as error:
                if not more:
                    raise
                if not isinstance(error, ray.exceptions.ActorUnavailableError):
                    self.renew()

    def start(self, target: int) -> None:
        """Starts the steps up to `target`; `report` waits for them."""
        self._target = target
        self.pending = self.engine.advance.remote(self.tenant, target - self.step)

    def report(self) -> dict[str, Any]:
        """The report at the step that was asked for; see `EngineActor.advance`.

        If the engine dies or has dropped this tenant, it joins again at its last checkpoint.
        """
        while (report := self.report_or_join_again()) is None:
            pass
        return report

    def report_or_join_again(self) -> dict[str, Any] | None:
        """`report`, or None if this tenant had to join again and its report must be waited for once more."""
        try:
            report: dict[str, Any] = ray.get(self.pending)
        except (ray.exceptions.RayActorError, TenantLost) as error:
            self._deaths += 1
            if self._deaths == ATTEMPTS:
                raise
            if not isinstance(error, ray.exceptions.ActorUnavailableError | TenantLost):
                self.renew()  # otherwise only the connection broke: the engine lives
            self._again()
            return None
        self.step, self._deaths = report["step"], 0
        if report["checkpoint"] is not None:  # else one joins again at that of an earlier report
            self._checkpoint = report["checkpoint"]
        again = sum(step <= self._told for step in report["curve"]["step"])
        if again:  # steps that an earlier report told of
            report["curve"] = {name: values[again:] for name, values in report["curve"].items()}
        self._told = self.step
        return report

    def _again(self) -> None:
        try:
            self.step = self._join()
        except ray.exceptions.RayActorError:
            return  # the next one's `ray.get` meets it, and counts
        finally:
            self.start(self._target)

    def _join(self) -> int:
        """Joins, and returns the step. Waits for a storage that does not answer, then raises StateUnreachable."""
        more = self._checkpoint, self._lease, self._cpus, self._secondary, self._resumable, self._keeping
        for pause in PAUSES:
            try:
                return int(ray.get(self.engine.join.remote(self.tenant, *self._arguments, *more)))
            except StateUnreachable as error:
                cause = getattr(error, "cause", error)  # Ray's own text is the engine's traceback
                log.warning("%s: its state is out of reach; next attempt in %.0f s: %s", self.tenant, pause, cause)
                time.sleep(pause)
        return int(ray.get(self.engine.join.remote(self.tenant, *self._arguments, *more)))

    def renew_if_unfit(self) -> None:
        """Switches to the next engine while this one has died, or cannot start. Raises NoDeviceLeft."""
        while True:
            try:
                trouble = ray.get(self.engine.why_unfit.remote())
            except ray.exceptions.ActorUnavailableError:  # a broken connection
                return
            except ray.exceptions.RayActorError as error:
                last = [line for line in str(error).splitlines() if line.strip()][-1:]
                self.incarnation, self.engine = self._get(self.incarnation, " ".join(" ".join(last).split()))
                continue
            if not trouble:
                self.pool.works.remote(self.incarnation)
                return
            self.incarnation, self.engine = self._get(self.incarnation, trouble, refuses=True)

    def renew(self) -> None:
        """Switches to the next engine after this one died. The caller joins again."""
        self.incarnation, self.engine = self._get(self.incarnation)
        self.renew_if_unfit()

    def _get(self, bad: int = 0, trouble: str = "", refuses: bool = False) -> tuple[int, Any]:
        try:
            found: tuple[int, Any] = ray.get(
                self.pool.get.remote(self.node, self.gpu, bad, trouble, refuses, self.stays)
            )
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, NoDeviceLeft):
                raise error.cause from None
            raise
        return found

    def leave(self) -> None:
        """Leaves the engine without waiting; an engine may reorder calls, see `forget`."""
        self.leaving = self.engine.leave.remote(self.tenant)


def forget(clients: Sequence[Client], seconds: float | None = None) -> None:
    """After `leave`: waits, at most `seconds` if given, until the tenants are gone and their calls have ended. Also collects
    the errors of these calls: Ray prints errors that nobody collects."""
    left = [call for client in clients for call in (client.pending, client.leaving) if call is not None]
    if left:
        for done in ray.wait(left, num_returns=len(left), timeout=seconds)[0]:
            with contextlib.suppress(Exception):
                ray.get(done)
