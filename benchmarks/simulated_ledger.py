"""A search's output folder as thousands of real trials would leave it, without running them.

Shapes are those of a real search of the test space (300 steps, a report every 30, 3 seeds, ASHA): what a report holds, how long
curves are, what the study's journal says of a trial, how many are stopped early (most) or fail (one in fifty). Scores lie
on a known landscape, `truth`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import optuna
from optuna.storages.journal import BaseJournalBackend, JournalStorage
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from search.ledger.ledger import Ledger
from search.space.files import load_space
from search.space.model import Space, replica_seeds
from search.tuning.early_stopping import build_scheduler
from search.tuning.journal import STUDY
from search.tuning.sampler import distributions

STEPS, EVERY, WAVE = 300, 30, 256  # trials side by side
TERMS = ("loss/uni", "loss/cross", "loss/joint", "loss")
BEST = {"lambda_cross": 0.3, "lambda_joint": 0.05, "frequency_scale": 0.7, "learning_rate_vision": 0.3,
        "learning_rate_audio": 0.5}  # fmt: skip
STARTED = 1_780_000_000.0  # unix time of the first trial


def space_of(trials: int, *overrides: str) -> Space:
    """`spaces/quickstart.yaml` with that many trials, 256 at a time."""
    own = [
        f"trials={trials}",
        "max_concurrent=256",
        f"steps={STEPS}",
        f"report_every={EVERY}",
        f"scheduler.grace_steps={STEPS // 2}",
    ]
    return load_space("quickstart", [*own, *overrides])


def truth(space: Space, params: dict[str, Any]) -> float:
    """A setting's mean score, highest at `BEST`."""
    away = 0.0
    for name, best in BEST.items():
        d = space.search[name]
        assert d.low is not None and d.high is not None
        away += (math.log(params[name] / best) / math.log(d.high / d.low)) ** 2
    return 0.94 - 0.6 * away / (away + 0.5)


