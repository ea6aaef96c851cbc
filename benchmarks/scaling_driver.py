"""What the driver of a search does beside the trials, at thousands of them: propose, resume, model, report.

python benchmarks/scaling_driver.py --trials 5000 --json FILE

The trials are simulated (`simulated_ledger.py`); what reads them is the search's own code. Each figure comes from a process of
its own, since memory does not shrink:

- suggest_ms: a proposal (TPE) with 256 trials under way; median of 40, each after one that has ended.
- surrogate_s: the model of the trials and the plateau's setting.
- resume_s: from the output folder to the first trial that is handed out. Without MLflow's own part.
- report_mb: report.html, without the pictures and sounds of its gallery.
- driver_mb: largest resident memory of a process that does all of this, one after the other.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from provenance import provenance
from simulated_ledger import BEST, WAVE, report_at, simulate, space_of, truth

from search.analysis.failure_regions import regions
from search.analysis.importance import importances
from search.analysis.robustness import plateau_setting, response_pairs, responses, robust_region, surface_of
from search.analysis.surrogate import left_out, of_space, scored
from search.confirmation.trials_csv import write_trials_csv
from search.ledger.ledger import Ledger, TrialRecord
from search.report.model import Report
from search.report.page import write_html
from search.report.trials import Trial
from search.space.model import Space
from search.tracking.tracker import MlflowTracker
from search.tuning.resumption import Ready, up_to_date
from search.tuning.sampler import distributions

SPARE = 600  # trials that are still to be run
TURNS = 40  # proposals that are timed
TELL_EVERY = 30.0  # seconds


def driver_figures(trials: int) -> dict[str, float]:
    """{`suggest_ms`, `surrogate_s`, `resume_s`, `report_mb`, `driver_mb`} after so many trials."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "search"
        simulate(output, trials, lambda line: print(line, file=sys.stderr, flush=True))
        for part in PARTS:
            figures |= _in_its_own_process(part, output, trials)
    return {key: figures[key] for key in ("suggest_ms", "surrogate_s", "resume_s", "report_mb", "driver_mb")}


