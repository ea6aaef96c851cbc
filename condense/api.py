"""The public API: condense a dataset from Python. `import condense` has all of it.

    task = condense.load_task(dataset={"name": "spoken_digits"}, encoder={"name": "tiny"}, dpc=1)
    result = condense.run(task, condense.published.recommended(), seed=0)
    table = condense.compare(result)

Any thread may call these functions, in a script or a notebook. Embeddings are kept in $CONDENSE_CACHE (~/.cache/condense).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from condense.config.modalities import check_learning_rates
from condense.config.models import CondensationConfig, Hyperparameters, TaskConfig, validate
from condense.config.places import without_places
from condense.data.dataset import MemorySplit
from condense.embeddings.embeddings import QUIET
from condense.embeddings.task import Task
from condense.embeddings.task import load_task as load_embedded_task
from condense.engine.engine import Engine
from condense.evaluation import comparison
from condense.evaluation.network_protocol import network_protocol
from condense.evaluation.replica_scores import full_score
from condense.evaluation.soft_labels import load_teacher, recorded_teacher, with_best_temperature
from condense.export.export import export
from condense.export.unfinished import Unfinished
from condense.inputs.formation import formed, items_in_each
from condense.method.condensation import STATE_VERSION, Condensation, Divergence
from condense.single_run import COLUMNS, Interrupted, RunReport, SingleRun, named_losses
from condense.storage.cache_folder import check_writable
from condense.storage.store import Store
from condense.system.devices import device_of, devices_of, named

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Diverged",
    "Interrupted",
    "LoadedTask",
    "Result",
    "RunReport",
    "compare",
    "load_task",
    "run",
]


class Diverged(FloatingPointError):
    """A loss was not finite. `divergence` says which term, and at which step."""

    def __init__(self, divergence: Divergence) -> None:
        super().__init__(f"{divergence}: a smaller learning rate may help")
        self.divergence = divergence


@dataclass(frozen=True, eq=False)
class LoadedTask:
    """A dataset seen through an encoder, and how many items per class to condense it into."""

    config: TaskConfig
    embedded: Task
    store: Store
    devices: tuple[torch.device, ...] = ()  # several, the first of which is `embedded.device`, share each condensation

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.embedded.modalities

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.embedded.dataset.class_names)

    @property
    def full_score(self) -> float:
        """The validation score of the full data, 0 .. 1, by the task's metric."""
        return full_score(self.embedded, self.config.metric)


