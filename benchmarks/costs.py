"""What a search at imagebind_huge costs, in hours and memory: operations and activations are counted, speed and price assumed.

python benchmarks/costs.py --trials 500 --share 0.4 --tflops 989 --price 3

Counted on PyTorch's meta device, in bfloat16: the operations of the towers, forward and backward to the inputs, and the bytes
that autograd keeps in between. Assumed: the card's rate of matrix products (an H100's or H200's by its data sheet), the share
of it that the engine reaches, and the price of an hour. `imagebind_gpu.py` measures rate and share where there is a GPU.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from condense.config.models import Hyperparameters, ImageBindEncoder
from condense.encoders.imagebind import ImageBindTowers, empty_model, imagebind_specs, keep_towers
from search.space.model import Scheduler

GPUS = (1, 8, 64)
SPACES = {"ave": (28, 10), "vggsound": (309, 10), "vggsound, 20 per class": (309, 20)}  # classes, items per class
STEPS, SEEDS = 300, 3  # of these spaces
COUNTED = ("vision", "audio", "depth", "thermal", "imu")
DIM = 1024
COPIES = 6  # of a replica's items (`search.engine.tenants`)


@dataclass(frozen=True)
class Tower:
    """Of one item; activations in bytes."""

    flops: int
    activations: int
    values: int
    weights: int


def count(modality: str) -> Tower:
    """One tower of imagebind_huge, without memory for its weights."""
    config = ImageBindEncoder(random_weights=True)
    model = keep_towers(empty_model(config.size), [modality]).to(torch.bfloat16).eval().requires_grad_(False)
    shape = imagebind_specs(config)[modality].shape
    leaf = torch.empty(1, *shape, device="meta", requires_grad=True)
    frozen = {x.untyped_storage()._cdata for x in model.parameters()}  # their views are kept, too
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in frozen:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    towers: Any = SimpleNamespace(model=model, precision=torch.bfloat16)
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            clips = modality == "audio" and len(shape) == 4
            embedded = ImageBindTowers._project(towers, modality, leaf.flatten(0, 1) if clips else leaf)
        embedded.sum().backward()
    weights = sum(x.numel() for x in model.parameters()) * 2
    return Tower(counter.get_total_flops(), sum(kept.values()), math.prod(shape), weights)


def replica_steps(trials: int) -> float:
    """Of the trials of a search, with ASHA as these spaces have it: stopped at half of the steps but for one in three."""
    goes_on = 1 / Scheduler(name="asha").reduction_factor
    return trials * SEEDS * STEPS * (0.5 + 0.5 * goes_on)


def state_of_replica(towers: dict[str, Tower], classes: int, dpc: int) -> dict[str, float]:
    """Bytes: `items` with all that is kept of them, `frequencies` with the real CF at them."""
    pool = Hyperparameters().frequency_pool
    return {
        "items": 4.0 * COPIES * classes * dpc * sum(tower.values for tower in towers.values()),
        "frequencies": 4.0 * len(towers) * pool * (DIM + 2 * classes),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--share", type=float, default=0.4, help="of the card's rate that the engine reaches (assumed)")
    parser.add_argument("--tflops", type=float, default=989.0, help="the card's rate in bfloat16 (assumed: data sheet)")
    parser.add_argument("--price", type=float, default=3.0, help="US dollars per GPU and hour (assumed)")
    parser.add_argument("--modalities", nargs="+", default=["vision", "audio"], choices=COUNTED)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    towers = {m: count(m) for m in options.modalities}
    flops = sum(tower.flops for tower in towers.values())
    rate = options.share * options.tflops * 1e12
    figures: dict[str, Any] = {"towers": {m: vars(tower) for m, tower in towers.items()}, "spaces": {}}
    print("| tower | GFLOP per item and step | activations per item, MB | weights, GB |\n| --- | ---: | ---: | ---: |")
    for m, tower in towers.items():
        print(f"| {m} | {tower.flops / 1e9:.0f} | {tower.activations / 1e6:.0f} | {tower.weights / 1e9:.1f} |")
    hours_of = " | ".join(f"{count} GPU{'s' if count > 1 else ''}" for count in GPUS)
    print(f"\n| space | a step of a replica, s | {hours_of} | GPU hours | US dollars | a replica, GB |")
    print("| --- | ---: |" + " ---: |" * (len(GPUS) + 3))
    for name, (classes, dpc) in SPACES.items():
        second = classes * dpc * flops / rate
        hours = replica_steps(options.trials) * second / 3600
        state = state_of_replica(towers, classes, dpc)
        figures["spaces"][name] = {"step_s": second, "gpu_hours": hours, **state}
        each = " | ".join(f"{hours / gpus:,.1f} h" for gpus in GPUS)
        told = f"{hours:,.0f} | {hours * options.price:,.0f} | {sum(state.values()) / 1e9:.1f}"
        print(f"| {name} | {second:.2f} | {each} | {told} |")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
