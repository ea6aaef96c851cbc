"""What a complete search leaves: report.json, report.html, trials.csv, best.yaml, condensed/, and the same in MLflow."""

from __future__ import annotations

import json
import logging
import math
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import ray
import yaml

from condense.errors import UserError
from search.closing import Closing, _write_json, summary
from search.cluster import bootstrap_file, from_home
from search.ledger import Ledger, TrialRecord
from search.plateau import robust_region, scored
from search.report import write_html
from search.report_text import verdict, verdict_on_test
from search.robust import paired_difference
from search.sampling import open_study
from search.space import Space
from search.tracking import MlflowTracker
from search.trainable import Plan
from search.trials_csv import write_trials_csv

log = logging.getLogger(__name__)
PREVIEW_TRIALS = 3  # trials whose synthetic items are shown in MLflow
Say = Callable[[str], None]


class Results:
    """Confirmation, final evaluation and everything that is written from them. Can be run again after a kill."""

    def __init__(
        self,
        space: Space,
        ledger: Ledger,
        broker: Any,
        plan: Plan,
        tasks: list[dict[str, Any]],
        tracker: MlflowTracker,
        say: Say,
        started: float,
    ) -> None:
        self.space, self.ledger, self.plan, self.tasks, self.tracker, self.say = (
            space,
            ledger,
            plan,
            tasks,
            tracker,
            say,
        )
        self.started = started
        self.output = ledger.output
        self.closing = Closing(space, ledger, broker, plan, say)

    def write(self) -> dict[str, Any]:
        """Raises UserError if no trial of the search completed."""
        records = self.ledger.trials()
        write_trials_csv(self.output / "trials.csv", records)
        top = candidates(records, self.space.confirmation.top_k)
        if not top:
            raise UserError(f"{self.output}: every trial of the search failed, so nothing can be recommended")
        count = len(self.closing.choosing_seeds)
        self.say(
            f"confirming the best {len(top)} on {count} fresh seeds, then the choice and the defaults on {count} others"
        )
        chosen, _ = self.closing.choose(top)
        defaults = {d.name: d.hyperparameters.model_dump(mode="json") for d in self.space.default_trials()}
        settings = {"recommended": chosen.config, "best": top[0].config, **defaults}
        mmd = self.closing.tuned_mmd()
        results = self.closing.run({**settings, "mmd": mmd}, self.closing.reporting_seeds, "reporting", test=True)
        baselines = self.closing.baselines()
        report = self._report(records, chosen, top[0], results, baselines)
        _write_json(self.output / "report.json", report)
        config = self._best_config(chosen)
        (self.output / "best.yaml").write_text(
            f"# The recommended setting of the search {self.space.name}: python -m condense run best.yaml --output DIR\n"
            + yaml.safe_dump(config, sort_keys=False)
        )
        gallery = self._export(chosen, config)
        write_html(self.output, report, [_row(r) for r in records], gallery)
        self._to_mlflow(report, top)
        self._print(report)
        return report

    def _report(
        self,
        records: Sequence[TrialRecord],
        chosen: TrialRecord,
        best: TrialRecord,
        results: dict[str, Any],
        baselines: dict[str, list[float]],
    ) -> dict[str, Any]:
        per_seed = {label: self.closing.per_seed(result) for label, result in results.items()}
        confirmation: dict[str, Any] = {
            label: {**summary(per_seed[label]), "trial": trial}
            for label, trial in (
                ("recommended", chosen.number),
                ("best", best.number),
                ("default", None),
                ("paper_default", None),
            )
        }
        differences = {
            label: paired_difference(per_seed["recommended"], per_seed[label]).as_json()
            for label in ("default", "paper_default")
        }
        confirmation["mmd"] = {
            **summary(per_seed["mmd"]),
            "difference": paired_difference(per_seed["recommended"], per_seed["mmd"]).as_json(),
        }
        confirmation["difference"] = {**differences["default"], "against": "default"}
        confirmation["differences"] = differences
        confirmation["shrinkage"] = best.metrics["score_mean"] - confirmation["best"]["mean"]
        test = {
            label: summary(self.closing.per_seed(results[label], "test"))
            for label in ("recommended", "default", "paper_default")
        }
        test |= {method: summary(values) for method, values in baselines.items() if method != "full_data"}
        test["mmd"] = summary(self.closing.per_seed(results["mmd"], "test"))
        test["full_data"] = summary(baselines["full_data"])
        statuses = [r.status for r in records]
        replica_steps = sum(r.steps for r in records) * len(self.plan.tasks) * len(self.plan.seeds)
        seconds = sum(r.seconds for r in records)
        wall = time.monotonic() - self.started
        return {
            "name": self.space.name,
            "metric": metric_of(self.space),
            "space": self.space.model_dump(mode="json"),
            "seeds": {
                "search": self.plan.seeds,
                "choosing": self.closing.choosing_seeds,
                "reporting": self.closing.reporting_seeds,
            },
            "search_id": self.ledger.search_id,
            "created": self.ledger.search["created"],
            "versions": self.ledger.search["versions"],
            "tasks": self.tasks,
            "trials": {status: statuses.count(status) for status in ("completed", "pruned", "failed")},
            "recommended": chosen.params,
            "default": {k: results["default"]["hyperparameters"][k] for k in self.space.search},
            "paper_default": {k: results["paper_default"]["hyperparameters"][k] for k in self.space.search},
            "confirmation": _finite(confirmation),
            "shrinkage": _finite(confirmation["shrinkage"]),
            "robust_region": robust_region(self.space, scored(records), chosen.params),
            "importance": importance(self.output),
            "test": _finite(test),
            "cost": {
                "seconds": wall,
                "trial_seconds": seconds,
                "replica_steps": replica_steps,
                "replica_steps_per_second": replica_steps / wall,
            },
            "mlflow": {
                "tracking_uri": self.tracker.where,
                "experiment": self.tracker.experiment,
                "run_id": self.tracker.run_id,
            },
        }

    def _best_config(self, chosen: TrialRecord) -> dict[str, Any]:
        """What `python -m condense run` takes."""
        return {
            **self.plan.tasks[0],
            "steps": self.space.steps,
            "seed": self.closing.reporting_seeds[0],
            "hyperparameters": {k: v for k, v in chosen.config.items() if v is not None},
        }

    def _export(self, chosen: TrialRecord, config: dict[str, Any]) -> list[dict[str, Any]]:
        engine = self.closing.seat.engine
        name = self.closing.member("recommended", chosen.config)
        record = {
            "config": config,
            "steps": self.space.steps,
            "seed": config["seed"],
            "search_id": self.ledger.search_id,
        }
        record["fingerprints"] = self.tasks[0]["fingerprints"]
        ray.get(engine.export.remote(name, 0, str(self.output / "condensed"), record))
        gallery: list[dict[str, Any]] = ray.get(engine.previews.remote(name, 0, 2))
        self.closing.leave(name)
        return gallery

    def _to_mlflow(self, report: dict[str, Any], top: Sequence[TrialRecord]) -> None:
        engine = self.closing.seat.engine
        for record in top[:PREVIEW_TRIALS]:
            known = self.ledger.load(record.number)
            name = self.closing.member(f"trial {record.number}", record.config, _first_state(known), self.plan.seeds[0])
            overview = ray.get(engine.overview.remote(name, 0))
            self.closing.leave(name)
            self.tracker.log_artifact(record.number, "synthetic_items.png", overview)
        for file in ("report.json", "report.html", "trials.csv", "best.yaml", "condensed/overview.png"):
            self.tracker.log_artifact(None, file, (self.output / file).read_bytes())
        confirmed, test = report["confirmation"], report["test"]
        metrics = {f"confirmed/{k}": confirmed[k]["mean"] for k in ("recommended", "best", "default", "paper_default")}
        metrics |= {f"test/{k}": v["mean"] for k, v in test.items()}
        metrics["confirmed/difference"] = confirmed["difference"]["mean"]
        metrics["score"] = confirmed["recommended"]["mean"]
        self.tracker.log_parent(
            {k: v for k, v in metrics.items() if v is not None},
            {},
            {
                f"recommended/{k}": f"{v:.4g}" if isinstance(v, float) else str(v)
                for k, v in report["recommended"].items()
            },
        )

    def _print(self, report: dict[str, Any]) -> None:
        counts = report["trials"]
        width = max(len(name) for name in report["recommended"])
        self.say("")
        self.say(
            f"recommended ({counts['completed']} trials completed, {counts['pruned']} stopped early, {counts['failed']} failed):"
        )
        for name, value in report["recommended"].items():
            low, high = report["robust_region"].get(name, (None, None))
            good = f"   good from {low:.3g} to {high:.3g}" if low is not None else ""
            self.say(
                f"  {name:<{width}}  {value:<8.4g}{good}" if isinstance(value, float) else f"  {name:<{width}}  {value}"
            )
        self.say("")
        self.say(verdict(report))
        self.say(verdict_on_test(report["test"], report["metric"]))
        self.say("")
        python = command("python")
        self.say(f"report     {python} -m webbrowser {shlex.quote(str(self.output / 'report.html'))}")
        self.say(f"again      {python} -m condense run {shlex.quote(str(self.output / 'best.yaml'))} --output DIR")
        served = self.tracker.where.startswith("http")
        if not served:
            uri = shlex.quote(self.tracker.where)
            self.say(f"MLflow UI  {command('mlflow')} ui --backend-store-uri {uri}   and then open")
        base = self.tracker.where.rstrip("/") if served else "http://127.0.0.1:5000"
        self.say(
            f"{'MLflow UI' if served else '':<9}  {comparison_link(base, self.tracker.experiment_id, self.ledger.search_id)}"
        )
        if bootstrap_file().exists():
            for line in from_home(self.output, served):
                self.say(line)