@dataclass(frozen=True, eq=False)
class Result:
    """One condensed dataset."""

    task: LoadedTask
    hyperparameters: Hyperparameters
    seed: int
    steps: int
    items: dict[str, Tensor]  # modality -> (C * dpc, *shape) float32 on the CPU, in the encoder's units
    labels: Tensor  # (C * dpc,) int64 on the CPU; item i is of class i // dpc
    reports: tuple[RunReport, ...]  # the first is of step 0: the score of the items it started from
    loss_rows: Tensor  # (steps, 4) float32: uni, cross, joint, total
    full_score: float  # validation score of the full data
    seconds: float  # all of the run's, also where it was interrupted
    unfinished: Unfinished | None = None  # where it was kept; `save` removes that
    soft_labels: Tensor | None = None  # a teacher's, a row per training item, (n, C) float32 on the CPU
    teacher: Mapping[str, Any] | None = None  # whose: {teacher, members, temperature}

    @property
    def training_items(self) -> MemorySplit:
        """The items to train on, `.inputs` and `.labels`: those that the stored ones hold, if there is a `formation`."""
        specs, factor = self.task.embedded.dataset.specs, self.hyperparameters.formation
        if factor == 1:
            return MemorySplit(dict(self.items), self.labels)
        return MemorySplit(
            formed(specs, self.items, factor), self.labels.repeat_interleave(items_in_each(specs, factor))
        )

    @property
    def start_score(self) -> float:
        """On validation, of the items that the run started from."""
        return self.reports[0].score

    @property
    def score(self) -> float:
        """On validation, by the task's metric, 0 .. 1."""
        return self.reports[-1].score

    @property
    def share(self) -> float | None:
        """`score` over the full data's; None where that is 0."""
        return self.reports[-1].share

    @property
    def losses(self) -> pd.DataFrame:
        """A row per step (from 1): uni, cross and joint as they are, and the weighted, normalised total."""
        import pandas as pd

        steps = pd.RangeIndex(1, len(self.loss_rows) + 1, name="step")
        return pd.DataFrame(self.loss_rows.numpy(), index=steps, columns=list(COLUMNS))

    @property
    def scores(self) -> pd.DataFrame:
        """A row per report (from step 0): the validation score, and its share of the full data's."""
        import pandas as pd

        steps = pd.Index([report.step for report in self.reports], name="step")
        rows = [(report.score, math.nan if report.share is None else report.share) for report in self.reports]
        return pd.DataFrame(rows, index=steps, columns=["score", "share"])

    def with_soft_labels(self, teacher: str) -> Result:
        """The same items, also with the labels of a teacher that is trained on the full data: `probe` or `convnet`
        (`condense/evaluation/soft_labels.py`, also for its temperature). The first time takes a while.

        Raises UserError for data of a single class, or inputs that no ConvNet supports; ValueError for another teacher.
        """
        task = self.task
        found = with_best_temperature(
            load_teacher(task.embedded, teacher, task.store), task.embedded, task.store, task.config.dpc
        )
        labels = found.labels(self.training_items)
        return replace(self, soft_labels=labels, teacher=found.describe())

    def save(self, folder: str | Path) -> Path:
        """Writes tensors, labels, course, manifest and previews to `folder`, as `python -m condense run` does; returns it.

        Raises UserError if `folder` holds anything but an earlier condensed dataset, or cannot be written.
        """
        folder, shared = Path(folder), self.task.embedded
        export(
            folder,
            self.items,
            self.labels,
            dataset=shared.dataset,
            record=self.record(),
            condensation=self.course(),
            soft_labels=self.soft_labels,
            formation=self.hyperparameters.formation,
        )
        if self.unfinished is not None:
            self.unfinished.remove()
        return folder

    def record(self) -> dict[str, Any]:
        """How it was made, JSON-able: what condensed.json holds."""
        task, shared = self.task.config, self.task.embedded
        config = config_of(task, self.hyperparameters, self.seed, self.steps)
        if self.teacher is not None:
            config = config.model_copy(update={"soft_labels": self.teacher["teacher"]})
        return {
            "config": config.model_dump(mode="json", exclude_none=True),
            "fingerprints": shared.fingerprints,
            "steps": self.steps,
            "seed": self.seed,
            "loss": {"start": named_losses(self.loss_rows[:1]), "end": named_losses(self.loss_rows[-1:])},
            "validation": {task.metric: self.score, "share": self.share, "full_data": self.full_score},
            "seconds": self.seconds,
            "device": named(self.task.devices or [shared.device]),
            **({} if self.teacher is None else {"soft_labels": dict(self.teacher)}),
        }

    def course(self) -> dict[str, Any]:
        """How it went, JSON-able: what condensation.json holds. Scores and shares are 0 .. 1, on validation."""
        start, end = self.reports[0], self.reports[-1]
        return {
            "start": finite(start.score),
            "final": finite(end.score),
            "full": finite(self.full_score),
            "metric": self.task.config.metric,
            "start_share": finite(start.share),
            "final_share": finite(end.share),
            "steps": self.steps,
            "seed": self.seed,
            "seconds": self.seconds,
            "scores": [{"step": r.step, "score": finite(r.score), "share": finite(r.share)} for r in self.reports],
            "losses": {
                name: [finite(x) for x in column]
                for name, column in zip(COLUMNS, self.loss_rows.T.tolist(), strict=True)
            },
        }


