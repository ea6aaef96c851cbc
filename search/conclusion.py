"""What a complete search leaves: report.json, report.html, trials.csv, best.yaml, condensed/, and the same in MLflow."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
import yaml

from condense.config.models import Hyperparameters
from condense.system.errors import UserError
from search.analysis.coordinates import Coordinates
from search.analysis.cost import (
    fewest_confirmation_runs,
    fewest_reporting_seeds,
    most_confirmation_runs,
    race,
    replica_steps,
    tuned_rates_runs,
)
from search.analysis.deadline import SECONDS_TO_REPORT, Deadline, Ended, Pace, seconds_after_runs
from search.analysis.failure_regions import regions
from search.analysis.importance import importances
from search.analysis.paired import Paired
from search.analysis.pareto import pareto
from search.analysis.ranking import best_by_single_seed, best_trial, best_trials
from search.analysis.robustness import QUANTILE, around, sensitivity, surface_of
from search.analysis.saturation import Saturation
from search.analysis.sequential import looks
from search.analysis.surrogate import Surface, informative, left_out, of_space, scored
from search.analysis.transfer import task_names, transfer
from search.confirmation.ablation import FULL, ablation_table, ablations, lines, write_csv
from search.confirmation.held_out import HeldOut
from search.confirmation.perturbation import REPORTING, run_around
from search.confirmation.reporting import ReportingPlan, known_around, movable, wanted_seeds
from search.confirmation.selection import PLATEAU, Choice, choose, measured
from search.confirmation.stages import ConfirmationStages
from search.confirmation.trials_csv import write_trials_csv
from search.engine.preparation import fetch
from search.ledger.atomic_files import write_json
from search.ledger.ledger import Ledger, TrialRecord
from search.ledger.run_folder import condensed_folder, task_suffix
from search.report.confirmed import SINGLE_SEED, confirmed_settings, judgement, metric_of, on_test
from search.report.gallery import across_steps
from search.report.model import Report
from search.report.page import write_html
from search.report.text import count, duration, label
from search.report.trials import Trial
from search.report.verdict import Verdict
from search.space.model import Space
from search.space.plan import Plan, with_tasks
from search.summary import say_results
from search.tracking.tracker import MlflowTracker
from search.tuning.sampler import distributions

PREVIEW_TRIALS = 3  # trials whose synthetic items are shown in MLflow
Say = Callable[[str], None]


class Conclusion:
    """Confirmation, final evaluation and everything that is written from them. Can be run again after a kill."""

    def __init__(
        self,
        space: Space,
        ledger: Ledger,
        pool: Any,
        plan: Plan,
        tasks: list[dict[str, Any]],
        judged: list[dict[str, Any]],
        tracker: MlflowTracker,
        say: Say,
        started: float,
        *,
        ended: Ended,
        deadline: Deadline,
        preparation: float = 0.0,
    ) -> None:
        """`space`: the user's. `tasks`: its tasks as `EngineActor.describe` has them; `judged`: those of `plan`, the folds where
        there are some. What runs, and is compared, are those; results are the user's tasks'. `ended`: why there were no more
        trials. `deadline`: of all this. `preparation`: seconds that data, encoder and embeddings took.
        """
        self.own_space, self.ledger, self.plan, self.tracker, self.say = space, ledger, plan, tracker, say
        self.space = with_tasks(space, plan.tasks)
        self.tasks = [{**task, "name": name} for task, name in zip(tasks, task_names(tasks), strict=True)]
        self.judged = judged
        self.started, self.began = started, time.monotonic()
        self.output = ledger.output
        self.ended, self.deadline = ended, deadline
        pace = Pace.of(self.space, ledger.trials())
        after = seconds_after_runs(pace, len(tasks), preparation)
        self.trial_seconds, self.run_seconds = (0.0, 0.0) if pace is None else (pace.whole, pace.run(self.space))
        limits = (lambda: deadline.seconds_left - after), self.run_seconds
        self.confirmation = ConfirmationStages(self.space, ledger, pool, plan, say, *limits)

    def write(self) -> Report:
        """Everything, the report included. Raises UserError if no trial of the search completed."""
        write_trials_csv(self.output / "trials.csv", self.ledger.trials())
        records = self._ended_trials()
        confirmation = self.confirmation
        self.say(
            "choosing among the best trials, the plateau's setting and the published ones on fresh seeds, more where it is open"
        )
        most = most_confirmation_runs(self.space, records, self.plan.folds)
        runs = max(min(most, confirmation.left_in_time), fewest_confirmation_runs(self.space, self.plan.folds))
        seconds = runs * self.run_seconds
        self.say(
            f"up to {runs:,} runs of {self.space.steps:,} steps until the end, at most some {duration(round(seconds))}"
        )
        surface = surface_of(self.space, records)
        published = {d.name: d.hyperparameters for d in self.space.default_trials()}
        published["mmd"] = Hyperparameters.model_validate(confirmation.tuned_mmd())
        choice = choose(
            self.space,
            records,
            surface,
            confirmation.shares,
            confirmation.choosing_seeds,
            published,
            self._compare_on_choosing_seeds,
            confirmation.affords,
            log_losses=confirmation.log_losses,
        )
        if choice is None:
            raise UserError(f"{self.output}: every trial of the search failed, so nothing can be recommended")
        if choice.stopped == "budget":
            choice = replace(choice, stopped=confirmation.limited_by)
        settings = self._settings(records, choice, published)
        singles = {f"{SINGLE_SEED}/{r.number}": r.config for r in best_by_single_seed(records, self.plan)}
        around = movable(self.space, records, choice)
        wanted = wanted_seeds(self.space, choice, confirmation.choosing_seeds, self._compare_on_choosing_seeds)
        planned = confirmation.plan_report(settings, singles, wanted, len(around))
        seeds = confirmation.reporting_seeds
        self.say(f"confirming {label(choice.chosen.label)} against the others on {count(len(seeds), 'other seed')}")
        confirmation.baselines(seeds)  # opens test on this node, whose embeddings then reach the others
        results = confirmation.run(settings, seeds, "reporting", test=True)
        if planned.single:
            results |= confirmation.run(singles, seeds[: planned.single], "reporting")
        report = self._report(records, choice, surface, results, self._perturbation(choice, around, planned))
        write_json(self.output / "report.json", report.as_json())
        self._best_yaml(choice.chosen.config, report)
        gallery = self._export(choice.chosen.config)
        write_html(self.output, report, [Trial.of(r) for r in records], gallery)
        self._to_mlflow(report, best_trials(records, PREVIEW_TRIALS))
        say_results(report, self.output, self.tracker, self.ledger.search_id, self.say)
        return report

    def ablate(self) -> Report:
        """Each loss term alone and left out, on the reporting seeds; added to what `write` has left."""
        report = Report.load(self.output)
        config = Hyperparameters.model_validate(
            yaml.safe_load((self.output / "best.yaml").read_text())["hyperparameters"]
        )
        settings = ablations(config.model_dump(mode="json"))
        seeds = self.confirmation.reporting_seeds = report.seeds.reporting
        self.say(f"ablation: {len(settings)} sets of loss terms on {count(len(seeds), 'seed')}")
        results = self.confirmation.run(settings, seeds, "ablation", test=True)
        values, test = (
            {k: self.confirmation.per_seed(r, key) for k, r in results.items()} for key in ("shares", "test")
        )
        report = Report.model_validate({**report.as_json(), "ablation": ablation_table(values, test)})
        rows = report.as_json()["ablation"]
        write_csv(self.output / "ablation.csv", rows)
        write_json(self.output / "report.json", report.as_json())
        gallery = self._export(settings[FULL])
        write_html(self.output, report, [Trial.of(r) for r in self._ended_trials()], gallery)
        for file in ("report.json", "report.html", "ablation.csv"):
            self.tracker.log_artifact(None, file, (self.output / file).read_bytes())
        for line in lines(rows):
            self.say(line)
        self.say(f"in {self.output / 'ablation.csv'} and report.html")
        return report

    def _ended_trials(self) -> list[TrialRecord]:
        """Those of the report: what is unfinished has no result."""
        return [record for record in self.ledger.trials() if record.status != "unfinished"]

    def _compare_on_choosing_seeds(
        self, a: Mapping[str, Any], b: Mapping[str, Any], seeds: Sequence[int], compared: int
    ) -> Paired:
        """`search.confirmation.selection.Compare`, of settings that have run."""
        results = self.confirmation.run({"a": dict(a), "b": dict(b)}, seeds, "choosing")
        return self._validation.compared(results["a"], results["b"], compared)

    @functools.cached_property
    def _validation(self) -> HeldOut:
        return self.confirmation.held_out("validation", self.judged)

    def _settings(
        self,
        records: Sequence[TrialRecord],
        choice: Choice,
        published: Mapping[str, Hyperparameters],
    ) -> dict[str, dict[str, Any]]:
        """label -> all hyperparameters of what is measured on the reporting seeds."""
        settings = {"recommended": choice.chosen.config}
        settings["best"] = (best_trial(records) or best_trials(records, 1)[0]).config
        if choice.challenger not in (None, choice.chosen):
            settings["challenger"] = choice.challenger.config
        settings |= {name: own.model_dump(mode="json") for name, own in published.items() if name != "mmd"}
        fewest = fewest_reporting_seeds(self.space)
        if not choice.keeps_published and self.confirmation.affords(tuned_rates_runs(self.space) + fewest):
            # Where a published setting is kept, there is no gain to be told apart.
            tuned = self.confirmation.tuned_rates(Coordinates(self.space), choice.chosen.params)
            if tuned is not None:
                settings["tuned_rates"] = tuned
        return {**settings, "mmd": published["mmd"].model_dump(mode="json")}

    def _report(
        self,
        records: Sequence[TrialRecord],
        choice: Choice,
        surface: Surface | None,
        results: dict[str, dict[str, Any]],
        perturbation: dict[str, Any] | None,
    ) -> Report:
        space, confirmation, chosen = self.space, self.confirmation, choice.chosen
        known = scored(of_space(space, records), space.robust)
        # What is told of the score's course rests on the candidates' runs as well: the model may have been wrong about them.
        if surface is not None and surface.check.trusted:
            surface = Surface(space, informative(space, known) + measured(choice, space))
        informed = known_around(space, chosen, surface)
        budget = confirmation.budget * space.steps * len(space.tasks)
        confirmed = confirmed_settings(space, self.plan, records, choice, results, self._validation, budget)
        baselines = confirmation.baselines(confirmation.reporting_seeds)
        test = on_test(results, baselines, confirmation.held_out("test", self.judged))
        statuses = [r.status for r in records]
        steps = replica_steps(space, records)
        wall = self.ledger.earlier_seconds() + time.monotonic() - self.started
        confirming = time.monotonic() - self.began
        default = {k: results["default"]["hyperparameters"].get(k) for k in space.search}
        importance = importances(space, known, distributions(space))
        content = {
            "name": space.name,
            "metric": metric_of(space),
            "space": self.own_space,
            "seeds": {
                "search": self.plan.seeds,
                "choosing": confirmation.choosing_seeds[: choice.seeds(len(space.tasks))],
                "reporting": confirmation.reporting_seeds,
            },
            "search_id": self.ledger.search_id,
            "created": self.ledger.search["created"],
            "versions": self.ledger.search["versions"],
            "tasks": self.tasks,
            "trials": {status: statuses.count(status) for status in ("completed", "pruned", "failed")},
            "ended": self.ended._asdict(),
            "recommended": chosen.params,
            "default": default,
            "paper_default": {k: results["paper_default"]["hyperparameters"].get(k) for k in space.search},
            "candidates": choice.as_json(len(space.tasks)),
            "confirmation": confirmed,
            "shrinkage": confirmed.shrinkage,
            "perturbation": perturbation,
            "surrogate": None if surface is None else {**surface.check.as_json(), **left_out(known)},
            **around(informed, chosen.params),
            "importance": importance["ped_anova"],
            "importance_fanova": importance["fanova"],
            "sensitivity": sensitivity(informed, chosen.params, default),
            "transfer": transfer(records, self.plan, [task["name"] for task in self.tasks], self._on_choosing_seeds),
            "racing": race(space, records),
            "pareto": pareto(space, records),
            "diagnostics": regions(space, records),
            "test": test,
            "cost": {
                "seconds": wall,
                "trial_seconds": sum(r.seconds for r in records),
                "replica_steps": steps,
                "replica_steps_per_second": steps / wall,
                "trials": {"replica_steps": steps, "seconds": max(0.0, wall - confirming)},
                "confirmation": {"replica_steps": confirmation.reruns.replica_steps(), "seconds": confirming},
            },
            "mlflow": {
                "tracking_uri": self.tracker.where,
                "experiment": self.tracker.experiment,
                "run_id": self.tracker.run_id,
            },
        }
        if informed is None and choice.challenger is not None and choice.keeps_published:
            tried = choice.challenger
            if (known_there := known_around(space, tried, surface)) is not None:
                content["best_tried"] = {
                    "trial": tried.trial,
                    "params": tried.params,
                    **around(known_there, tried.params),
                }
        content["verdict"] = judgement(space, choice, Saturation(self.plan, self._classes).of(records), confirmed)
        groups = self._validation.groups
        folds = self.plan.folds if self.plan.folds > 1 else None
        by = self.plan.tasks[0]["fold"]["by"] if folds else "class" if groups is None else "group"
        content["validation"] = {"groups": groups, "by": by, "folds": folds}
        report = Report.model_validate(content)
        content["verdict"]["text"] = Verdict.of(report).what
        return Report.model_validate(content)

    @property
    def _classes(self) -> list[int]:
        return [len(task["class_names"]) for task in self.judged]

    def _on_choosing_seeds(self, settings: Mapping[str, dict[str, Any]]) -> dict[str, list[float]]:
        """On those of the first look: this is no choice."""
        first = looks(self.space.confirmation.seeds)[0]
        return self.confirmation.shares(settings, self.confirmation.choosing_seeds[:first], "choosing")

    def _perturbation(
        self, choice: Choice, settings: Mapping[str, dict[str, Any]], planned: ReportingPlan
    ) -> dict[str, Any] | None:
        """Real runs around the recommended setting, and if the budget allows it around the search's best trial, with moves and
        seeds that had no part in the choice. None without any, as where nothing of the setting can move."""
        confirmation = self.space.confirmation
        if not planned.around:
            return None
        found = run_around(
            self.space,
            dict(list(settings.items())[: planned.around]),
            self.confirmation.shares,
            self.confirmation.reporting_seeds,
            planned.moved,
            REPORTING,
        )
        return {
            "decades": confirmation.perturbed_decades,
            "quantile": QUANTILE,
            "seeds": min(confirmation.perturbed_seeds, len(self.confirmation.reporting_seeds)),
            "predicted": choice.predicted if choice.chosen.label == PLATEAU else None,
            "recommended": found["recommended"].as_json(),
            "best": found["best"].as_json() if "best" in found else None,
        }

    def _best_yaml(self, config: dict[str, Any], report: Report) -> None:
        """What `python -m condense run` takes, a file for each task."""
        kept = report.verdict is not None and report.verdict.keep_default and report.verdict.published
        which = f" ({label(kept)})" if kept else ""
        for task in range(len(self.tasks)):
            (self.output / f"best{task_suffix(task)}.yaml").write_text(
                f"# The recommended setting of the search {self.space.name}{which}: "
                "python -m condense run THIS --output DIR\n"
                + yaml.safe_dump(self._condensation(config, task), sort_keys=False)
            )

    def _condensation(self, config: dict[str, Any], task: int) -> dict[str, Any]:
        """`condense.config.models.CondensationConfig` as JSON."""
        return {
            **{key: value for key, value in self.plan.whole_tasks[task].items() if key != "fold" or value is not None},
            "steps": self.space.steps,
            "seed": self.confirmation.reporting_seeds[0],
            "hyperparameters": {k: v for k, v in config.items() if v is not None},
        }

    def _export(self, config: dict[str, Any]) -> list[dict[str, Any]]:
        """Writes each task's condensed set; the first one's items for the report's gallery, across the steps."""
        gallery: list[dict[str, Any]] = []
        stops = sorted({0, *(round(self.space.steps * part) for part in (0.1, 0.3)), self.space.steps})
        for task, described in enumerate(self.tasks):
            condensation, stages = self._condensation(config, task), []
            record = {
                "config": condensation,
                "steps": self.space.steps,
                "seed": condensation["seed"],
                "search_id": self.ledger.search_id,
                "fingerprints": described["fingerprints"],
            }
            folder = str(condensed_folder(self.output, task))
            wanted = stops if task == 0 else stops[-1:]
            own = self.confirmation.shown(str(task), self.plan.whole_tasks[task], config, condensation["seed"], wanted)
            for step, tenant in own:
                engine = self.confirmation.client.engine
                if task == 0:
                    stages.append((step, fetch(engine.previews.remote(tenant, 0, 2))))
                if step == self.space.steps:
                    fetch(engine.export.remote(tenant, 0, folder, record))
            if task == 0:
                gallery = across_steps(stages)
        return gallery

    def _to_mlflow(self, report: Report, top: Sequence[TrialRecord]) -> None:
        for record in top:
            if self.deadline.seconds_left < SECONDS_TO_REPORT + self.trial_seconds:
                break
            name, seed, end = f"trial {record.number}", self.plan.seeds[0], self.space.steps
            for _, tenant in self.confirmation.shown(name, self.plan.whole_tasks[0], record.config, seed, [end]):
                overview = ray.get(self.confirmation.client.engine.overview.remote(tenant, 0))
                self.tracker.log_artifact(record.number, "synthetic_items.png", overview)
        for file in ("report.json", "report.html", "trials.csv", "best.yaml", "condensed/overview.png"):
            self.tracker.log_artifact(None, file, (self.output / file).read_bytes())
        confirmed = report.confirmation
        metrics = {f"confirmed/{k}": row.mean for k, row in confirmed.rows().items()}
        metrics |= {f"test/{k}": measured.mean for k, measured in report.test.items()}
        metrics |= {f"confirmed/gain_over_{k}": found.mean for k, found in confirmed.differences.items()}
        metrics["score"] = confirmed.recommended.score
        recommended = {k: v for k, v in report.recommended.items() if v is not None}
        tags = {f"recommended/{k}": f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in recommended.items()}
        if (verdict := report.verdict) is not None:
            tags |= {"verdict": verdict.text, "keep_default": str(verdict.keep_default).lower()}
            tags["saturated"] = str(verdict.saturated).lower()
        self.tracker.log_parent({k: v for k, v in metrics.items() if v is not None}, {}, tags)
