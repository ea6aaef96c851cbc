"""What `python -m condense run | evaluate | embed` do. Each returns the exit status, or raises UserError."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condense import api
from condense.config.files import load_config, with_overrides
from condense.config.modalities import RATE, check_learning_rates
from condense.config.models import CondensationConfig, validate
from condense.data import modalities_of
from condense.data.dataset import MemorySplit
from condense.embeddings.embeddings import QUIET
from condense.embeddings.task import Task, load_task, load_test
from condense.evaluation.base_rate import no_better
from condense.evaluation.comparison import BALANCED, Comparison, Sample, as_json, compare, share_of
from condense.evaluation.convnet import check_shapes
from condense.evaluation.network_protocol import FAST, NetworkProtocol
from condense.evaluation.protocols import PROTOCOLS
from condense.evaluation.soft_labels import KINDS, check_teacher, recorded_teacher
from condense.evaluation.task_warnings import dataset_warnings, embedding_warnings
from condense.export.export import read_export, read_soft_labels
from condense.export.folder import RECORD, check_replaceable
from condense.storage.cache_folder import check_writable
from condense.storage.store import Store
from condense.system.devices import device_of, devices_of, named
from condense.system.errors import UserError
from condense.system.interruption import Interruption
from condense.system.live_line import LiveLine


def run(config_path: Path, output: Path, overrides: Sequence[str], device: str | None = None) -> int:
    """One condensation, exported to `output`. Status 1 if its loss was not finite: then nothing is exported.

    `device`: `cpu`, `cuda` or `cuda:1`, or several GPUs, `cuda:0,cuda:1`; by default the GPU if there is one. An interrupted run
    of the same goes on.
    """
    config = load_config(config_path, overrides)
    where = devices_of(device)
    check_output(output)
    with Interruption():
        return _run(config, output, where)


def _run(config: CondensationConfig, output: Path, devices: Sequence[torch.device]) -> int:
    device = devices[0]
    if device.index is not None:
        torch.cuda.set_device(device)  # else pinned memory takes some of the first GPU, too
    check_learning_rates(config.hyperparameters.own_rates, modalities_of(config.dataset))
    store = open_store()
    task = api.LoadedTask(config, _load(config, store, device), store, tuple(devices))
    shared = task.embedded
    warn(embedding_warnings(shared))
    for name in sorted(config.hyperparameters.model_fields_set):
        modality = name.removeprefix(RATE)
        given = getattr(config.hyperparameters, name) is not None
        if modality != name and given and modality not in task.modalities:
            print(f"warning: hyperparameters.{name} has no effect: the data has no {modality}", file=sys.stderr)
    if config.soft_labels != "none":
        check_teacher(shared, config.soft_labels)
    print(
        f"{_describe(shared)}; {_budget(shared, config.dpc)}, {config.steps} steps on {named(devices)}", file=sys.stderr
    )
    line = ReportLine(config.metric)
    try:
        result = api.run(
            task,
            config.hyperparameters,
            seed=config.seed,
            steps=config.steps,
            on_report=line.show,
            keep_beside=output,
        )
    except api.Diverged as error:
        print(f"error: {error}; nothing was written to {output}", file=sys.stderr)
        return 1
    finally:
        line.end()
    first, last = result.reports[0], result.reports[-1]
    print(f"start    {line.score(first)}\nend      {line.score(last)}")
    if config.metric == "accuracy":
        names = shared.dataset.class_names
        warn(no_better(shared.dataset.name, "validation", result.full_score, shared.validation.labels, names))
    if last.score < first.score:
        print(
            f"warning: the result scores below its start ({100 * last.score:.1f} % < {100 * first.score:.1f} %): "
            "try a lower learning rate, fewer steps or another setting",
            file=sys.stderr,
        )
    if config.soft_labels != "none":
        print(f"labelling by the full data's {config.soft_labels} (the first time takes longer)", file=sys.stderr)
        result = result.with_soft_labels(config.soft_labels)
    result.save(output)
    print(f"exported {len(result.labels)} items to {output} (look at {output / 'overview.png'})")
    print(f"next     python -m condense evaluate {output}")
    return 0


def evaluate(
    directory: Path,
    convnet_seeds: int,
    json_path: Path | None,
    *,
    protocols: Collection[str] = PROTOCOLS,
    protocol: NetworkProtocol = FAST,  # of the networks from scratch
    device: str | None = None,  # None: the GPU if there is one
    overrides: Sequence[str] = (),  # of the recorded configuration
) -> int:
    """A condensed dataset against chosen real items at equal budget and full data, on test: a table."""
    if "convnet" not in protocols:
        convnet_seeds = 0
    where = device_of(device)
    inputs, labels, record = read_export(directory)
    config = _recorded_config(directory, record, overrides)
    if json_path is not None:
        _check_writable(json_path)
    store = open_store()
    task = _load(config, store, where)
    _check_fingerprints(directory, record, task)
    if convnet_seeds and task.dataset.source is not None:
        print("ConvNets take inputs, not features: left out", file=sys.stderr)
        convnet_seeds = 0
    networks = bool(convnet_seeds) and task.dataset.num_classes > 1
    if convnet_seeds:
        check_shapes(task.dataset.specs)
    condensed, soft_labels = MemorySplit(inputs, labels), read_soft_labels(directory)
    teacher = None if soft_labels is None else _recorded_teacher(directory, record)
    if networks:
        print(_length(protocol, len(labels), len(task.condense.labels), task.device), file=sys.stderr)
    soft = None
    if soft_labels is not None and teacher is not None:
        soft = recorded_teacher(task, store, teacher, [(condensed, soft_labels)])
    comparison = Comparison(task, store, protocol=protocol)
    results = compare(
        comparison, {"condensed": [condensed]}, config.dpc, range(convnet_seeds), protocols=protocols, soft=soft
    )
    names = {
        "random": f"random ({max(len(sample.values) for sample in results['random'].values())} draws)",
        "full_data": f"full data ({len(task.condense.labels)} items)",
    }
    print(f"{_describe(task)}; {_budget(task, config.dpc)}; test: {len(comparison.test.labels)} items")
    if teacher is not None:
        print(f"soft labels by the full data's {teacher['teacher']}, temperature {teacher['temperature']:g}")
    print(table(results, names, protocol.label))
    rate = comparison.base_rate
    if BALANCED in results["full_data"]:
        print(f"always answering {rate.answer!r}: {100 * rate.share:.1f} % (balanced: the mean over classes)")
    if results["full_data"]["probe"].values:
        full = results["full_data"]["probe"].mean
        warn(no_better(task.dataset.name, "test", full, comparison.test.labels, task.dataset.class_names))
    if json_path is not None:
        content = {
            "directory": str(directory),
            "dataset": task.dataset.name,
            "dpc": config.dpc,
            "fingerprints": record["fingerprints"],
            **({} if teacher is None else {"soft_labels": teacher}),
            "protocol": _protocol(protocol, len(labels), len(task.condense.labels)) if networks else None,
            "results": as_json(results),
        }
        json_path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return 0


def embed(config_path: Path, overrides: Sequence[str], device: str | None = None) -> int:
    """Fills the cache with the embeddings of all three splits, saying what was there."""
    config = load_config(config_path, overrides)
    where = device_of(device)
    store = open_store(Reporting)
    task = _load(config, store, where, quiet=0.0)
    load_test(task, store, quiet=0.0)
    print(f"{_describe(task)}; cache: {store.folder}")
    return 0


def table(results: Mapping[str, Mapping[str, Sample]], names: Mapping[str, str], network: str = FAST.label) -> str:
    """Aligned columns: each protocol's value (± std over seeds) and its share of the full data's, in %.

    `names`: what rows are called; `network`: what the column of the networks from scratch is called.
    """
    full = results["full_data"]
    titles = {"probe": "linear probe", BALANCED: "balanced", "convnet": network, "retrieval": "retrieval"}
    shown = [key for key in titles if key != BALANCED or key in full]
    rows = [["", *(cell for key in shown for cell in (titles[key], "of full"))]]
    for method, of_protocol in results.items():
        row = [names.get(method, method)]
        for protocol in shown:
            sample = of_protocol[protocol]
            if not sample.values:
                row += ["-", "-"]
                continue
            spread = f" ± {100 * sample.std:.1f}" if len(sample.values) > 1 else ""
            share = share_of(sample.mean, full[protocol].mean)
            row += [f"{100 * sample.mean:.1f}{spread} %", "-" if share is None else f"{100 * share:.1f} %"]
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


class Reporting(Store):
    """A store that prints what it had and what had to be made."""

    def get_or_make(self, kind: str, key: Mapping[str, Any], make: Any) -> dict[str, Tensor]:
        made = False

        def making() -> Any:
            nonlocal made
            made = True
            return make()

        started = time.monotonic()
        tensors = super().get_or_make(kind, key, making)
        what = f"{kind} ({key['split']}, {len(tensors['label'])} items)" if kind == "embeddings" else f"encoder {kind}"
        took = f"computed in {time.monotonic() - started:.1f} s" if made else "found"
        print(f"{what:<36} {took:<20} {self.path(kind, key).name}")
        return tensors


def open_store(kind: type[Store] = Store) -> Store:
    """The user's store. Raises UserError if its folder cannot be written."""
    store = kind()
    check_writable(store.folder)
    return store


