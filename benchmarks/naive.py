"""The naive side of `throughput.py`: one condensation per process, as a competent user would write it from the paper.

The encoder is frozen and in evaluation mode; at every step a fresh real batch of 128 items per class is encoded under
no_grad, losses of all classes are computed at once, and one SGD step is made. One thread per process.

python benchmarks/naive.py TASK.json FOLDER SEED SECONDS: says when it is ready (FOLDER/SEED.ready), begins when FOLDER/go
exists, writes its number of steps and seconds to FOLDER/SEED.json.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from condense.config.models import CondensationConfig
from condense.embeddings.task import load_task
from condense.method.condensation import initial_inputs
from condense.storage.store import Store

REAL_PER_CLASS = 128
WARM_UP = 2  # steps before


def characteristic_function(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """(C, n, D), (F, D) -> (C, F) complex."""
    angle = x @ t.T
    return torch.complex(angle.cos().mean(1), angle.sin().mean(1))


def main() -> None:
    config = CondensationConfig.model_validate_json(Path(sys.argv[1]).read_text())
    folder, seed, counted = Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    torch.set_num_threads(1)
    h = config.hyperparameters
    generator = torch.Generator().manual_seed(seed)
    task = load_task(config, Store(), torch.device("cpu"))
    classes, encoder = task.dataset.num_classes, task.encoder
    items = task.dataset.condense.load(range(len(task.dataset.condense)))
    members = [(task.condense.labels == c).nonzero().squeeze(1) for c in range(classes)]
    start = initial_inputs(task, config.dpc, config.initialization, generator)
    synthetic = {m: x.clone().requires_grad_() for m, x in start.items()}
    optimizer = torch.optim.SGD(
        [{"params": [x], "lr": h.learning_rate_of(m)} for m, x in synthetic.items()], lr=1.0, momentum=h.momentum
    )

    def step() -> None:
        chosen = torch.cat([m[torch.randperm(len(m), generator=generator)[:REAL_PER_CLASS]] for m in members])
        with torch.no_grad():
            real = {m: encoder.embed(m, x[chosen]).view(classes, -1, encoder.dim) for m, x in items.items()}
        made = {m: encoder.embed(m, x).view(classes, config.dpc, encoder.dim) for m, x in synthetic.items()}
        loss = torch.zeros(())
        for m in synthetic:
            t = h.frequency_scale * torch.randn(h.num_frequencies, encoder.dim, generator=generator)
            apart = characteristic_function(real[m], t) - characteristic_function(made[m], t)
            loss = loss + h.lambda_uni * (h.beta * apart.abs().square() + 1e-12).sqrt().mean()
        for a, b in itertools.combinations(synthetic, 2):
            means = {m: (real[m].mean(1), made[m].mean(1)) for m in (a, b)}
            hybrid = F.cosine_similarity(means[a][0] * means[b][1], means[b][0] * means[a][1], dim=1)
            joint = ((real[a] * real[b]).mean(1) * (made[a] * made[b]).mean(1)).sum(1)
            loss = loss + h.lambda_cross * (1 - hybrid).mean() + h.lambda_joint * (1 - joint).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(WARM_UP):
        step()
    (folder / f"{seed}.ready").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < counted:
        step()
        steps += 1
    seconds = time.perf_counter() - started
    (folder / f"{seed}.json").write_text(json.dumps({"steps": steps, "seconds": seconds}))


if __name__ == "__main__":
    main()