def load_task(
    config: TaskConfig | Mapping[str, Any] | None = None,
    *,
    device: str | torch.device | None = None,
    cache: str | Path | None = None,
    quiet: float = QUIET,
    **keys: Any,
) -> LoadedTask:
    """Reads a dataset and embeds it; what the cache holds already is not computed again.

    `config`, or its `keys` one by one: `dataset`, `encoder`, `dpc`, `initialization`, `metric` (docs/keys.md, `tasks`).
    `device`: `cpu`, `cuda` or `cuda:1`, for everything; by default the GPU if there is one. Several GPUs, `cuda:0,cuda:1`,
    share each condensation; the rest is done on the first. `cache`: a folder; by default $CONDENSE_CACHE. Work that takes more
    than `quiet` seconds shows its progress.

    Raises:
        UserError: a key is wrong, the device is not there, the data cannot be read, or the encoder does not take it.
    """
    devices = devices_of(device)
    known = {} if config is None else task_keys(config) if isinstance(config, TaskConfig) else config
    parsed = validate(TaskConfig, {**known, **keys}, "load_task")
    store = Store(None if cache is None else Path(cache))
    check_writable(store.folder)
    return LoadedTask(parsed, load_embedded_task(parsed, store, devices[0], quiet), store, tuple(devices))


def run(
    task: LoadedTask,
    hyperparameters: Hyperparameters | Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    steps: int = 100,
    on_report: Callable[[RunReport], None] | None = None,
    keep_beside: str | Path | None = None,
) -> Result:
    """Condenses a task into `dpc` items per class. The same arguments give the same result.

    `hyperparameters`: by default `Hyperparameters()`. `seed`: of the start and the frequencies. `on_report` is called at the
    start and about ten times on the way; without it a run of more than a few seconds shows its progress.

    `keep_beside`: the folder that the result will be saved to. Beside it, in `.NAME.partial`, the state is kept every 30 s, and
    at Ctrl-C and SIGTERM. The same call then goes on from there, to the same result; another one starts anew in its place.
    Both are told in a line on stderr. `Result.save` removes what was kept.

    Raises:
        UserError: a hyperparameter is out of its range, a learning rate is of a modality that the data lack, or a class has
            fewer than `dpc` items.
        Diverged: a loss was not finite.
        Interrupted: a KeyboardInterrupt, of a run that is kept.
    """
    if not isinstance(hyperparameters, Hyperparameters):
        hyperparameters = validate(Hyperparameters, dict(hyperparameters or {}), "run: hyperparameters")
    if steps < 0:
        raise ValueError(f"steps must be >= 0, but got {steps}")
    check_learning_rates(hyperparameters.own_rates, task.modalities)
    config, shared = task.config, task.embedded
    full = task.full_score

    def start() -> Condensation:
        replica = Condensation(shared, config.dpc, config.initialization, hyperparameters, seed, max(1, steps))
        replica.metric = config.metric
        return replica

    unfinished = None
    if keep_beside is not None:
        known = without_places(config_of(config, hyperparameters, seed, steps).model_dump(mode="json"))
        identity = {**known, "fingerprints": shared.fingerprints, "state_version": STATE_VERSION}
        unfinished = Unfinished(Path(keep_beside), identity)
    engine = Engine(devices=task.devices)
    engine.copy_encoders(shared)
    done = SingleRun(start, steps, full, unfinished, engine)
    done.go(on_report)
    replica = done.replica
    if replica.divergence is not None:
        if unfinished is not None:
            unfinished.remove()
        raise Diverged(replica.divergence)
    return Result(
        task=task,
        hyperparameters=hyperparameters,
        seed=seed,
        steps=steps,
        items={name: x.detach().float().cpu().clone() for name, x in replica.inputs.items()},
        labels=replica.labels.cpu(),
        reports=tuple(done.reports),
        loss_rows=done.losses,
        full_score=full,
        seconds=done.seconds,
        unfinished=unfinished,
    )


