"""Searches from Python: `search.run(...)` and `search.resume(...)`, which the command line is a shell over.

A search runs in this process, from any thread. Where Ray is started already it joins it and leaves it running; else it starts
its own and ends it. One search at a time per process: Ray Tune allows no more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from condense.system.errors import UserError
from search.analysis.ranking import can_conclude
from search.driver import Search
from search.ledger.imports import imported_trials
from search.ledger.ledger import Ledger
from search.ledger.requests import CONCLUDE, ask
from search.ledger.requests import stop_trial as ask_trial_to_stop
from search.ledger.run_folder import check_search, is_in_use
from search.request import Request
from search.results import Results, load
from search.run_status import status
from search.space.model import Space
from search.space.recorded import completed

SECONDS_BETWEEN_LOOKS = 0.5  # at a search that was asked to end
_one_at_a_time = threading.Lock()
Overrides = Mapping[str, Any] | Sequence[str]


def run(
    space: str | Path | Mapping[str, Any] | Space = "quickstart",
    *,
    output: str | Path | None = None,
    trials: int | None = None,
    hours: float | None = None,
    name: str | None = None,
    overrides: Overrides = (),
    address: str | None = None,
    tracking_uri: str | None = None,
    warm_start: str | Path | None = None,
    experiment: str | None = None,
    auto_resume: bool = False,
    say: Callable[[str], None] | None = None,
) -> Results:
    """Runs a search to its end: trials, confirmation on fresh seeds, report.

    `space`: the name of a shipped one, a YAML file, its keys as a mapping, or a `Space`. `overrides`: keys of the space, as a
    mapping (`{"steps": 30, "sampler.name": "gp"}`) or as on the command line (`["steps=30"]`). `output`: folder of the
    results, by default results/NAME. `trials`, `hours` (--time), `name`, `address`, `tracking_uri`, `warm_start`, `experiment`
    and `auto_resume` are the options of `python search/run.py`. `say` gets what the search has to tell, line by line; by default
    it is printed.

    Raises:
        UserError: something in the request is wrong; nothing was begun, and the message is one line.
        Stopped: the search had to stop (a full disk, a lost cluster). What is done is kept: `resume` goes on.
        KeyboardInterrupt: it was interrupted; likewise.
    """
    request = Request.of(
        space,
        overrides=[*_lines(overrides), *_limits(trials, hours)],
        name=name,
        output=None if output is None else Path(output),
        address=address,
        tracking_uri=tracking_uri,
        warm_start=None if warm_start is None else Path(warm_start),
        experiment=experiment,
        auto_resume=auto_resume,
    )
    return _run(request, say)


def resume(
    folder: str | Path,
    *,
    trials: int | None = None,
    hours: float | None = None,
    overrides: Overrides = (),
    address: str | None = None,
    tracking_uri: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Results:
    """Goes on with the search in `folder` after an interruption, or with more `trials`. It keeps to the recorded space;
    `overrides` may change how much is run (`budget`, `max_concurrent`, `confirmation`, `resources`), and what is proposed next
    (`search`, `constraints`, `sampler`, `scheduler`, `objectives`). It has the recorded `budget.hours`, or `hours`, again. Raises
    as `run`.
    """
    return _run(_recorded(folder, _limits(trials, hours), overrides, address, tracking_uri), say)


def ablate(
    folder: str | Path,
    *,
    address: str | None = None,
    tracking_uri: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Results:
    """After a search: re-runs its recommended setting with each loss term alone and with each removed, on fresh seeds.

    The table is in the report (`Results.report.ablation`) and in ablation.csv. Raises as `run`.
    """
    return _run(_recorded(folder, [], (), address, tracking_uri, ablate=True), say)


def conclude(
    folder: str | Path,
    *,
    address: str | None = None,
    tracking_uri: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Results:
    """Ends the search in `folder` with the trials that it has: confirms them, and writes the report. One that runs, in another
    process, is asked to do so, and waited for. Trials that have not ended are kept: `resume` goes on with them.

    Raises as `run`; UserError also if no trial has ended that could be recommended, or if the search that was asked ended without
    a report.
    """
    path = Path(folder).absolute()
    known, tell = status(path), say or print
    if known.state == "complete":
        tell(f"{known.name}: the search is complete: {path / 'report.html'}")
        return load(path)
    ledger = Ledger(path)
    if not can_conclude(Space.model_validate(completed(ledger.search["space"])), ledger.trials()):
        raise UserError(f"{path}: no trial has ended that could be recommended, so there is nothing to confirm yet")
    if known.state == "stopped":
        return _run(_recorded(path, [], (), address, tracking_uri, conclude=True), say)
    ask(path, CONCLUDE)
    tell(f"{known.name}: asked to end its trials, to confirm what there is, and to write the report")
    while is_in_use(path):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if (ended := status(path)).state != "complete":
        raise UserError(f"{path}: the search has ended without a report ({ended}): conclude it again")
    tell(f"{known.name}: {path / 'report.html'}")
    return load(path)


def stop_trial(folder: str | Path, number: int, *, say: Callable[[str], None] | None = None) -> None:
    """Ends trial `number` of the search that runs in `folder`, in another process, at its next report, and waits for that. It
    keeps its scores so far, and counts as stopped early.

    Raises UserError if no search runs there, the trial does not run, or the search ends before it.
    """
    path, tell = Path(folder).absolute(), say or print
    known = status(path)
    if known.state != "running":
        raise UserError(f"{path}: no search runs there ({known.state}), so there is no trial to stop")
    ledger = Ledger(path)
    record = ledger.trial(number)
    if record is None or record.status != "unfinished":
        running = ", ".join(str(r.number) for r in ledger.trials() if r.status == "unfinished") or "none"
        ended = "has not begun" if record is None else f"has ended: {record.status}"
        raise UserError(f"{path}: trial {number} {ended}; running: {running}")
    ask_trial_to_stop(path, number)
    tell(f"trial {number}: asked to end at its next report")
    while (record := ledger.trial(number)) is not None and record.status == "unfinished":
        if not is_in_use(path):
            raise UserError(
                f"{path}: the search has ended before trial {number}, which --resume would end at its next report"
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)
    assert record is not None
    score = "without a score" if record.score is None else f"score {record.score:.3f}"
    tell(f"trial {number}: {record.status} after step {record.steps}, {score}")


def _recorded(
    folder: str | Path,
    limits: Sequence[str],
    overrides: Overrides,
    address: str | None,
    tracking_uri: str | None,
    ablate: bool = False,
    conclude: bool = False,
) -> Request:
    path = Path(folder).absolute()
    check_search(path)
    space = completed(Ledger(path).search["space"])
    space["trials"] -= imported_trials(path)  # which the request adds
    return Request.of(
        space,
        overrides=[*_lines(overrides), *limits],
        output=path,
        resume=not ablate,
        address=address,
        tracking_uri=tracking_uri,
        ablate=ablate,
        conclude=conclude,
    )


def _run(request: Request, say: Callable[[str], None] | None) -> Results:
    if not _one_at_a_time.acquire(blocking=False):
        raise UserError("a search is running in this process: Ray Tune allows one at a time; start another process")
    try:
        if Search(request, say).run() != 0:
            raise KeyboardInterrupt(f"the search was interrupted: search.resume({str(request.output)!r}) goes on")
    finally:
        _one_at_a_time.release()
    return load(request.output)


def _limits(trials: int | None, hours: float | None) -> list[str]:
    """As overrides."""
    known = {"trials": trials, "budget.hours": hours}
    return [f"{key}={value}" for key, value in known.items() if value is not None]


def _lines(overrides: Overrides) -> list[str]:
    """As on the command line."""
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{key}={yaml.safe_dump(value, default_flow_style=True, width=10**9)}" for key, value in overrides.items()]
