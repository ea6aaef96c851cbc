"""What real data cost: the time of a step and of a start, the memory of one more trial and of an evaluation.

python benchmarks/scaling_data.py ITEMS    what `evaluate_mb` runs in a process of its own
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from noise import Noise
from safetensors.torch import save_file

from condense.config.models import Hyperparameters, TinyEncoder
from condense.data.dataset import Dataset
from condense.embeddings.embeddings import Embedded
from condense.embeddings.task import Task
from condense.encoders.tiny import build_tiny, tiny_specs
from condense.engine.engine import Engine
from condense.evaluation.comparison import Comparison, chosen_items, compare
from condense.method.condensation import Condensation
from condense.storage.store import Store

CLASSES = 10
SPECS = {name: spec for name, spec in tiny_specs(TinyEncoder()).items() if name in ("vision", "audio")}
EVERY = 0.002  # seconds between two looks at the process's memory
# A process's first step: what `condense run` does until then.
FIRST_STEP = """
import sys
from condense.system.process import prepare_process
prepare_process()
import torch
from pathlib import Path
from condense.config.files import load_config
from condense.embeddings.task import load_task
from condense.engine.engine import Engine
from condense.method.condensation import Condensation
from condense.storage.store import Store
config = load_config(Path(sys.argv[1]), [])
task = load_task(config, Store(), torch.device("cpu"))
Engine().run([Condensation(task, config.dpc, config.initialization, config.hyperparameters, 0, 10)], 1)
"""


def task_of(items: int, validation: int = 100) -> Task:
    """A task of random embeddings of `items` real items, and of so many to validate on."""
    labels = torch.arange(items) % CLASSES
    split = Noise(SPECS, labels)
    names = tuple(str(c) for c in range(CLASSES))
    dataset = Dataset(f"{items} items", SPECS, names, split, split, split, str(items))
    encoder = build_tiny(TinyEncoder(pretraining="none"), dataset)
    generator = torch.Generator().manual_seed(1)
    embeddings = {}
    for m in SPECS:
        embeddings[m] = torch.nn.functional.normalize(torch.randn(items, encoder.dim, generator=generator), dim=1)
    few = Embedded({m: x[:validation] for m, x in embeddings.items()}, labels[:validation])
    return Task(dataset, encoder, Embedded(embeddings, labels), few, torch.device("cpu"))


def replicas_of(task: Task, dpc: int, count: int) -> list[Condensation]:
    return [Condensation(task, dpc, "random", Hyperparameters(), seed, 10_000) for seed in range(count)]


def step_time_ratio(rounds: int, items: int) -> dict[str, Any]:
    """Seconds per step with `items` real items over a hundredth of them: both sizes in turn, 10 steps each."""
    sides = {n: (Engine(), replicas_of(task_of(n), 1, 8)) for n in (max(items // 100, 100), items)}
    seconds: dict[int, list[float]] = {n: [] for n in sides}
    for turn in range(rounds + 1):
        for n, (engine, replicas) in sides.items():
            started = time.perf_counter()
            engine.run(replicas, 10)
            if turn:  # the first one lays out
                seconds[n].append((time.perf_counter() - started) / 10)
    few, many = seconds.values()
    return {
        "step_time_ratio": median(b / a for a, b in zip(few, many, strict=True)),
        "step_ms": {str(n): 1e3 * median(values) for n, values in seconds.items()},
    }


def memory_per_extra_trial() -> dict[str, float]:
    """Resident memory with 8 and with 40 replicas after some steps; per replica, in MB."""
    task, process, used = task_of(2_000), psutil.Process(), []
    for count in (8, 40):
        replicas = replicas_of(task, 10, count)
        engine = Engine()
        engine.run(replicas, 5)
        gc.collect()
        used.append(process.memory_info().rss)
    own = replicas[0]
    (need,) = engine._needs.values()
    tensors = [*own.inputs.values(), *own.velocity.values(), *own.frequencies.values(), *own.phi_real.values()]
    return {
        "memory_per_extra_trial_mb": (used[1] - used[0]) / 32 / 1e6,
        "state_of_a_trial_mb": sum(x.numel() * x.element_size() for x in tensors) / 1e6,
        "activations_of_a_trial_mb": need.each / 1e6,
    }


@contextmanager
def peak_memory() -> Iterator[Callable[[], float]]:
    """What the process's resident memory grew by, at most, in the block: in MB, once it is over."""
    process, over = psutil.Process(), threading.Event()
    gc.collect()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not over.wait(EVERY):
            most = max(most, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: (most - before) / 1e6
    finally:
        over.set()
        thread.join()


def evaluate_mb(items: int) -> dict[str, Any]:
    """The memory of an evaluation with as many items to train and to test on, by probe and retrieval, above the embeddings:
    a condensed set, the coresets and the full data, as `condense evaluate` compares them. In a process of its own: what this one
    has had and given back would be taken first."""
    command = [sys.executable, __file__, str(items)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    figures: dict[str, Any] = json.loads(found.stdout)
    return figures


def _evaluate_mb(items: int) -> dict[str, Any]:
    task = task_of(items, items)
    with tempfile.TemporaryDirectory() as folder:
        small = task_of(200, 200)
        _evaluate(small, Path(folder))  # libraries that are loaded at their first use
        started = time.perf_counter()
        with peak_memory() as grown:
            _evaluate(task, Path(folder))
        return {"evaluate_mb": grown(), "evaluate_s": time.perf_counter() - started}


def _evaluate(task: Task, folder: Path) -> None:
    comparison = Comparison(task, Store(folder), held_out="validation")
    sets = {"condensed": [chosen_items(task, "random", 10, 1)]}
    compare(comparison, sets, 10, (), protocols=("probe", "retrieval"))


def first_step_s(items: int, starts: int = 3) -> dict[str, Any]:
    """Seconds of a new process until its first step is taken, on a file of tensors of so many tiny items whose embeddings are in
    the cache: median over some starts; its processor time, which depends less on what else the machine does; and the seconds of
    the start that fills the cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_tensors(folder, items)
        environment = {**os.environ, "CONDENSE_CACHE": str(folder / "cache")}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        took, worked = [], []
        for _ in range(starts + 1):
            time.sleep(0.1)  # what was written just now is read once more
            started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", FIRST_STEP, str(config)], env=environment, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took.append(time.perf_counter() - started)
            worked.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"first_step_s": median(took[1:]), "first_step_cpu_s": median(worked[1:]), "first_start_s": took[0]}


def write_tensors(folder: Path, items: int) -> Path:
    """A file of tensors of 8 x 8 pixels, and the configuration of a condensation of them."""
    generator = torch.Generator().manual_seed(0)
    content = {}
    for split, count in (("train", items), ("validation", items // 20), ("test", items // 20)):
        for m in ("vision", "depth"):
            content[f"{split}/{m}"] = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
        content[f"{split}/label"] = torch.arange(count) % CLASSES
    save_file(content, folder / "data.safetensors")
    encoder = {"name": "tiny", "pretraining": "none", "width": 4, "image_size": 8}
    keys = {"dataset": {"name": "tensors", "path": "data.safetensors"}, "encoder": encoder, "dpc": 1, "steps": 10}
    (folder / "config.yaml").write_text(json.dumps(keys), encoding="utf-8")  # JSON is YAML
    return folder / "config.yaml"


if __name__ == "__main__":
    print(json.dumps(_evaluate_mb(int(sys.argv[1]))))