def _in_its_own_process(part: str, output: Path, trials: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--trials", str(trials), "--part", part, "--folder", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    started = time.monotonic()
    while True:
        try:
            said, _ = process.communicate(timeout=TELL_EVERY)
        except subprocess.TimeoutExpired:
            seconds = time.monotonic() - started
            print(f"{part}, {trials:,} trials: {seconds:.0f} s so far", file=sys.stderr, flush=True)
            continue
        if process.returncode:
            raise RuntimeError(f"{part} ended with status {process.returncode}")
        found: dict[str, float] = json.loads(said.splitlines()[-1])
        return found


def resumed(output: Path, trials: int) -> tuple[Space, Ledger, Ready]:
    """As the driver does it."""
    space = space_of(trials + SPARE)
    ledger = Ledger.open(output, space.model_dump(mode="json"), resume=True)
    silent = MlflowTracker("sqlite:///unused.db", "unused", ledger.search_id, space.name)  # never started
    return space, ledger, up_to_date(space, ledger, silent)


def resume(output: Path, trials: int) -> dict[str, float]:
    started = time.perf_counter()
    _, ledger, ready = resumed(output, trials)
    ready.searcher.suggest("first")
    seconds = time.perf_counter() - started
    ledger.close()
    return {"resume_s": seconds}


def suggest(output: Path, trials: int) -> dict[str, float]:
    return timed_proposals(*resumed(output, trials))


def timed_proposals(space: Space, ledger: Ledger, ready: Ready) -> dict[str, float]:
    """With as many trials under way as run side by side."""
    rng = np.random.default_rng(1)
    under_way: list[tuple[str, dict[str, Any]]] = []
    took = []
    for turn in range(WAVE + TURNS):
        started = time.perf_counter()
        config = ready.searcher.suggest(f"t{turn}")
        took.append(time.perf_counter() - started)
        assert isinstance(config, dict)
        under_way.append((f"t{turn}", config))
        if len(under_way) > WAVE:
            trial_id, own = under_way.pop(0)
            seeds = rng.normal(truth(space, {name: own[name] for name in BEST}), 0.01, 3)
            last = report_at(rng, seeds, space.steps, time.time())
            ledger.save(own["number"], space.steps, last["metrics"], last["curve"], b"")
            ready.searcher.on_trial_complete(trial_id, last["metrics"])
    return {"suggest_ms": 1e3 * median(took[-TURNS:]), "suggest_ms_at_most": 1e3 * max(took[-TURNS:])}


def surrogate(output: Path, trials: int) -> dict[str, float]:

    space, records = space_of(trials + SPARE), Ledger(output).trials()
    started = time.perf_counter()
    surface = surface_of(space, records)
    assert surface is not None
    plateau_setting(surface, space.confirmation.perturbed_decades)
    return {"surrogate_s": time.perf_counter() - started}


def report(output: Path, trials: int) -> dict[str, float]:

    space, records = space_of(trials + SPARE), [r for r in Ledger(output).trials() if r.status != "unfinished"]
    write_trials_csv(output / "trials.csv", records)
    page = write_html(output, _report(space, records), [Trial.of(r) for r in records], [])
    return {"report_mb": page.stat().st_size / 1e6}


def _report(space: Space, records: list[TrialRecord]) -> Report:
    """What the analysis makes of the trials, around a confirmation that is made up."""

    surface = surface_of(space, records)
    assert surface is not None
    known = scored(of_space(space, records), space.robust)
    importance = importances(space, known, distributions(space))
    statuses = [r.status for r in records]
    runs = {"mean": 0.93, "std": 0.01, "n": 10, "values": [0.93] * 10, "score": 0.92}
    apart = {"mean": 0.02, "ci95": [0.01, 0.03], "n": 10}
    default = space.params_of(space.default_trials()[1].hyperparameters)
    task = {"dataset": "simulated", "name": "simulated", "encoder": "tiny", "dpc": 1, "modalities": ["vision", "audio"],
            "class_names": list("0123456789"), "items": {"condense": 4800, "validation": 1200}, "metric": "accuracy",
            "full_score": 0.95, "fingerprints": {}, "device": "cpu"}  # fmt: skip
    return Report.model_validate(
        {
            "name": "simulated", "space": space, "seeds": {"search": [0, 1, 2], "choosing": [3, 4], "reporting": [5, 6]},
            "search_id": "simulated", "created": 1.78e9, "versions": {}, "tasks": [task],
            "trials": {status: statuses.count(status) for status in ("completed", "pruned", "failed")},
            "recommended": BEST, "default": default, "paper_default": default,
            "confirmation": {**dict.fromkeys(("recommended", "best", "paper_default", "default"), runs), "shrinkage": 0.0,
                             "difference": {**apart, "against": "default"}, "differences": {"default": apart}},
            "surrogate": {**surface.check.as_json(), **left_out(known)},
            "robust_region": robust_region(surface, BEST),
            "response": responses(surface, BEST), "response_pairs": response_pairs(surface, BEST),
            "importance": importance["ped_anova"], "importance_fanova": importance["fanova"],
            "diagnostics": regions(space, records), "test": {},
            "cost": {"seconds": 1.0, "trial_seconds": 1.0, "replica_steps": 1, "replica_steps_per_second": 1.0},
            "mlflow": {"tracking_uri": "", "experiment": "", "run_id": None},
        }
    )  # fmt: skip


def everything(output: Path, trials: int) -> dict[str, float]:
    own = resumed(output, trials)  # kept, as the driver keeps it
    timed_proposals(*own)
    surrogate(output, trials)
    report(output, trials)
    own[1].close()
    return {"driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


PARTS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "resume": resume,
    "surrogate": surrogate,
    "report": report,
    "suggest": suggest,
    "everything": everything,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=5000, help="that have ended")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        logging.disable(logging.WARNING)
        os.fsync = lambda _: None  # type: ignore[assignment]  # the disk's, not the driver's
        print(json.dumps(PARTS[options.part](options.folder, options.trials)))
        return 0
    figures = driver_figures(options.trials)
    print(f"after {options.trials:,} trials, {WAVE} at a time:")
    for key, value in figures.items():
        print(f"{key:<12}{value:10.1f}")
    if options.json is not None:
        told = {**provenance(), "trials": options.trials, **figures}
        options.json.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