def check_output(output: Path) -> None:
    """Raises UserError if `export` would refuse `output`: better now than after the work."""
    output = output.resolve()
    try:
        check_replaceable(output)
        existing = next(parent for parent in output.parents if parent.exists())
        with tempfile.TemporaryDirectory(dir=existing, prefix=".condense-"):
            pass
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from None


def _check_writable(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{path}: cannot be written: --json needs a file in a folder that exists")


def _load(config: CondensationConfig, store: Store, device: torch.device, quiet: float = QUIET) -> Task:
    print(f"reading {config.dataset.name} through {config.encoder.name} (the first time takes longer)", file=sys.stderr)
    task = load_task(config, store, device, quiet)
    warn(dataset_warnings(task.dataset))
    return task


def warn(lines: Iterable[str]) -> None:
    """On stderr."""
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


class ReportLine:
    """How far a condensation is, on stderr: a bar on a terminal, elsewhere a line per report."""

    def __init__(self, metric: str) -> None:
        self.what = "validation" if metric == "accuracy" else f"validation {metric}"
        self.news = LiveLine(sys.stderr)
        self.line = ""

    def show(self, report: api.RunReport) -> None:
        losses = "".join(f"{name} {value:.4g}  " for name, value in (report.losses or {}).items())
        step = f"step {report.step:>{len(str(report.steps))}}/{report.steps}"
        score = self.score(report)
        self.line = f"{step}  {losses}{score}"
        self.news.show(self.line, report.step, report.steps, (f"{step}  {score}", losses))

    def score(self, report: api.RunReport) -> str:
        of_full = "" if report.share is None else f" ({100 * report.share:.1f} % of full data)"
        return f"{self.what} {100 * report.score:.1f} %{of_full}"

    def end(self) -> None:
        self.news.close(self.line)


def _protocol(protocol: NetworkProtocol, items: int, full: int) -> dict[str, Any]:
    """JSON-able: how the networks from scratch were trained, on so many items or on the full data."""
    return {
        "preset": protocol.name,
        "architecture": protocol.architecture,
        "steps": protocol.steps_for(items),
        "full_data_steps": protocol.steps_for(full),
    }


def _length(protocol: NetworkProtocol, items: int, full: int, device: torch.device) -> str:
    """How long the networks are trained."""
    steps = [protocol.steps_for(n) for n in (items, full)]
    more = "" if steps[0] == steps[1] else f", {steps[1]} on the full data"
    return f"{protocol.label}: {steps[0]} steps each{more}, on {device}"


def _budget(task: Task, dpc: int) -> str:
    items = f"{dpc} item{'s' if dpc > 1 else ''}"
    return f"{items} per class" if task.dataset.num_classes > 1 else f"{items} in all"


def _describe(task: Task) -> str:
    count = task.dataset.num_classes
    classes = f"{count} classes" if count > 1 else "no classes"
    return f"{task.dataset.name}: {classes}, {' + '.join(task.modalities)}"


def _recorded_config(directory: Path, record: Mapping[str, Any], overrides: Sequence[str]) -> CondensationConfig:
    path = directory / RECORD
    if not isinstance(record.get("config"), dict):
        raise UserError(f"{path}: must hold `config`, the configuration that the items were made with")
    if not isinstance(record.get("fingerprints"), dict):
        raise UserError(f"{path}: must hold `fingerprints` of dataset and encoder")
    keys = with_overrides(record["config"], overrides)
    return validate(
        CondensationConfig, keys, " ".join([f"{path}, `config`", *(["with", *overrides] if overrides else [])])
    )


def _recorded_teacher(directory: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The teacher of an export's soft labels."""
    known = record.get("soft_labels")
    if isinstance(known, dict) and known.get("teacher") in KINDS:
        temperature, steps = known.get("temperature"), known.get("steps", 0)
        if isinstance(temperature, int | float) and temperature > 0 and isinstance(steps, int) and steps >= 0:
            return known
    raise UserError(
        f"{directory / RECORD}: must hold `soft_labels`: {{teacher, temperature}}, whose labels soft_label are"
    )


def _check_fingerprints(directory: Path, record: Mapping[str, Any], task: Task) -> None:
    """Other data: what was condensed may be in test now, so nothing is scored. Another encoder: a warning."""
    known = record["fingerprints"]
    if known.get("dataset") != task.dataset.fingerprint:
        raise UserError(
            f"{directory}: the data of {task.dataset.name} have changed since this was condensed: condense it again"
        )
    if known.get("encoder") != task.encoder.fingerprint:
        print(f"warning: {directory}: the encoder differs from the one that condensed this", file=sys.stderr)