OneOrMore = Result | Sequence[Result]  # of one method: one run, or one per seed


def compare(
    results: OneOrMore | Mapping[str, OneOrMore],
    *,
    convnet_seeds: int = 3,
    retrieval: bool = True,
    convnet: str = "fast",
    architecture: str = "convnet",
    convnet_steps: int | None = None,
) -> pd.DataFrame:
    """Condensed sets beside as many real items and the full data, on the test split: a row per method.

    Columns: (protocol, `mean` | `std` | `n` | `share`) with protocol `probe`, `convnet` and `retrieval`
    (`condense/evaluation/comparison.py`). `results`: one result, several seeds of one method (`condensed`), or name -> one or
    several. All must be of one task. `convnet_seeds`: networks from scratch per method; 0 leaves them out.
    `convnet`: how they are trained, `fast` or as published, `dc`; `architecture`: `convnet` or `resnet`; `convnet_steps`: of
    each, by default the preset's (`condense/evaluation/network_protocol.py`).
    Results with soft labels (`Result.with_soft_labels`) give each method, coresets included, a second row, METHOD + soft.
    This opens the test split: make all choices before.

    Raises:
        ValueError: there is no result, the results are of different tasks, or their soft labels of different teachers; a
            preset or an architecture is not known; `convnet_steps` is below 1.
    """
    import pandas as pd

    protocol = network_protocol(convnet, architecture, convnet_steps)
    named = results if isinstance(results, Mapping) else {"condensed": results}
    sets = {name: [own] if isinstance(own, Result) else list(own) for name, own in named.items()}
    flat = [result for own in sets.values() for result in own]
    if not flat or not all(sets.values()):
        raise ValueError("results must hold at least one result of each method")
    task = flat[0].task
    if any(r.task.embedded is not task.embedded or r.task.config.dpc != task.config.dpc for r in flat):
        raise ValueError("results must be of one task: load it once, with one dpc")
    splits = {name: [r.training_items for r in own] for name, own in sets.items()}
    teachers = [r.teacher for r in flat]
    if any(teacher != teachers[0] for teacher in teachers):
        raise ValueError("results must have soft labels of one teacher and temperature, or none of them any")
    soft = None
    if teachers[0] is not None:
        labels = [r.soft_labels for r in flat if r.soft_labels is not None]
        own_labels = list(zip([split for own in splits.values() for split in own], labels, strict=True))
        soft = recorded_teacher(task.embedded, task.store, teachers[0], own_labels)
    found = comparison.compare(
        comparison.Comparison(task.embedded, task.store, protocol=protocol),
        splits,
        task.config.dpc,
        range(convnet_seeds if task.embedded.dataset.source is None else 0),  # ConvNets take inputs, not features
        protocols=[protocol for protocol in comparison.PROTOCOLS if retrieval or protocol != "retrieval"],
        soft=soft,
    )
    rows = {
        method: {
            (protocol, key): math.nan if value is None else value
            for protocol, cell in of.items()
            if cell is not None
            for key, value in cell.items()
            if key != "values"
        }
        for method, of in comparison.as_json(found).items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.columns = pd.MultiIndex.from_tuples(table.columns, names=["protocol", None])
    return table.rename_axis("method")


def task_keys(config: TaskConfig) -> dict[str, Any]:
    """The keys of a task, of one condensation's configuration as well."""
    return {name: getattr(config, name) for name in TaskConfig.model_fields}


def config_of(task: TaskConfig, hyperparameters: Hyperparameters, seed: int, steps: int) -> CondensationConfig:
    """The configuration of one condensation."""
    return CondensationConfig(**task_keys(task), steps=steps, seed=seed, hyperparameters=hyperparameters)


def finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if value is not None and math.isfinite(value) else None


def best_device() -> torch.device:
    """The GPU if there is one."""
    return device_of(None)
