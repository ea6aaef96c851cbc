"""What a machine could do at most: its measured rate of matrix products, and the operations that a replica-step needs."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from condense.embeddings.task import Task


def timed(step: Callable[[], None], device: torch.device, seconds: float) -> float:
    """Seconds per call, after two that are not counted."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(2):
        step()
    wait()
    started, calls = time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - started < seconds:
        step()
        wait()
        calls += 1
    return (time.perf_counter() - started) / calls


def matrix_rate(device: torch.device, seconds: float, size: int, dtype: torch.dtype) -> float:
    """Operations per second of products of `size` x `size` matrices, on all cores of a CPU; the best of five."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)

    def multiply() -> None:
        torch.mm(a, b, out=out)

    return 2 * size**3 / min(timed(multiply, device, seconds / 5) for _ in range(5))


def flops_per_replica_step(task: Task, dpc: int) -> float:
    """Operations of the encoder on one replica's items, forward and backward to the inputs: the least that a step needs."""
    total = 0
    for m, x in task.dataset.condense.load([0]).items():
        leaf = x.float().to(task.device).requires_grad_()
        with FlopCounterMode(display=False) as counter:
            task.encoder.embed(m, leaf).sum().backward()
        total += counter.get_total_flops()
    return float(total * task.dataset.num_classes * dpc)
