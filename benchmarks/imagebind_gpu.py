"""ImageBind on a GPU: the engine against a competent loop in bfloat16 and in the paper's float32, and against the GPU's peak.

python benchmarks/imagebind_gpu.py --checkpoint imagebind_huge.pth --json imagebind.json

Vision and audio (one clip), 10 classes, 10 items per class. Weights do not affect the results: without a checkpoint they
are random.

- speedup_over_naive: replica-steps per second of `--trials` packed trials over one condensation that re-encodes a real
  batch of 128 items per class at every step, in bfloat16 and in float32. The naive loop has the GPU to itself.
- peak_memory_bytes: the engine's, its encoder in bfloat16 included.
- share_of_matrix_rate: floating-point operations of the engine's encoder passes (counted by PyTorch) per second, over the
  card's measured rate of 8192 x 8192 matrix products in bfloat16.

`--size small` is the same code over small towers of the same classes: it runs anywhere, and shows nothing about speed.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from noise import Noise
from peak import flops_per_replica_step, matrix_rate, timed
from provenance import provenance
from torch import Tensor

from condense.config.models import Hyperparameters, ImageBindEncoder
from condense.data.dataset import Dataset
from condense.embeddings.embeddings import Embedded
from condense.embeddings.task import Task
from condense.encoders import build_encoder, encoder_specs
from condense.engine.engine import Engine
from condense.method.condensation import Condensation

CLASSES, MODALITIES = 10, ("vision", "audio")
SETTING = Hyperparameters(lambda_cross=0.3, lambda_joint=0.3, frequency_scale=0.5)


def make_task(options: argparse.Namespace, precision: str, device: torch.device) -> Task:
    """A task of random real embeddings: only the encoder's work counts here."""
    drawn = options.checkpoint is None and options.size == "huge"
    config = ImageBindEncoder(
        checkpoint=options.checkpoint, size=options.size, precision=precision, audio_clips=1, random_weights=drawn
    )
    specs = {m: spec for m, spec in encoder_specs(config).items() if m in MODALITIES}
    labels = torch.arange(CLASSES).repeat_interleave(max(options.real, options.dpc))
    split = Noise(specs, labels)
    dataset = Dataset("noise", specs, tuple(map(str, range(CLASSES))), split, split, split, "noise")
    encoder = build_encoder(config, dataset)
    assert isinstance(encoder, torch.nn.Module)
    encoder.to(device)
    generator = torch.Generator().manual_seed(1)
    real = {m: F.normalize(torch.randn(len(labels), encoder.dim, generator=generator), dim=1) for m in specs}
    embedded = Embedded(real, labels).to(device)
    return Task(dataset, encoder, embedded, embedded, device)


def packed(task: Task, options: argparse.Namespace) -> float:
    """Replica-steps per second of all trials in one engine."""
    replicas = [Condensation(task, options.dpc, "random", SETTING, seed, 10_000) for seed in range(options.trials)]
    engine = Engine()

    def step() -> None:
        for failure in engine.step(replicas):
            raise failure.error

    return options.trials / timed(step, task.device, options.seconds)


