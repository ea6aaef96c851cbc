"""A whole search: checks, preparation, trials, confirmation, report."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from condense.storage.cache_folder import check_writable, default_folder, verify_variables
from condense.system.errors import UserError
from condense.system.live_line import LiveLine
from search.cluster.nodes import awaited_nodes, check_resources, wait_for_nodes
from search.cluster.ray_session import RaySession, check_address, prepare_environment, ray_session
from search.interruption import GO_ON, Stopped, announce_if_killed, caused_by_full_disk, stop_on_full_disk
from search.ledger.data_identity import check_data as check_data_identity
from search.ledger.data_identity import check_encoders, put_back_if_refused, record_data, recorded_search
from search.ledger.ledger import Ledger
from search.ledger.run_folder import absolute_folder
from search.preflight import (
    check_data,
    check_formations,
    check_learning_rates,
    check_output,
    data_warnings,
    missing_parts,
    shown,
    smallest,
)
from search.space.files import load_space, space_of
from search.space.model import Space, replica_seeds
from search.space.plan import Plan, cost_of_folds
from search.space.recorded import completed
from search.space.validation import folds_of, told
from search.tracking.store import absolute_uri, check_tracking, default_tracking_uri
from search.tuning.warm_start import earlier_settings, recorded, with_first_settings

log = logging.getLogger(__name__)
ENGINE_DEATHS = 3  # during the confirmation, before the search gives up
# How long the end of a search waits for a tracking server that is away. One that had to stop is waited for by its user.
SECONDS_FOR_MLFLOW = {"completed": 120, "interrupted": 20, "failed": 20, "stopped": 2}
TUNES_SIGNALS = (signal.SIGINT, signal.SIGUSR1)
# Its closing word on trials that failed for good is an error; warnings are of files that it is told not to write.
TUNES_LOGGERS = {"ray.tune.tune": logging.CRITICAL, "ray.tune": logging.ERROR}
PACKAGES = ("ray", "optuna", "mlflow", "torch", "numpy")


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    space: Space
    output: Path  # absolute
    resume: bool
    address: str | None
    tracking_uri: str
    ablate: bool = False  # only this, of a search that is complete

    @staticmethod
    def of(
        space: str | Path | Mapping[str, Any] | Space,
        *,
        overrides: Sequence[str] = (),
        name: str | None = None,
        output: Path | None = None,
        resume: bool = False,
        address: str | None = None,
        tracking_uri: str | None = None,
        warm_start: Path | None = None,
        ablate: bool = False,
    ) -> Request:
        """Raises UserError if the space is not valid, or there is nothing to start from in `warm_start`."""
        if name is not None:
            overrides = [*overrides, f"name={json.dumps(name)}"]
        if isinstance(space, str | Path):
            loaded = load_space(str(space), overrides)
        else:
            keys = space.model_dump(mode="json") if isinstance(space, Space) else space
            loaded = space_of(keys, overrides, str(keys.get("name", "space")))
        folder = absolute_folder(output or Path("results") / loaded.name)
        known = recorded(folder) if resume or ablate else None
        source = loaded.name
        if warm_start is not None and (resume or ablate):
            log.warning("--warm-start is left out: a search that has begun keeps to what it began with")
        elif warm_start is not None:
            if loaded.warm_start:
                raise UserError(f"{loaded.name}: the space has a `warm_start`: give that or --warm-start, not both")
            known, source = earlier_settings(warm_start, loaded), f"--warm-start {warm_start}"
        if known:
            loaded = with_first_settings(loaded, known, source)
        uri = absolute_uri(tracking_uri) if tracking_uri else default_tracking_uri(folder)
        return Request(loaded, folder, resume or ablate, address, uri, ablate)


def describe(request: Request) -> str:
    """What `--dry-run` prints: the validated space, and what is missing on this machine, or else what is remarkable in the data.
    Raises UserError for an output folder or data that the search itself would refuse."""
    check_output(request.output, request.space, request.resume, request.ablate)
    text = yaml.safe_dump(request.space.model_dump(mode="json"), sort_keys=False)
    folds = folds_of(request.space.validation)
    lines = [cost_of_folds(request.space, folds)] if folds > 1 else []
    missing = [f"missing: {what}" for what in missing_parts(request.space)]
    lines += missing or [f"warning: {what}" for what in data_warnings(request.space)]
    return "\n".join([text, f"# valid; would write to {request.output}", *(f"# {line}" for line in lines)])


class Search:
    """Runs a request to its end; going on after an interruption is the same code over the same ledger."""

    def __init__(self, request: Request, say: Callable[[str], None] | None = None) -> None:
        """`say` gets what the search has to tell, line by line; by default it is printed."""
        self.request = request
        self.space = request.space
        self.started = time.monotonic()
        self._say = say

    def say(self, text: str) -> None:
        if self._say is not None:
            self._say(text)
        else:
            LiveLine(sys.stdout).say(text)  # above the bar, if there is one

    def run(self) -> int:
        """Returns the exit status. Raises UserError for a user's mistake, before any work where that can be known."""
        prepare_environment()
        space, request = self.space, self.request
        check_data(space)
        check_output(request.output, space, request.resume, request.ablate)
        check_writable(default_folder())
        if request.address is not None:
            check_address(request.address)
        self.recorded = recorded_search(request.output)
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        ledger = Ledger.open(
            request.output,
            space.model_dump(mode="json"),
            resume=request.resume,
            versions=versions,
            complete=completed,
        )
        with announce_if_killed(), contextlib.closing(ledger), ThreadPoolExecutor(1) as executor:
            checked = executor.submit(check_tracking, request.tracking_uri)  # beside the start of Ray: seconds each
            loaded = executor.submit(load_tune, after=checked)
            with ray_session(request.address) as session, stop_on_full_disk(ledger.output):
                checked.result()
                self._wait_for_nodes(session)
                with contextlib.ExitStack() as at_end:
                    return self._with_ray(ledger, loaded, session, at_end)

    def _wait_for_nodes(self, session: RaySession) -> None:
        """Raises UserError if trials want what can never be had."""
        import ray

        expected = awaited_nodes(self.request.address)
        if expected is not None and not session.joined and self.request.address != "local":
            wait_for_nodes(ray.nodes, expected, self.say)
        here = ray.get_runtime_context().get_node_id()
        for warning in check_resources(ray.nodes(), here, self.space.resources, session.local):
            self.say(f"warning: {warning}")

    def _with_ray(self, ledger: Ledger, loaded: Future[Any], session: RaySession, at_end: contextlib.ExitStack) -> int:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from search.engine.client import Client
        from search.engine.devices import find_devices
        from search.engine.pool import EnginePool
        from search.engine.preparation import Preparation
        from search.tuning.referee import Referee

        space = self.space
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        carried = {"env_vars": verify_variables()}
        pool = ray.remote(EnginePool).options(num_cpus=0, scheduling_strategy=here, runtime_env=carried).remote()
        ledger_actor = ray.remote(Referee).options(num_cpus=0, scheduling_strategy=here).remote(ledger.output)
        if session.joined:  # Ray goes on
            at_end.callback(end_actors, [ledger_actor, pool])  # the pool's engines end with it
        configs = [task.model_dump(mode="json") for task in space.tasks]
        folds = folds_of(space.validation)
        times = f" x {folds} folds" if folds > 1 else ""
        self.say(f"{space.name}: {space.trials} trials x {space.seeds} seeds{times}, into {shown(ledger.output)}")
        preparing = time.monotonic()
        own = find_devices(space.resources).own  # the engine of a GPU whose trials need it, too
        preparation = Preparation(pool, Client(pool, "preparation", *own), self.say, space.resources.gpus_per_trial > 0)
        with put_back_if_refused(ledger.output, self.recorded):
            identities = [preparation.identify(task) for task in configs]
            check_data_identity(ledger.output, identities, configs)
            tasks = [preparation.describe(task) for task in configs]
            fingerprints = [task["fingerprints"] for task in tasks]
            check_encoders(ledger.output, fingerprints, configs)
        check_learning_rates(space, tasks)
        own_configs = configs
        limits = [task.pop("limits") for task in tasks]
        configs, judged = preparation.folds(space.validation, configs, tasks)
        if folds > 1:
            limits = smallest([task.pop("limits") for task in judged], folds)
        check_formations(space, tasks, limits)
        record_data(ledger.output, identities, fingerprints, own_configs)
        for task in tasks:
            count = len(task["class_names"])
            self.say(
                f"{task['dataset']} ({', '.join(task['modalities'])}): {task['items']['condense']} items in "
                f"{count} class{'es' if count > 1 else ''}, full-data validation {task['metric']} {task['full_score']:.3f}"
                f"{beside(task)}"
            )
            for warning in task["warnings"]:
                self.say(f"warning: {warning}")
        if folds > 1:
            self.say(told(configs, judged))
        self.say(f"data, encoder and embeddings ready after {time.monotonic() - preparing:.0f} s")
        loaded.result()  # two threads that import the same package get in each other's way
        from search.tracking.tracker import MlflowTracker
        from search.tuning.racing import stages
        from search.tuning.window import slow_sampler

        if (slow := slow_sampler(space)) is not None:
            self.say(f"warning: {slow}")
        plan = Plan(
            configs,
            replica_seeds(space),
            space.report_steps,
            space.robust,
            space.resources.cpus_per_trial,
            space.racing,
            tuple(space.objectives[1:]),
            folds,
        )
        longest = space.steps * len(stages(space.racing, space.seeds))
        tracker = MlflowTracker(self.request.tracking_uri, "condensation", ledger.search_id, space.name, longest)
        tracker.start(
            {"space": space.name, "seeds": space.seeds, "steps": space.steps, "sampler": space.sampler.name},
            {"output": str(ledger.output)},
        )
        status = "failed"
        try:
            classes = [len(task["class_names"]) for task in judged]
            complete = self.request.ablate or self._trials(ledger, pool, ledger_actor, plan, tracker, classes)
            if complete:
                self._close(ledger, pool, plan, tasks, judged, tracker)
            status = "completed" if complete else "interrupted"
        except KeyboardInterrupt:
            status = "interrupted"
        except Stopped:
            status = "stopped"
            raise
        except Exception as error:
            status = "stopped" if caused_by_full_disk(error) else "failed"
            raise
        finally:
            # The search that is looked at again is complete, whatever happens to the ablation.
            tracker.finish("completed" if self.request.ablate else status, SECONDS_FOR_MLFLOW[status])
        if status == "interrupted":
            self.say(f"interrupted: continue with the same command and --resume (output: {shown(ledger.output)})")
            return 130
        return 0

    def _close(
        self,
        ledger: Ledger,
        pool: Any,
        plan: Plan,
        tasks: list[dict[str, Any]],
        judged: list[dict[str, Any]],
        tracker: Any,
    ) -> None:
        """Confirmation and results, or the ablation; begun again in a new engine if one dies (what was run is on disk)."""
        import ray

        from search.conclusion import Conclusion

        for more in reversed(range(ENGINE_DEATHS + 1)):
            try:
                known = self.space, ledger, pool, plan, tasks, judged, tracker, self.say, self.started
                conclusion = Conclusion(*known)
                conclusion.ablate() if self.request.ablate else conclusion.write()
                return
            except (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError):  # the latter: with its node
                if not more:
                    raise Stopped(f"the Ray cluster was lost, or engines keep dying; {GO_ON}") from None
                self.say("the engine died; continuing in a new one")

    def _trials(
        self, ledger: Ledger, pool: Any, ledger_actor: Any, plan: Any, tracker: Any, classes: list[int]
    ) -> bool:
        """Runs what is left of the search; True when all trials have ended."""
        import ray
        from ray import tune

        from search.analysis.saturation import Saturation
        from search.tuning.callbacks import SearchCallback
        from search.tuning.resumption import up_to_date
        from search.tuning.trainable import run_trial

        space = self.space
        ready = up_to_date(space, ledger, tracker, self._say)
        if left(ledger, space) <= 0:
            return True
        display = ready.display
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        kind = space.resources.node_kind
        cpus = [of.get("CPU", 0.0) for of in nodes if kind is None or kind in of] or [
            of.get("CPU", 0.0) for of in nodes
        ]
        resources = space.resources.of_trial(cpus, space.max_concurrent)
        actors = {"pool": pool, "ledger": ledger_actor}
        trainable = tune.with_parameters(run_trial, pool=pool, ledger=ledger_actor, plan=plan)
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                num_samples=-1,  # the searcher knows when it is done
                search_alg=ready.searcher,
                scheduler=ready.scheduler,
                max_concurrent_trials=space.max_concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=f"tune-{os.getpid()}",
                storage_path=str(ledger.output / ".tune"),
                callbacks=[SearchCallback(space, ledger, tracker, display, actors, Saturation(plan, classes))],
                failure_config=tune.FailureConfig(max_failures=3),
                progress_reporter=tune.CLIReporter(),  # silent; the one for notebooks would clear the cell
                verbose=0,
            ),
        )
        try:
            with tunes_traces_removed():
                tuner.fit()
        except tune.TuneError as error:
            if isinstance(error.__context__, Stopped):  # raised by a callback
                raise error.__context__ from None
            raise
        finally:
            display.close()
        for (node, gpu), seconds in ray.get(pool.accounts.remote()).items():
            spent = ", ".join(f"{kind} {amount:.1f} s" for kind, amount in seconds.items())
            log.info("engine on node %s%s: %s", node[:8], f", GPU {gpu}" if gpu else "", spent)
        return left(ledger, space) <= 0


def beside(task: Mapping[str, Any]) -> str:
    """What an accuracy of unbalanced classes is told beside."""
    rate = task.get("base_rate")
    if rate is None:
        return ""
    return f" (balanced {task['full_balanced']:.3f}; always answering {rate[0]!r}: {rate[1]:.3f})"


def end_actors(actors: Sequence[Any]) -> None:
    """Ends actors of this search, whether or not their cluster is still there."""
    import ray

    for actor in actors:
        with contextlib.suppress(Exception):
            ray.kill(actor)


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
        importlib.import_module("search.tuning.sampler")


def left(ledger: Ledger, space: Space) -> int:
    """Trials that have not ended, or not begun; below 0 where a resumed search is to have fewer than have ended."""
    return space.trials - sum(record.status != "unfinished" for record in ledger.trials())