def candidates(records: Sequence[TrialRecord], top_k: int) -> list[TrialRecord]:
    """The trials worth confirming, best first: completed ones, then, where those are too few, those that were stopped
    latest (a confirmation takes all steps). The paper's default is out: its lambdas mean something else.
    """
    scored = [r for r in records if r.status in ("completed", "pruned") and r.name != "paper_default" and r.reports]
    return sorted(scored, key=lambda r: (r.status != "completed", -r.steps, -r.metrics["score"]))[:top_k]


def command(name: str) -> str:
    """How a shell in the current folder finds a program of this environment, also where it is not activated."""
    own = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if (found is not None and Path(found).parent == own.parent) or not own.exists():
        return name
    return shlex.quote(str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own))


def comparison_link(base: str, experiment: str | None, search_id: str) -> str:
    """The MLflow page that shows this search's trials, best first, with their curves side by side."""
    chosen = f"tags.search_id = '{search_id}' AND tags.trial_number LIKE '%'"
    query = {"searchFilter": chosen, "orderByKey": "metrics.`score`", "orderByAsc": "false", "compareRunsMode": "CHART"}
    return f"{base}/#/experiments/{experiment}/runs?{urlencode(query, quote_via=quote)}"


def importance(output: Path) -> dict[str, float]:
    """How much each hyperparameter matters among completed trials: PED-ANOVA (Watanabe et al. 2023). {} if too few."""
    import optuna

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            values = optuna.importance.get_param_importances(open_study(output), evaluator=evaluator)
    except (ValueError, RuntimeError) as error:
        log.info("no importance: %s", error)
        return {}
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def metric_of(space: Space) -> str:
    """What the tasks are judged by; `score` if not all by the same."""
    metrics = {task.metric for task in space.tasks}
    return metrics.pop() if len(metrics) == 1 else "score"


def _row(record: TrialRecord) -> dict[str, Any]:
    """A trial as the report's page wants it."""
    return {
        "number": record.number,
        "name": record.name,
        "status": record.status,
        "error": record.error,
        "params": record.params,
        "score": record.score,
        "score_mean": record.metrics.get("score_mean"),
        "score_std": record.metrics.get("score_std"),
        "steps": record.steps,
        "seconds": record.seconds,
        "accuracies": [v for k, v in record.metrics.items() if k.startswith(("accuracy/", "retrieval/"))],
        "progress": [{"step": r.step, "score": r.metrics["score"]} for r in record.reports],
    }


def _first_state(known: tuple[int, list[Any], bytes] | None) -> bytes | None:
    """The first replica's state of a trial's checkpoint."""
    if known is None:
        return None
    from search.state import pack_states, unpack_states

    return pack_states(unpack_states(known[2])[:1])


def _finite(content: Any) -> Any:
    """NaN and infinity as None: JSON has neither."""
    text = json.dumps(content)
    return json.loads(text, parse_constant=lambda _: None)
