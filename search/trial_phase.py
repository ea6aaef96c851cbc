"""The trials of a search: everything that Ray Tune runs."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from search.analysis.deadline import Deadline, Ended
from search.interruption import GO_ON, Stopped
from search.ledger.ledger import Ledger
from search.space.model import Space
from search.space.plan import Plan

if TYPE_CHECKING:  # importing mlflow, as ray, costs seconds: only functions do it
    from search.tracking.tracker import MlflowTracker

log = logging.getLogger(__name__)
ALL = Ended("trials", "all trials have ended")
TUNES_SIGNALS = (signal.SIGINT, signal.SIGUSR1)
# Its closing word on trials that failed for good is an error; warnings are of files that it is told not to write.
TUNES_LOGGERS = {"ray.tune.tune": logging.CRITICAL, "ray.tune": logging.ERROR}


def run_trials(
    space: Space,
    ledger: Ledger,
    actors: Mapping[str, Any],
    plan: Plan,
    tracker: MlflowTracker,
    classes: list[int],
    say: Callable[[str], None] | None,
    deadline: Deadline,
    preparation: float,
) -> Ended | None:
    """Runs what is left of the search. Returns why there are no more trials; None if it was interrupted.

    `actors`: name -> handle, of the `pool` of engines and the `ledger`. `classes`: of each task. `say`: as in `Display`.
    `preparation`: seconds that data, encoder and embeddings took.
    """
    import ray
    from ray import tune

    from search.analysis.ranking import can_conclude
    from search.analysis.saturation import Saturation
    from search.interim import InterimReport
    from search.tuning.callbacks import SearchCallback
    from search.tuning.ending import Ending
    from search.tuning.resumption import up_to_date
    from search.tuning.trainable import run_trial

    ready = up_to_date(space, ledger, tracker, say, lambda: ending.ended is not None)
    display, searcher = ready.display, ready.searcher
    ending = Ending(space, ledger, plan, deadline, preparation, display.say, lambda: len(display.running))
    display.seconds_for_trials = lambda: ending.seconds_for_trials
    if left(ledger, space) <= 0:
        return ALL
    ending.look()
    if ending.ended is not None and can_conclude(space, ledger.trials()):
        return ending.ended
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    kind = space.resources.node_kind
    cpus = [of.get("CPU", 0.0) for of in nodes if kind is None or kind in of] or [of.get("CPU", 0.0) for of in nodes]
    resources = space.resources.of_trial(cpus, space.max_concurrent)
    snapshots = ledger.output / ".tune"  # which nobody reads: a search is resumed from its ledger
    trainable = tune.with_parameters(run_trial, plan=plan, **actors)
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            num_samples=-1,  # the searcher knows when it is done
            search_alg=searcher,
            scheduler=ready.scheduler,
            max_concurrent_trials=space.max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{os.getpid()}",
            storage_path=str(snapshots),
            stop=ending,
            callbacks=[SearchCallback(space, ledger, tracker, display, actors, Saturation(plan, classes))],
            failure_config=tune.FailureConfig(max_failures=3),
            progress_reporter=tune.CLIReporter(),  # silent; the one for notebooks would clear the cell
            verbose=0,
        ),
    )
    try:
        with tunes_traces_removed(), InterimReport(space, ledger.output):
            tuner.fit()
    except tune.TuneError as error:
        if isinstance(error.__context__, Stopped):  # raised by a callback
            raise error.__context__ from None
        raise
    finally:
        display.close()
        shutil.rmtree(snapshots, ignore_errors=True)
    for (node, gpu), seconds in ray.get(actors["pool"].accounts.remote()).items():
        spent = ", ".join(f"{kind} {amount:.1f} s" for kind, amount in seconds.items())
        log.info("engine on node %s%s: %s", node[:8], f", GPU {gpu}" if gpu else "", spent)
    if left(ledger, space) <= 0:
        ray.get(actors["pool"].discard.remote(plan.keeping))
        return ALL
    if ending.ended is not None and ending.stops:
        kept = [record.number for record in ledger.trials() if record.status == "unfinished"]
        ray.get(actors["pool"].forget.remote([f"trial {number}" for number in kept]))
        if not can_conclude(space, ledger.trials()):
            raise Stopped(f"{ending.ended.text}, before a trial has ended that could be recommended; {GO_ON}")
        display.say(f"{len(kept)} unfinished trials are kept: --resume goes on with them")
    return ending.ended if ending.stops or not searcher.runs else None


@contextlib.contextmanager
def tunes_traces_removed() -> Iterator[None]:
    """Restores what `Tuner.fit` leaves behind in the process: signal handlers, which would swallow the next Ctrl-C. And keeps its
    log from saying what the ledger and the report say."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # only there signals have handlers
    handlers = {number: signal.getsignal(number) for number in TUNES_SIGNALS} if in_main_thread else {}
    loggers = {logging.getLogger(name): level for name, level in TUNES_LOGGERS.items()}
    before = {logger: logger.level for logger in loggers}
    for logger, level in loggers.items():
        logger.setLevel(level)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for logger, level in before.items():
            logger.setLevel(level)


def load_tune(after: Future[Any]) -> None:
    """Imports Tune and Optuna, which takes seconds, unless what was to be done before has failed."""
    if after.exception() is None:
        importlib.import_module("search.tuning.searcher")


def left(ledger: Ledger, space: Space) -> int:
    """Trials that have not ended, or not begun; below 0 where a resumed search is to have fewer than have ended."""
    return space.trials - sum(record.status != "unfinished" for record in ledger.trials())
