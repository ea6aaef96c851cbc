"""A whole search: checks, preparation, trials, confirmation, report."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import yaml

from condense.storage.cache_folder import check_writable, default_folder, verify_variables
from condense.system.live_line import LiveLine
from search.analysis.deadline import Deadline, Ended
from search.cluster.nodes import awaited_nodes, check_resources, wait_for_nodes
from search.cluster.ray_session import RaySession, check_address, prepare_environment, ray_session
from search.interruption import GO_ON, Stopped, announce_if_killed, caused_by_full_disk, stop_on_full_disk
from search.ledger.data_identity import check_data as check_data_identity
from search.ledger.data_identity import check_encoders, put_back_if_refused, record_data, recorded_search
from search.ledger.experiment import check_experiment, record_experiment, recorded_experiment
from search.ledger.imports import import_trials
from search.ledger.ledger import Ledger
from search.ledger.requests import CONCLUDE, ask, take
from search.ledger.run_folder import changed_proposals
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
from search.request import Request as Request
from search.space.model import replica_seeds
from search.space.plan import Keeping, Plan, cost_of_folds, sampler_notes
from search.space.recorded import completed
from search.space.validation import folds_of, told
from search.tracking.store import check_tracking
from search.trial_phase import ALL, load_tune, run_trials

ENGINE_DEATHS = 3  # during the confirmation, before the search gives up
# How long the end of a search waits for a tracking server that is away. One that had to stop is waited for by its user.
SECONDS_FOR_MLFLOW = {"completed": 120, "interrupted": 20, "failed": 20, "stopped": 2}
PACKAGES = ("ray", "optuna", "mlflow", "torch", "numpy")


def describe(request: Request) -> str:
    """What `--dry-run` prints: the validated space, and what is missing on this machine, or else what is remarkable in the data.
    Raises UserError for an output folder or data that the search itself would refuse."""
    check_output(request.output, request.space, request.resume, request.ablate)
    check_experiment(request.output, request.experiment, request.resume)
    text = yaml.safe_dump(request.space.model_dump(mode="json"), sort_keys=False)
    folds = folds_of(request.space.validation)
    lines = [cost_of_folds(request.space, folds)] if folds > 1 else []
    lines += sampler_notes(request.space) + ([] if request.note is None else [request.note])
    missing = [f"missing: {what}" for what in missing_parts(request.space)]
    lines += missing or [f"warning: {what}" for what in data_warnings(request.space)]
    return "\n".join([text, f"# valid; would write to {request.output}", *(f"# {line}" for line in lines)])


class Search:
    """Runs a request to its end; going on after an interruption is the same code over the same ledger."""

    def __init__(
        self, request: Request, say: Callable[[str], None] | None = None, started: float | None = None
    ) -> None:
        """`say` gets what the search has to tell, line by line; by default it is printed. `started`: when its command did, by
        `time.monotonic`."""
        self.request = request
        self.space = request.space
        self.started = time.monotonic() if started is None else started
        self.deadline = Deadline(self.space.budget.hours, self.started)
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
        check_experiment(request.output, request.experiment, request.resume)
        check_writable(default_folder())
        if space.storage is not None:
            from search.engine.state_files import check_storage

            check_storage(space.storage)
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
            take(ledger.output)  # what an earlier process was asked for
            self._tell_changes(ledger)
            if request.note is not None:
                self.say(request.note)
            if request.imports is not None:
                import_trials(ledger, request.imports)
            if request.conclude:
                ask(ledger.output, CONCLUDE)
            experiment = record_experiment(ledger, request.experiment, request.resume)
            checked = executor.submit(
                check_tracking, request.tracking_uri, experiment
            )  # beside Ray's start: seconds each
            loaded = executor.submit(load_tune, after=checked)
            with ray_session(request.address) as session, stop_on_full_disk(ledger.output):
                checked.result()
                self._wait_for_nodes(session)
                with contextlib.ExitStack() as at_end:
                    return self._with_ray(ledger, loaded, session, at_end)

    def _tell_changes(self, ledger: Ledger) -> None:
        if self.request.resume:
            before = completed(json.loads(self.recorded)["space"])
            if changed := changed_proposals(before, ledger.search["space"]):
                self.say(f"going on with other {', '.join(f'`{key}`' for key in changed)} than before")

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

        from search.cluster.turns import pool_when_free
        from search.engine.client import Client
        from search.engine.devices import find_devices
        from search.engine.left_out import NoDeviceLeft, no_device_left, tell_left_out
        from search.engine.pool import EnginePool
        from search.engine.preparation import Preparation
        from search.tuning.referee import Referee

        space = self.space
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        carried = {"env_vars": verify_variables()}
        own_name = f"{space.name}, into {ledger.output} on {socket.gethostname()}"
        options = {"num_cpus": 0, "scheduling_strategy": here, "runtime_env": carried}
        pool: Any = pool_when_free(EnginePool, own_name, self.say, **options)
        ledger_actor = ray.remote(Referee).options(num_cpus=0, scheduling_strategy=here).remote(ledger.output)
        if session.joined:  # Ray goes on
            at_end.callback(end_actors, [ledger_actor, pool])  # the pool's engines end with it
        configs = [task.model_dump(mode="json") for task in space.tasks]
        folds = folds_of(space.validation)
        times = f" x {folds} folds" if folds > 1 else ""
        self.say(f"{space.name}: {space.trials} trials x {space.seeds} seeds{times}, into {shown(ledger.output)}")
        preparing = time.monotonic()
        devices = find_devices(space.resources)
        ray.get(pool.use.remote(devices.workers))
        try:
            client = Client(pool, "preparation", *devices.own, stays=True)  # where trials need a GPU, too, that one's
        except NoDeviceLeft as error:
            raise no_device_left(f"this host prepares the data and writes the results, but {error}") from None
        preparation = Preparation(pool, client, self.say, space.resources.gpus_per_trial > 0)
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
        self.prepared = time.monotonic() - preparing
        self.say(f"data, encoder and embeddings ready after {self.prepared:.0f} s")
        loaded.result()  # two threads that import the same package get in each other's way
        from search.tracking.shared_view import view_of
        from search.tracking.tracker import MlflowTracker
        from search.tuning.racing import stages
        from search.tuning.window import slow_sampler

        for note in sampler_notes(space):
            self.say(note)
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
            Keeping(ledger.search_id, space.storage, space.checkpoint_every),
        )
        tracker = MlflowTracker(
            self.request.tracking_uri,
            recorded_experiment(ledger.output),
            ledger.search_id,
            space.name,
            space.steps * len(stages(space.racing, space.seeds)),
        )
        tracker.start(
            {"space": space.name, "seeds": space.seeds, "steps": space.steps},
            {"output": str(ledger.output), "sampler": space.sampler_name},
            view_of(space, plan, ledger.search_id),
        )
        status = "failed"
        try:
            classes = [len(task["class_names"]) for task in judged]
            actors = {"pool": pool, "ledger": ledger_actor}
            known = actors, plan, tracker, classes, self._say, self.deadline, self.prepared
            ended = ALL if self.request.ablate else run_trials(space, ledger, *known)
            if ended is not None:
                self._close(ledger, pool, plan, tasks, judged, tracker, ended)
                tell_left_out(pool, self.say)
            status = "interrupted" if ended is None else "completed"
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
            patience = min(SECONDS_FOR_MLFLOW[status], max(SECONDS_FOR_MLFLOW["stopped"], self.deadline.seconds_left))
            tracker.finish("completed" if self.request.ablate else status, patience)
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
        ended: Ended,
    ) -> None:
        """Confirmation and results, or the ablation; begun again in a new engine if one dies (what was run is on disk)."""
        import ray

        from search.conclusion import Conclusion
        from search.engine.left_out import NoDeviceLeft, no_device_left

        for more in reversed(range(ENGINE_DEATHS + 1)):
            try:
                known = self.space, ledger, pool, plan, tasks, judged, tracker, self.say, self.started
                conclusion = Conclusion(*known, ended=ended, deadline=self.deadline, preparation=self.prepared)
                conclusion.ablate() if self.request.ablate else conclusion.write()
                return
            except NoDeviceLeft as error:
                raise no_device_left(error) from None
            except (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError):  # the latter: with its node
                if not more:
                    raise Stopped(f"the Ray cluster was lost, or engines keep dying; {GO_ON}") from None
                self.say("the engine died; continuing in a new one")


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