def naive(task: Task, options: argparse.Namespace) -> float:
    """Steps per second of one condensation that encodes a real batch at every step, as the published code does."""
    encoder, device = task.encoder, task.device
    real = {m: x.to(device) for m, x in task.dataset.condense.load(range(len(task.dataset.condense))).items()}
    drawn = task.dataset.condense.load(range(CLASSES * options.dpc))
    synthetic = {m: x.to(device).requires_grad_() for m, x in drawn.items()}
    optimizer = torch.optim.SGD(list(synthetic.values()), lr=1.0, momentum=0.5)
    real_batch = options.real

    def characteristic_function(x: Tensor, t: Tensor) -> Tensor:
        angle = x @ t.T
        return torch.complex(angle.cos().mean(1), angle.sin().mean(1))

    def step() -> None:
        with torch.no_grad():
            theirs = {
                m: torch.cat([encoder.embed(m, part) for part in x.split(256)]).view(CLASSES, -1, encoder.dim)
                for m, x in real.items()
            }
        ours = {m: encoder.embed(m, x).view(CLASSES, options.dpc, encoder.dim) for m, x in synthetic.items()}
        loss = torch.zeros((), device=device)
        for m in synthetic:
            t = SETTING.frequency_scale * torch.randn(SETTING.num_frequencies, encoder.dim, device=device)
            apart = characteristic_function(theirs[m][:, :real_batch], t) - characteristic_function(ours[m], t)
            loss = loss + (apart.abs().square() + 1e-12).sqrt().mean()
        a, b = MODALITIES
        hybrid = F.cosine_similarity(theirs[a].mean(1) * ours[b].mean(1), theirs[b].mean(1) * ours[a].mean(1), dim=1)
        joint = ((theirs[a] * theirs[b]).mean(1) * (ours[a] * ours[b]).mean(1)).sum(1)
        loss = loss + 0.3 * (1 - hybrid).mean() + 0.3 * (1 - joint).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return 1 / timed(step, device, options.seconds)


def allocated(device: torch.device, peak: bool = False, fresh: bool = False) -> int:
    """Bytes of tensors on a GPU, now or the most since the last `fresh` call; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    if fresh:
        torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="imagebind_huge.pth (default: random weights)")
    parser.add_argument("--size", choices=["huge", "small"], default="huge", help="of the towers")
    parser.add_argument("--trials", type=int, default=16, help="packed in the engine")
    parser.add_argument("--dpc", type=int, default=10, help="items per class")
    parser.add_argument("--real", type=int, default=128, help="real items per class in the naive loop's batch")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of all sides, in turn; medians count")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    if options.size == "huge" and not torch.cuda.is_available():
        print("no CUDA device: an item takes 15 seconds on a CPU (try --size small)", file=sys.stderr)
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    low = make_task(options, "bfloat16", device)
    before = allocated(device)
    full = make_task(options, "float32", device)
    naive_sides = allocated(device) - before  # no part of what the engine needs
    rates: dict[str, list[float]] = {"engine": [], "naive_bfloat16": [], "naive_float32": []}
    peaks = []
    for _ in range(options.rounds):
        allocated(device, fresh=True)
        rates["engine"].append(packed(low, options))
        peaks.append(allocated(device, peak=True) - naive_sides)
        rates["naive_bfloat16"].append(naive(low, options))
        rates["naive_float32"].append(naive(full, options))
    rate = {name: median(values) for name, values in rates.items()}
    flops = flops_per_replica_step(full, options.dpc)
    card = matrix_rate(device, options.seconds, 8192 if device.type == "cuda" else 512, torch.bfloat16)
    figures: dict[str, Any] = {
        **provenance(),
        "size": options.size,
        "replica_steps_per_second": rates,
        "speedup_over_naive": {n: rate["engine"] / rate[f"naive_{n}"] for n in ("bfloat16", "float32")},
        "items_per_second": rate["engine"] * CLASSES * options.dpc,
        "peak_memory_bytes": max(peaks) if device.type == "cuda" else None,
        "share_of_matrix_rate": rate["engine"] * flops / card,
        "matrix_rate": card,
        "flops_per_replica_step": flops,
    }
    print(
        f"engine, {options.trials} trials: {rate['engine']:.2f} replica-steps per second, "
        f"{figures['items_per_second']:.0f} pairs of items per second"
    )
    if figures["peak_memory_bytes"] is not None:
        print(f"the engine's peak memory: {figures['peak_memory_bytes'] / 2**30:.1f} GiB")
    for name, factor in figures["speedup_over_naive"].items():
        print(f"naive in {name}: {rate[f'naive_{name}']:.2f}; the engine is {factor:.1f} x as fast")
    print(f"{100 * figures['share_of_matrix_rate']:.0f} % of the measured matrix rate ({card / 1e12:.1f} TFLOP/s)")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
