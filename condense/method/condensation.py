"""ONE condensation (a replica): its synthetic items, its optimiser state, its frequencies, its randomness.

A replica is plain state. `condense/engine/engine.py` steps replicas, one or many in a pass; nothing here depends
on the other replicas in a pass.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from condense.config.models import Hyperparameters
from condense.embeddings.task import Task
from condense.embeddings.views import View
from condense.inputs.formation import check_formation, formed, items_in_each, stored_from
from condense.method.initialization import choose_items
from condense.method.objective import class_characteristic_function, draw_frequencies, pass_over
from condense.system.errors import UserError

STATE_VERSION = 2
SEED_STEP = 0x9E3779B97F4A7C15  # between the seeds of the encoders of a bank
DETERMINISTIC = ("herding", "k_center", "k_means")  # draw nothing, unless an item lacks a modality


@dataclass
class Divergence:
    """Why a replica cannot continue."""

    step: int  # the first step with a loss that is not finite, counted from 1
    term: str  # uni, cross, joint or total

    def __str__(self) -> str:
        return f"the {self.term} loss is not finite at step {self.step}"


class Condensation:
    """`dpc` synthetic items per class of one task, class-major: item i is of class i // dpc.

    With `formation` each of these stored items holds `items_in_each` smaller ones, next to each other in `formed_labels`.

    The result depends on the task, dpc, initialisation, hyperparameters and seed; on nothing else.

    Attributes:
        inputs: modality -> (C * dpc, *shape), the synthetic items in the encoder's units.
        velocity: modality -> same shape: SGD's momentum buffer or Adam's first moment.
        square: modality -> same shape: Adam's second moment (empty for SGD).
        step: optimiser steps taken.
        normalizer: (3,) float32 on the device: what each term is divided by; NaN before the first step.
        rate_unit: modality -> () float32 on the device: the unit of its learning rate, with `scaling: gradient`; set by the
            first step, else empty.
        frequencies: modality -> (P, D), the pool. phi_real: modality -> (2, C, P), the real CF at the pool;
            with views (2, V, C, P).
        bank: with a bank a replica per encoder, which has the same inputs and a loss of its own; this one then has none.
        views: the V views that steps choose from; empty without augmentation.
        divergence: set when a loss was not finite; such a replica takes no more steps.
        history: (4,) per step since `Engine.losses_of` was last asked: uni, cross, joint, total; on the device.
    """

    def __init__(
        self,
        task: Task,
        dpc: int,
        initialization: str,
        hyperparameters: Hyperparameters,
        seed: int,
        total_steps: int,
        inputs: dict[str, Tensor] | None = None,
    ) -> None:
        """`total_steps`: how many are planned; a cosine schedule ends there. `inputs`: of the replica whose items are matched
        here in one encoder of a bank."""
        h = hyperparameters
        self.task, self.dpc, self.initialization, self.hyperparameters, self.seed = task, dpc, initialization, h, seed
        self.total_steps = total_steps
        self.generator = torch.Generator().manual_seed(seed)
        device = task.device
        self.items_in_each = check_start(task, dpc, h.formation, initialization)
        task.dataset.check_modalities()
        self.inputs = self._start() if inputs is None else inputs
        self.velocity = {name: torch.zeros_like(x) for name, x in self.inputs.items()} if inputs is None else {}
        adam = h.optimizer == "adam" and inputs is None
        self.square = {name: torch.zeros_like(x) for name, x in self.inputs.items()} if adam else {}
        self.step = 0
        self.normalizer = torch.full((3,), torch.nan, device=device)
        self.rate_unit: dict[str, Tensor] = {}
        self.divergence: Divergence | None = None
        self.history: list[Tensor] = []
        self.key = ""  # identifies the task if there are several
        self.metric = "accuracy"  # metric of its items (`TaskConfig.metric`); no step depends on it
        self.frequencies: dict[str, Tensor] = {}
        self.phi_real: dict[str, Tensor] = {}
        self.bank = [
            Condensation(each, dpc, initialization, h, (seed + (i + 1) * SEED_STEP) % 2**63, total_steps, self.inputs)
            for i, each in enumerate(task.bank)
        ]
        self.views: list[View] = task.views.first(h.views) if h.views and not task.bank else []
        if h.discrepancy == "cf" and not task.bank:
            pool = max(h.frequency_pool, h.num_frequencies)
            for name in task.modalities:
                drawn = draw_frequencies(
                    pool, task.encoder.dim, h.frequency_scale, self.generator, h.frequency_sampling, device
                )
                self.frequencies[name] = drawn
                of_views = []
                for embedded in [view.embedded for view in self.views] or [task.condense]:
                    (real,), labels = embedded.having(name)
                    of_views.append(class_characteristic_function(real, labels, task.dataset.num_classes, drawn))
                self.phi_real[name] = torch.stack(of_views, 1) if h.views else of_views[0]
        self._order = torch.empty(0, dtype=torch.int64)
        self._position = 0
        self._chosen: tuple[int, Tensor] | None = None  # step, result of `next_frequencies` for it

    def _start(self) -> dict[str, Tensor]:
        task, formation = self.task, self.hyperparameters.formation
        drawn_from = self.generator.get_state().numpy().tobytes()
        key: tuple[object, ...] = (self.initialization, self.dpc, formation)
        if self.initialization not in DETERMINISTIC or task.condense.present:
            key = (*key, drawn_from)
        make = functools.partial(initial_inputs, task, self.dpc, self.initialization, self.generator, formation)
        start = task.initialization_cache.get_or_make(key, self.generator, make)
        return {name: x.to(task.device, copy=True) for name, x in start.items()}

    @property
    def labels(self) -> Tensor:
        """(C * dpc,) int64: of the stored items."""
        return torch.arange(self.task.dataset.num_classes, device=self.task.device).repeat_interleave(self.dpc)

    @property
    def items_per_class(self) -> int:
        """s: with `formation` more than the dpc stored ones."""
        return self.dpc * self.items_in_each

    @property
    def formed_labels(self) -> Tensor:
        """(C * s,) int64: of the items that networks are trained on."""
        return self.labels.repeat_interleave(self.items_in_each)

    def formed(self) -> dict[str, Tensor]:
        """modality -> (C * s, *shape): the items that networks are trained on; without `formation` the stored ones."""
        factor = self.hyperparameters.formation
        return dict(self.inputs) if factor == 1 else formed(self.task.dataset.specs, self.inputs, factor)

    @property
    def view(self) -> int:
        """Which of `views` the next step matches under: each once, in an order drawn from the seed, then in another order."""
        count = len(self.views)
        if count < 2:
            return 0
        lap, place = divmod(self.step, count)
        return _order_of_views(count, self.seed, lap)[place]

    @property
    def measures_units(self) -> bool:
        """Whether gradients are in units that the first step measures, instead of those of inputs and encoder."""
        return self.hyperparameters.scaling == "gradient"

    @property
    def schedule_factor(self) -> float:
        """The factor on the learning rates in the next step."""
        if self.hyperparameters.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.total_steps)))

    def next_frequencies(self) -> Tensor:
        """(F,) int64, on the CPU: the part of the pool for the next step. Each pass over the pool has a new order.

        Calls before the step is taken return the same part (an engine that ran out of memory retries the step).
        """
        if self._chosen is not None and self._chosen[0] == self.step:
            return self._chosen[1]
        h = self.hyperparameters
        count = h.num_frequencies
        if self._position + count > len(self._order):
            pool = max(h.frequency_pool, count)
            block = self.task.encoder.dim if h.frequency_sampling == "orthogonal" else pool
            self._order, self._position = pass_over(pool, count, block, self.generator), 0
        chosen = self._order[self._position : self._position + count]
        self._position += count
        self._chosen = self.step, chosen
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """The complete state, to continue exactly; tensors are copied to the CPU."""

        def kept(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: x.detach().to("cpu", copy=True) for name, x in tensors.items()}

        return {
            "version": STATE_VERSION,
            "inputs": kept(self.inputs),
            "velocity": kept(self.velocity),
            "square": kept(self.square),
            "step": self.step,
            **self._matching_state(),
            "bank": [each._matching_state() for each in self.bank],
            "divergence": None if self.divergence is None else [self.divergence.step, self.divergence.term],
        }

    def _matching_state(self) -> dict[str, Any]:
        """What one encoder's loss depends on besides the items."""
        return {
            "normalizer": self.normalizer.detach().to("cpu", copy=True),
            "rate_unit": {name: x.detach().to("cpu", copy=True) for name, x in self.rate_unit.items()},
            "generator": self.generator.get_state(),
            "order": self._order.clone(),
            "position": self._position,
            "chosen": None if self._chosen is None or self._chosen[0] < self.step else self._chosen[1].clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of a replica with the same configuration and seed.

        Raises:
            ValueError: the state has another version or other shapes.
        """
        if state["version"] != STATE_VERSION:
            raise ValueError(f"checkpoint version must be {STATE_VERSION}, but got {state['version']}")
        for own, given in (
            (self.inputs, state["inputs"]),
            (self.velocity, state["velocity"]),
            (self.square, state["square"]),
        ):
            if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in given.items()}:
                raise ValueError("the checkpoint belongs to a condensation with other shapes or another optimiser")
            for name, tensor in given.items():
                own[name].copy_(tensor)  # in place: an engine may hold views of it
        self._load_matching_state(state, state["step"])
        for each, own_state in zip(self.bank, state.get("bank", []), strict=True):
            each._load_matching_state(own_state, state["step"])
        self.divergence = None if state["divergence"] is None else Divergence(*state["divergence"])

    def _load_matching_state(self, state: Mapping[str, Any], step: int) -> None:
        self.step = step
        self.normalizer = state["normalizer"].to(self.task.device, copy=True)
        self.rate_unit = {m: x.to(self.task.device, copy=True) for m, x in state.get("rate_unit", {}).items()}
        self.generator.set_state(state["generator"])
        self._order, self._position = state["order"].clone(), state["position"]
        chosen = state.get("chosen")  # drawn for the next step; not every checkpoint has it
        self._chosen = None if chosen is None else (step, chosen.clone())


@functools.lru_cache(maxsize=1024)
def _order_of_views(count: int, seed: int, lap: int) -> tuple[int, ...]:
    digest = hashlib.sha256(f"views {seed} {lap}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return tuple(torch.randperm(count, generator=generator).tolist())


def check_start(task: Task, dpc: int, formation: int, initialization: str) -> int:
    """How many items a stored one holds. Raises UserError if the task cannot start so many."""
    dataset = task.dataset
    count = items_in_each(dataset.specs, formation)
    if formation > 1:
        try:
            check_formation(dataset.specs, formation)
        except ValueError as error:
            raise UserError(f"{dataset.name}: {error}") from None
        if dataset.num_classes == 1:
            raise UserError(f"{dataset.name}: has no classes: formation would part its pairs: set it to 1")
        if count == 1:
            raise UserError(f"{dataset.name}: has nothing that formation could divide: set it to 1")
    chosen = 1 if initialization == "noise" else count
    dataset.check_class_sizes(dpc * chosen, chosen)
    return count


def initial_inputs(
    task: Task, dpc: int, initialization: str, generator: torch.Generator, formation: int = 1
) -> dict[str, Tensor]:
    """modality -> (C * dpc, *shape): real items chosen per class, or Gaussian noise with the real items' mean and std.

    With `formation` as many are chosen as the stored ones hold, and made smaller.

    Items that lack a modality are chosen only if a class has fewer than dpc complete ones. The missing modality is taken
    from another item of the class, drawn from `generator`.
    """
    condense = task.dataset.condense
    if initialization == "noise":
        sample = condense.load(torch.randperm(len(condense), generator=generator)[:256])
        for name, has in condense.present.items():
            having = torch.nonzero(has).squeeze(1)
            sample[name] = condense.load(having[torch.randperm(len(having), generator=generator)[:256]])[name]
        count = task.dataset.num_classes * dpc
        noise = {}
        for name, x in sample.items():
            spec = task.dataset.specs[name]
            drawn = x.mean() + x.std() * torch.randn(count, *spec.shape, generator=generator)
            noise[name] = drawn.clamp(*spec.bounds())
        return noise
    count = dpc * items_in_each(task.dataset.specs, formation)
    chosen, sources = choose_items(initialization, task.condense, task.dataset.num_classes, count, generator)
    items = condense.load(chosen)
    for name, source in sources.items():
        replaced = source != chosen
        items[name][replaced] = condense.load(source[replaced])[name]
    items = {name: x.float() for name, x in items.items()}
    return items if formation == 1 else stored_from(task.dataset.specs, items, formation)
