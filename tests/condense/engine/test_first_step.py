"""A process's first step: without imports that it has no use for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from condense.engine.replica_batch import _carried

FIRST_STEP = """
import sys
from small_problem import make_task
from condense.config.models import Hyperparameters
from condense.embeddings.task import load_task
from condense.engine.engine import Engine
from condense.method.condensation import Condensation
replica = Condensation(make_task(), 1, "random", Hyperparameters(), 0, 10)
Engine().run([replica], 2)
print(*sorted({"sympy", "scipy", "sklearn", "matplotlib"} & set(sys.modules)))
"""


def test_no_library_is_imported_for_nothing() -> None:
    path = os.pathsep.join([*sys.path, str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_STEP], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_gradients_are_carried_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(5, 7, generator=generator).requires_grad_() for _ in range(2)]
    embedded = [(leaves[0] @ torch.randn(7, 3, generator=generator)).tanh(), leaves[1].exp()]
    outward = [torch.randn(x.shape, generator=generator) for x in embedded]
    expected = torch.autograd.grad(embedded, leaves, outward, retain_graph=True)
    for one, other in zip(_carried(embedded, leaves, outward), expected, strict=True):
        assert torch.equal(one, other)
