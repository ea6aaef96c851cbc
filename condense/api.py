"""The public API: condense a dataset from Python. `import condense` has all of it.

    task = condense.load_task(dataset={"name": "spoken_digits"}, encoder={"name": "tiny"}, dpc=1)
    result = condense.run(task, condense.published.recommended(), seed=0)
    table = condense.compare(result)

Any thread may call these functions, in a script or a notebook. Embeddings are kept in $CONDENSE_CACHE (~/.cache/condense).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from condense.config.models import CondensationConfig, Hyperparameters, TaskConfig, validate
from condense.data.dataset import MemorySplit
from condense.embeddings.embeddings import QUIET
from condense.embeddings.task import Task
from condense.embeddings.task import load_task as load_embedded_task
from condense.engine.engine import Engine
from condense.evaluation import comparison
from condense.evaluation.network_protocol import network_protocol
from condense.evaluation.replica_scores import full_score
from condense.evaluation.replica_scores import validate as validation_scores
from condense.export.export import export
from condense.method.condensation import Condensation, Divergence
from condense.method.objective import TERMS
from condense.storage.cache_folder import check_writable
from condense.storage.store import Store
from condense.system.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

REPORTS = 10  # validations during a run
COLUMNS = (*TERMS, "total")  # of the losses


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


@dataclass(frozen=True)
class RunReport:
    """How far a condensation is: what `on_report` gets."""

    step: int
    steps: int
    losses: dict[str, float] | None  # uni, cross, joint, total of the last step; None before the first
    score: float  # on validation, 0 .. 1
    share: float | None  # of the full data's score


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
    seconds: float

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

    def save(self, folder: str | Path) -> Path:
        """Writes tensors, labels, a manifest and previews to `folder`, as `python -m condense run` does; returns it.

        Raises UserError if `folder` holds anything but an earlier condensed dataset, or cannot be written.
        """
        folder, shared = Path(folder), self.task.embedded
        export(folder, self.items, self.labels, dataset=shared.dataset, record=self.record())
        return folder

    def record(self) -> dict[str, Any]:
        """How it was made, JSON-able: what condensed.json holds."""
        task, shared = self.task.config, self.task.embedded
        config = CondensationConfig(
            **task_keys(task), steps=self.steps, seed=self.seed, hyperparameters=self.hyperparameters
        )
        return {
            "config": config.model_dump(mode="json", exclude_none=True),
            "fingerprints": {"dataset": shared.dataset.fingerprint, "encoder": shared.encoder.fingerprint},
            "steps": self.steps,
            "seed": self.seed,
            "loss": {"start": named_losses(self.loss_rows[:1]), "end": named_losses(self.loss_rows[-1:])},
            "validation": {task.metric: self.score, "share": self.share, "full_data": self.full_score},
            "seconds": self.seconds,
            "device": str(shared.device),
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
    `device`: where the encoder runs; by default the GPU if there is one. `cache`: a folder; by default $CONDENSE_CACHE.
    Work that takes more than `quiet` seconds shows its progress.

    Raises:
        UserError: a key is wrong, the data cannot be read, or the encoder does not take it.
    """
    known = {} if config is None else task_keys(config) if isinstance(config, TaskConfig) else config
    parsed = validate(TaskConfig, {**known, **keys}, "load_task")
    store = Store(None if cache is None else Path(cache))
    check_writable(store.folder)
    where = best_device() if device is None else torch.device(device)
    return LoadedTask(parsed, load_embedded_task(parsed, store, where, quiet), store)


def run(
    task: LoadedTask,
    hyperparameters: Hyperparameters | Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    steps: int = 100,
    on_report: Callable[[RunReport], None] | None = None,
) -> Result:
    """Condenses a task into `dpc` items per class. The same arguments give the same result.

    `hyperparameters`: by default `Hyperparameters()`. `seed`: of the start and the frequencies. `on_report` is called at the
    start and about ten times on the way; without it a run of more than a few seconds shows its progress.

    Raises:
        UserError: a hyperparameter is out of its range, or a class has fewer than `dpc` items.
        Diverged: a loss was not finite.
    """
    if not isinstance(hyperparameters, Hyperparameters):
        hyperparameters = validate(Hyperparameters, dict(hyperparameters or {}), "run: hyperparameters")
    if steps < 0:
        raise ValueError(f"steps must be >= 0, but got {steps}")
    config, shared = task.config, task.embedded
    full = task.full_score
    started = time.monotonic()
    replica = Condensation(shared, config.dpc, config.initialization, hyperparameters, seed, max(1, steps))
    replica.metric = config.metric
    losses, reports = _condense(replica, steps, full, on_report)
    if replica.divergence is not None:
        raise Diverged(replica.divergence)
    return Result(
        task=task,
        hyperparameters=hyperparameters,
        seed=seed,
        steps=steps,
        items={name: x.detach().float().cpu().clone() for name, x in replica.inputs.items()},
        labels=replica.labels.cpu(),
        reports=tuple(reports),
        loss_rows=losses,
        full_score=full,
        seconds=time.monotonic() - started,
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
    This opens the test split: make all choices before.

    Raises:
        ValueError: there is no result, or the results are of different tasks; a preset or an architecture is not known;
            `convnet_steps` is below 1.
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
    found = comparison.compare(
        comparison.Comparison(task.embedded, task.store, protocol=protocol),
        {name: [MemorySplit(dict(r.items), r.labels) for r in own] for name, own in sets.items()},
        task.config.dpc,
        range(convnet_seeds),
        retrieval=retrieval,
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


def best_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def named_losses(row: Tensor) -> dict[str, float] | None:
    """(1, 4) -> {uni, cross, joint, total}; None of (0, 4)."""
    return dict(zip(COLUMNS, row[0].tolist(), strict=True)) if len(row) else None


def _condense(
    replica: Condensation, steps: int, full: float, on_report: Callable[[RunReport], None] | None
) -> tuple[Tensor, list[RunReport]]:
    """Steps and validates `replica`; its losses, (steps, 4), and what was reported."""
    engine = Engine()
    losses, reports = [torch.empty(0, 4)], list[RunReport]()
    every = max(1, math.ceil(steps / REPORTS))
    score = validation_scores([replica])[0]

    def line(done: int, rate: float, left: str) -> str:
        return f"condensing: step {done}/{steps}, validation {100 * score:.1f} %, {left}"

    with Progress(steps, line, quiet=QUIET if on_report is None else math.inf) as progress:
        while True:
            share = comparison.share_of(score, full)
            reports.append(RunReport(replica.step, steps, named_losses(losses[-1][-1:]), score, share))
            if on_report is not None:
                on_report(reports[-1])
            progress.show(replica.step)
            if replica.step >= steps:
                break
            losses.append(engine.run([replica], min(every, steps - replica.step))[0])
            if replica.divergence is None:
                score = validation_scores([replica])[0]
            if replica.divergence is not None:
                break
    engine.leave(replica)
    return torch.cat(losses), reports