class _InMemory(BaseJournalBackend):
    """The journal's lines; a file would be read and synced once for each of them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return (json.loads(line) for line in self.lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lines += [json.dumps(log, separators=(",", ":")) for log in logs]


def simulate(output: Path, trials: int, tell: Callable[[str], None] = print, *overrides: str) -> Space:
    """Writes the ended trials of a search of `trials` and 600 more, which are still to be run. Returns its space."""
    space = space_of(trials + 600, *overrides)
    ledger = Ledger.open(output, space.model_dump(mode="json"), resume=False)
    rng = np.random.default_rng(0)
    journal = _InMemory()
    storage = JournalStorage(journal)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage, study_name=STUDY, direction="maximize")
    scheduler = build_scheduler(space)
    for first in range(0, trials, WAVE):
        wave = [_trial(space, rng, number) for number in range(first, min(first + WAVE, trials))]
        _stop_early(scheduler, wave)
        for record in wave:
            _write(ledger, record)
            _study(storage, study, space, record)
        tell(f"simulated {first + len(wave):,} of {trials:,} trials")
    (output / "optuna.journal").write_text("".join(f"{line}\n" for line in journal.lines))
    (output / "sessions.txt").write_text(f"{STARTED}\n")
    ledger.close()
    return space


def _trial(space: Space, rng: np.random.Generator, number: int) -> dict[str, Any]:
    """All that is known of a trial: {entry, reports, result}."""
    name = {0: "paper_default", 1: "default"}.get(number)
    hyperparameters = None
    if name is not None:
        hyperparameters = space.first_trials()[number].hyperparameters
        params = space.params_of(hyperparameters)
    else:
        near = rng.uniform() < 0.7 and number > 12  # a sampler has learnt
        params = {}
        for key, d in space.search.items():
            assert d.low is not None and d.high is not None
            at = math.exp(rng.uniform(math.log(d.low), math.log(d.high)))
            params[key] = float(min(max(BEST[key] * (at / BEST[key]) ** (0.3 if near else 1), d.low), d.high))
        hyperparameters = space.hyperparameters(params)
    fate = "failed" if name is None and rng.uniform() < 0.02 else "completed"
    until = STEPS if fate == "completed" else EVERY
    mean = truth(space, params) if name is None else 0.85
    seeds = rng.normal(mean, 0.01, 3)
    begins = STARTED + number // WAVE * 110.0 + number % WAVE * 0.01
    entry = {
        "number": number,
        "name": name,
        "params": params,
        "config": hyperparameters.model_dump(mode="json"),
        "seeds": replica_seeds(space),
        "created": begins,
    }
    reports = [report_at(rng, seeds, step, begins) for step in range(EVERY, until + 1, EVERY)]
    last = reports[-1]
    score = None if fate == "failed" else last["metrics"]["score"]
    error = "the loss/joint loss was not finite at step 31 (seed 1)" if fate == "failed" else None
    result = {"status": fate, "steps": until, "score": score, "error": error, "finished": last["time"] + 0.1}
    return {"entry": entry, "reports": reports, "result": result}


def _stop_early(scheduler: TrialScheduler, wave: list[dict[str, Any]]) -> None:
    """Lets the search's scheduler see the reports of trials that run side by side, and cuts off what it stops."""
    trials: list[Any] = [SimpleNamespace(trial_id=f"simulated {record['entry']['number']}") for record in wave]
    for trial in trials:
        scheduler.on_trial_add(cast(Any, None), trial)
    for turn in range(STEPS // EVERY):
        for trial, record in zip(trials, wave, strict=True):
            reports, result = record["reports"], record["result"]
            if turn >= len(reports):
                continue
            last = reports[turn]
            told = {"step": last["step"], "score": last["metrics"]["score"]}
            stopped = scheduler.on_trial_result(cast(Any, None), trial, told) == TrialScheduler.STOP
            if stopped and turn + 1 < STEPS // EVERY and result["status"] == "completed":
                del reports[turn + 1 :]
                ended = {"steps": last["step"], "score": told["score"], "finished": last["time"] + 0.1}
                result.update(status="pruned", **ended)
            if stopped or turn + 1 == len(reports):
                scheduler.on_trial_complete(cast(Any, None), trial, told)


def report_at(rng: np.random.Generator, seeds: np.ndarray, step: int, begins: float) -> dict[str, Any]:
    """A line of progress.jsonl, as `search.analysis.metrics.summarize` makes it, with the curve since the last one."""
    at = seeds - 0.25 * math.exp(-step / 60)
    steps = range(step - EVERY + 1, step + 1)
    curve = {"step": [float(s) for s in steps]}
    curve |= {term: [0.3 + math.exp(-s / 60) + 0.01 * rng.standard_normal() for s in steps] for term in TERMS}
    metrics = {
        "score": float(at.mean() - at.std(ddof=1)),
        "score_mean": float(at.mean()),
        "score_std": float(at.std(ddof=1)),
    }
    metrics |= {"seeds": 3.0, "step": float(step), "seconds": step / 3, "replica_steps": 3.0 * step}
    metrics |= {term: curve[term][-1] for term in TERMS}
    metrics |= {"accuracy": float(at.mean() * 0.95)}
    metrics |= {f"accuracy/seed_{i}": float(x * 0.95) for i, x in enumerate(at)}
    metrics |= {f"share/seed_{i}": float(x) for i, x in enumerate(at)}
    metrics |= {f"diagnostics/gradient_share/{m}": float(rng.uniform(0.3, 0.7)) for m in ("vision", "audio")}
    metrics |= {f"diagnostics/alone/{m}": float(rng.uniform(0.6, 0.9)) for m in ("vision", "audio")}
    metrics |= {"diagnostics/alignment": float(rng.uniform(1, 2))}
    return {
        "step": step,
        "time": begins + step / 3,
        "seconds": step / 3,
        "metrics": metrics,
        "curve": curve,
        "node": "here",
    }


def _write(ledger: Ledger, record: dict[str, Any]) -> None:
    folder = ledger.folder(record["entry"]["number"])
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps(record["entry"]))
    (folder / "progress.jsonl").write_text("".join(f"{json.dumps(report)}\n" for report in record["reports"]))
    (folder / "result.json").write_text(json.dumps(record["result"]))


def _study(storage: JournalStorage, study: optuna.Study, space: Space, record: dict[str, Any]) -> None:
    """What `search.tuning.searcher.SpaceSearcher` stores of a trial, in its order."""
    entry, result = record["entry"], record["result"]
    if entry["name"] is not None:
        now = datetime.now(UTC)
        placeholder = optuna.trial.create_trial(
            state=TrialState.FAIL, user_attrs={"name": entry["name"], "outside": True}
        )
        placeholder.datetime_start = placeholder.datetime_complete = now
        study.add_trial(placeholder)
        return
    trial = storage.create_new_trial(study._study_id)
    storage.set_trial_system_attr(trial, "tpe:relative_params:0", json.dumps(entry["params"]))
    for name, distribution in distributions(space).items():
        storage.set_trial_param(trial, name, distribution.to_internal_repr(entry["params"][name]), distribution)
    storage.set_trial_user_attr(trial, "ray_trial_id", f"{entry['number']:08x}")
    for report in record["reports"]:
        storage.set_trial_intermediate_value(trial, report["step"], report["metrics"]["score"])
    state = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[result["status"]]
    storage.set_trial_state_values(trial, state, [result["score"]] if result["status"] == "completed" else None)
