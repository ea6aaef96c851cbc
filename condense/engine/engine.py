"""MANY condensations on one device: one encoder, one copy of the embeddings, one pass per step.

The synthetic items of all replicas go through the frozen encoder together (`condense.engine.replica_batch`), as many at
a time as the device has memory for. Replicas join and leave between steps; none of them is disturbed by what happens to
another.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from condense.embeddings.task import Task
from condense.encoders.protocol import Encoder
from condense.engine.group import Group
from condense.engine.replica_batch import ReplicaBatch
from condense.engine.spread import Spread
from condense.method.condensation import Condensation, Divergence
from condense.method.objective import TERMS
from condense.system import device_memory as memory
from condense.system.precision import full_float32

LEAST_PART = 2**23  # bytes of activations: in less than that, threads would only fight for the interpreter
LEAST_BUDGET = 2**28  # bytes: a host that is short of memory at the moment is not worked at item by item


Shape = tuple[object, ...]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Need:
    """Memory of a pass, in bytes, as a function of the number of replicas of one kind."""

    fixed: int
    each: int


UNKNOWN = Need(0, 1)  # no pass could be measured, for another reason than memory
ALONE = Need(0, 2**62)  # one replica is more than the device has memory for


@dataclass
class Part:
    """Replicas that go through together; laid out at their first step."""

    replicas: list[Condensation]
    pack: ReplicaBatch | None = None


@dataclass(frozen=True)
class Failure:
    """A replica that could not take a step, and why. The others have taken theirs."""

    replica: Condensation
    error: Exception


class Engine:
    """Steps any number of replicas on one device. Not thread-safe: one thread at a time."""

    def __init__(
        self, budget: int | None = None, workers: int | None = None, devices: Sequence[torch.device] = ()
    ) -> None:
        """`budget`: bytes that a pass may take; by default what the device has left, less a margin.

        `workers`: on a CPU, threads that step parts of the replicas side by side, each part on one core; by default
        PyTorch's number of threads. Layers this small gain little from more than one core, and threads inside an
        operation wait for the slowest of them, which other processes often keep from running.

        `devices`: several, for replicas that are stepped one at a time; the first is that of their task. They share the blocks of
        a replica's classes. The result is that of one device, but for rounding.
        """
        self._budget = budget
        self.workers = torch.get_num_threads() if workers is None else workers
        self.devices = list(devices)
        self._spread = Spread(devices) if len(devices) > 1 else None
        self._pool: ThreadPoolExecutor | None = None
        self._pool_size = 0
        self._parts: dict[tuple[int, ...], list[Part]] = {}  # of the replicas stepped last
        self._needs: dict[Shape, Need] = {}
        # id of an encoder -> the encoder, which keeps its id from being given again, and bytes: what was too much, halved.
        self._ceiling: dict[int, tuple[Encoder, int]] = {}
        self._at_once: dict[Shape, int] = {}  # items at once, where a single replica turned out to be too much
        self._fitting: dict[Shape, int] = {}  # the same, by the budget of a part of the present replicas

    def copy_encoders(self, task: Task) -> None:
        """Copies a task's encoders to the other devices before the first step. Raises UserError if one cannot be copied."""
        if self._spread is not None:
            for each in task.bank or (task,):
                self._spread.places(each.encoder)

    @full_float32()
    def step(self, replicas: Sequence[Condensation], steps: int = 1) -> list[Failure]:
        """`steps` steps of each of `replicas` that has not diverged. Returns those that could not.

        With several steps a CPU's workers need not wait for each other after every one.
        """
        live = [r for r in replicas if r.divergence is None]
        if not live or steps < 1:
            return []
        work = functools.partial(self._steps, steps=steps)
        failures = [failure for of in self.each(work, self._parts_of(live)) for failure in of]
        if failures:
            self._parts.clear()
        return failures

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`work` on each item, by this engine's workers if there are several items of work for a CPU."""
        if self.workers < 2 or len(items) < 2 or torch.cuda.is_available():
            return [work(item) for item in items]
        if self._pool is None or self._pool_size != self.workers:
            if self._pool is not None:
                self._pool.shutdown()
            threads, self._pool_size = torch.get_num_threads(), self.workers
            self._pool = ThreadPoolExecutor(self.workers, "engine-worker", lambda: torch.set_num_threads(1))
            torch.set_num_threads(threads)
        return list(self._pool.map(work, items))

    def run(self, replicas: Sequence[Condensation], steps: int) -> dict[int, Tensor]:
        """`steps` steps of each; returns position in `replicas` -> its losses, as `losses_of`. Raises what fails."""
        for failure in self.step(replicas, steps):
            raise failure.error
        return {i: self.losses_of(r) for i, r in enumerate(replicas)}

    def losses_of(self, replica: Condensation) -> Tensor:
        """(steps, 4) float32 on the CPU: uni, cross, joint, total of the steps since the last call.

        Sets `replica.divergence` at the first loss that is not finite. This is where host and device meet.
        """
        rows, replica.history = replica.history, []
        if not rows:
            return torch.empty(0, 4)
        losses = torch.stack(rows).cpu()
        bad = (~losses.isfinite()).nonzero()
        if len(bad) and replica.divergence is None:
            at, column = bad[0].tolist()
            step = replica.step - len(losses) + at + 1
            replica.divergence = Divergence(step, (*TERMS, "total")[column])
        return losses

    def forget(self, replica: Condensation) -> None:
        """Lets go of a replica that is no longer needed. Does nothing on the device."""
        replica.history = []
        self._parts.clear()

    def leave(self, replica: Condensation) -> None:
        """Forgets a replica that is to be kept; its tensors become its own again."""
        self.forget(replica)
        for tensors in (replica.inputs, replica.velocity, replica.square):
            for name in tensors:
                tensors[name] = tensors[name].clone()

    # One step, whatever happens ------------------------------------------------------------------------------------

    def _steps(self, part: Part, steps: int) -> list[Failure]:
        failures: list[Failure] = []
        pieces = [part]
        for _ in range(steps):
            outcomes = [self._step(piece) for piece in pieces]
            failures += [failure for failed, _ in outcomes for failure in failed]
            pieces = [piece for _, left in outcomes for piece in left]
        return failures

    def _step(self, part: Part) -> tuple[list[Failure], list[Part]]:
        """A part's step: what failed, and the parts to go on with.

        One that is too large is taken in halves, and one in which something fails as well, until the replica that fails
        is alone. Nothing is lost: a pass changes nothing, and the update needs no memory to speak of.
        """
        replicas, first = part.replicas, part.replicas[0]
        at_once = self._items_at_once(_shape(first)) if len(replicas) == 1 else None
        error = self._try(part, at_once)
        if error is None:
            return [], [part]
        if part.pack is not None and part.pack.torn:
            return [Failure(replica, error) for replica in replicas], []
        part.pack = None  # what goes on is laid out anew, and needs the memory
        starved = memory.is_out_of_memory(error)
        if starved and first.task.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(replicas) > 1:
            needs = [self._needs[_shape(r)] for r in replicas]
            if starved and UNKNOWN not in needs:
                bytes_of_half = sum(need.each for need in needs) // 2
                ceiling = max(need.fixed for need in needs) + bytes_of_half
                self._ceiling[id(first.task.encoder)] = first.task.encoder, ceiling
            middle = len(replicas) // 2
            self._parts.clear()
            one, other = self._step(Part(replicas[:middle])), self._step(Part(replicas[middle:]))
            return one[0] + other[0], one[1] + other[1]
        items = max(len(x) for x in first.inputs.values())
        if not starved or at_once == 1:
            return [Failure(first, error)], []
        self._at_once[_shape(first)] = max(1, min(at_once or items, items) // 2)
        return self._step(part)

    def _try(self, part: Part, at_once: int | None) -> Exception | None:
        """A part's step, or why there was none."""
        try:
            part.pack = part.pack or ReplicaBatch(part.replicas)
            done = part.pack.gradients(at_once, self._spread)
            part.pack.update(done)
        except Exception as error:
            # The frames hold the tensors of the pass: memory that whoever tries again needs.
            traceback.clear_frames(error.__traceback__)
            return error
        for replicas, losses in done.losses:
            for replica, row in zip(replicas, losses.unbind(), strict=True):
                replica.history.append(row)
        return None

    # Which replicas go together ------------------------------------------------------------------------------------

    def _parts_of(self, replicas: Sequence[Condensation]) -> list[Part]:
        """Parts of exactly these replicas; made anew when replicas come, go, or get their normaliser."""
        key = tuple(id(r) for r in replicas) + tuple(r.step == 0 for r in replicas)
        if key not in self._parts:
            self._fitting.clear()
            self._parts = {}  # a replica's tensors are views of one pack at a time
            by_encoder: dict[tuple[int, ...], list[Condensation]] = {}
            for replica in replicas:
                encoders = tuple(id(each.encoder) for each in replica.task.bank or (replica.task,))
                by_encoder.setdefault(encoders, []).append(replica)
            self._parts = {key: [Part(part) for same in by_encoder.values() for part in self._divide(same)]}
        return self._parts[key]

    def _divide(self, replicas: Sequence[Condensation]) -> Iterable[list[Condensation]]:
        """Replicas of one encoder, divided so that each part fits into the budget; those of a kind stay together."""
        by_shape: dict[Shape, list[Condensation]] = {}
        for replica in replicas:
            by_shape.setdefault(_shape(replica), []).append(replica)
        for shape, same in by_shape.items():
            if shape not in self._needs:
                self._needs[shape] = self._profile(same)
        total = sum(self._needs[shape].each * len(same) for shape, same in by_shape.items())
        sides = self._side_by_side(replicas, total)
        most = self._budget_of(replicas[0]) // sides
        part: list[Condensation] = []
        done = taken = fixed = 0
        for shape, same in by_shape.items():
            need = self._needs[shape]
            if need != ALONE and need.fixed + need.each > most:  # of what was never measured, halving finds it
                items = max(len(x) for x in same[0].inputs.values())
                share = max(0, most - need.fixed) / need.each
                self._fitting[shape] = max(1, int(items * share))
            for replica in same:
                next_side = done * sides // total > (done - taken) * sides // total
                if part and (next_side or max(fixed, need.fixed) + taken + need.each > most):
                    yield part
                    part, taken, fixed = [], 0, 0
                part.append(replica)
                done, taken, fixed = done + need.each, taken + need.each, max(fixed, need.fixed)
        yield part

    def _items_at_once(self, shape: Shape) -> int | None:
        known = [of[shape] for of in (self._at_once, self._fitting) if shape in of]
        return min(known, default=None)

    def _side_by_side(self, replicas: Sequence[Condensation], total: int) -> int:
        """Into how many parts of about the same size a CPU's work is divided; `total`: bytes that one pass would take."""
        if replicas[0].task.device.type != "cpu":
            return 1
        return max(1, min(self.workers, len(replicas), total // LEAST_PART))

    def _budget_of(self, replica: Condensation) -> int:
        given = self._budget
        if given is None:
            devices = [replica.task.device] if self._spread is None else self._spread.devices
            given = max(LEAST_BUDGET, min(memory.budget(device) for device in devices))
        return min(given, self._ceiling.get(id(replica.task.encoder), (None, given))[1])

    def _profile(self, replicas: Sequence[Condensation]) -> Need:
        """Measures what a pass of one replica and of two of a shape takes; more are extrapolated from that."""
        taken: list[int] = []
        for some in (replicas[:1], replicas[:2]):
            try:
                with memory.measured(replicas[0].task.device) as peak:
                    ReplicaBatch(some).gradients()
            except Exception as error:  # the step itself will meet it, and knows what to do
                if not taken and memory.is_out_of_memory(error):
                    items = max(len(x) for x in replicas[0].inputs.values())
                    self._at_once[_shape(replicas[0])] = max(1, items // 2)
                    return ALONE
                break
            taken.append(peak.bytes)
        if not taken:
            return UNKNOWN
        one, two = taken[0], taken[-1]
        each = max(1, two - one) if len(replicas) > 1 and len(taken) > 1 else max(1, one)
        return Need(max(0, one - each), each)


def _shape(replica: Condensation) -> Shape:
    """What the memory of a replica's pass depends on."""
    return Group.kind(replica)[:-1]  # without whether its normaliser is known
