"""report.json as a typed model: what a search writes, the page draws, and `search.load` reads.

Numbers that a loss that was not finite can take away are `Number`: JSON knows neither NaN nor infinity, so they are null
there and None here. Parts that not every search has (tasks to compare, several objectives, an ablation) have a default,
and are in the JSON only where they were set. So is what was added to the report later on: older files can be read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_serializer

from search.report.around import BestTried, Response, ResponsePair
from search.report.ended import TrialsEnded
from search.report.part import Number, Part, Value, finite
from search.space.model import Space


class Measured(Part):
    """Mean and spread over runs with different seeds."""

    mean: Number
    std: Number
    n: int = Field(description="how many runs")
    values: list[Number] = Field([], description="one per seed")


class PairedDifference(Part):
    """The recommended setting minus another (on test: a method minus another), seed by seed and item by item."""

    mean: Number
    ci95: tuple[Number, Number] = Field(description="95 % interval: low, high")
    n: int = Field(2, description="how many seeds")
    covers: list[str] = Field(
        [], description="what the interval is over: `seeds`, and `items` or `groups`; []: unknown"
    )

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval, or None where it is not known."""
        low, high = self.ci95
        return None if low is None or high is None else (low, high)

    @property
    def sign(self) -> int:
        """1 or -1 where the interval is above or below 0; 0 where it includes 0 or is not known."""
        return 0 if self.interval is None else int(self.interval[0] > 0) - int(self.interval[1] < 0)


class DifferenceTo(PairedDifference):
    """A paired difference that says what it is to."""

    against: str


class Confirmed(Measured):
    """A setting on the reporting seeds: shares of full-data score, each the mean over tasks."""

    score: Number = Field(None, description="robust score")
    log_loss: Number = Field(None, description="exp(-log-loss) of the probes, mean over runs, where the metric has any")
    trial: int | None = Field(
        None, description="the trial that it was; None for the plateau's setting and the published ones"
    )
    tasks: list[Measured] = Field([], description="task by task, where there are several")
    trials: list[int] = Field([], description="of `best_single_seed`: the trial that each seed alone would have chosen")
    difference: PairedDifference | None = Field(None, description="the recommended setting minus this one")


class Confirmation(Part):
    """Fresh runs of the recommended setting and of what it is compared with, on the same seeds."""

    recommended: Confirmed
    best: Confirmed = Field(description="the trial with the best score of the search")
    paper_default: Confirmed
    default: Confirmed = Field(description="the project's default")
    tuned_rates: Confirmed | None = Field(None, description="the default's lambdas and sigma with tuned learning rates")
    mmd: Confirmed | None = None
    best_single_seed: Confirmed | None = Field(None, description="the mean over what single seeds would have chosen")
    challenger: Confirmed | None = Field(None, description="the best setting found, where a published one is kept")
    difference: DifferenceTo = Field(description="to the project's default, also where that is recommended")
    differences: dict[str, PairedDifference] = Field(description="setting -> to that one; not to an equal one")
    shrinkage: Number = Field(description="the best trial's score in the search minus that on fresh seeds")
    stopped: Literal["decided", "items", "budget", "time", "seeds"] | None = Field(
        None,
        description="why no more choosing seeds were added: a setting is shown to be better (`decided`); held-out items vary too "
        "much for any number of seeds to show one (`items`); `budget` or `time` spent; as many `seeds` as may be do not "
        "show one. None: nothing was compared",
    )
    budget: int | None = Field(None, description="replica-steps that there were; None: of an earlier version")

    def rows(self) -> dict[str, Confirmed]:
        """setting -> its runs, for all that were run."""
        return {name: row for name in type(self).model_fields if isinstance(row := getattr(self, name), Confirmed)}


class Moved(Part):
    """Runs around a setting, each with every numeric hyperparameter moved at random."""

    quantile: Number = Field(description="what all but the lowest share (`Perturbation.quantile`) of the runs reach")
    mean: Number
    worst: Number
    values: list[Number] = Field(description="one per run; 0 for one that diverged")
    diverged: int = 0


class Perturbation(Part):
    """What is left of the score when all hyperparameters move at once."""

    decades: float = Field(description="how far, up or down; of a range that is not logarithmic, this share of it")
    quantile: float = Field(description="0.1: nine runs in ten are above it")
    seeds: int = Field(description="of each run")
    predicted: Number = Field(None, description="the model's quantile, where the plateau's setting is recommended")
    recommended: Moved
    best: Moved | None = Field(None, description="the same around the search's best trial, where that is another")


class CandidateMoved(Part):
    """Runs around a candidate on the choosing seeds."""

    quantile: Number
    mean: Number
    n: int


class Candidate(Part):
    """A setting that could have been recommended."""

    label: str = Field(description="`trial 7`, `plateau`, or the name of a published setting")
    trial: int | None = Field(description="None: the plateau's setting, or a published one")
    params: dict[str, Value] = Field(description="the searched hyperparameters")
    score: Number = Field(description="robust score on the choosing seeds")
    perturbed: CandidateMoved | None = Field(description="None: there were no runs around it")
    confirmed: Measured = Field(description="on the choosing seeds")
    tied: bool = Field(description="cannot be told apart from the candidate with the best mean")
    chosen: bool
    published: bool = Field(False, description="kept unless another setting is shown to be better")


class Judgement(Part):
    """What a search comes down to."""

    text: str = Field(description="a sentence")
    keep_default: bool = Field(description="no setting tried is shown to be better than the best published one")
    saturated: bool = Field(description="the score is at its ceiling or floor, where settings cannot be told apart")
    covers: list[str] = Field(description="what the intervals on validation are over: `seeds`, and `items` or `groups`")
    limit: Literal["ceiling", "floor"] | None = Field(None, description="where the trials' scores are, if at either")
    published: str | None = Field(None, description="the best published setting: `default`, `paper_default` or `mmd`")
    challenger: str | None = Field(None, description="the best setting that the search has found, by its label")
    trial: int | None = Field(None, description="the trial that the challenger was; None: the plateau's setting")
    difference: PairedDifference | None = Field(None, description="challenger minus published, on the choosing seeds")
    compared: int = Field(1, description="how many settings it is the best of: `difference` holds for all at once")
    unlike_fixed: dict[str, Value] = Field({}, description="hyperparameters that the space fixes at another value")


class Validation(Part):
    """The items that settings were chosen by."""

    groups: int | None = Field(
        description="how many groups of items there are (speakers, scenes, ...); null: none are known"
    )
    by: Literal["group", "class"] = Field(description="what no split divides, or what splits are stratified by")
    folds: int | None = Field(None, description="null: a single split")


class MeasuredOnTest(Measured):
    """A setting or a baseline on the test split."""

    ci95: tuple[Number, Number] | None = Field(None, description="95 % interval of the mean: low, high")
    difference: dict[str, PairedDifference] = Field({}, description="minus `paper_default`, minus `best_baseline`")
    baseline: str | None = Field(None, description="which one `best_baseline` is; never the same setting")
    balanced: Number = Field(None, description="accuracy, mean over classes; where these differ in size")


class Surrogate(Part):
    """Whether the model of the trials holds, on which the plateau, `robust_region`, `response` and `sensitivity` rest."""

    trials: int = Field(description="that the model is of, the candidates' runs included")
    loo_rmse: Number = Field(description="root mean squared error of a trial's score, predicted from the others")
    loo_r2: Number = Field(description="1: predicted exactly; 0: no better than the scores' mean")
    coverage: Number = Field(description="share of the scores within the 95 % band of their prediction")
    left_out: int = Field(
        0, description="trials that it is not of: it takes the best ones, and of the others an even spread"
    )
    trusted: bool = Field(description="if not, nothing above rests on the model, only on real runs")


class BestForTask(Part):
    """The trial that was best for one task alone."""

    task: str
    trial: int


class Transfer(Part):
    """Whether what is best for one task holds on another."""

    tasks: list[str]
    settings: list[BestForTask]
    share: list[list[Number]] = Field(description="[i][j]: on task j, by the trial that was best for task i")


class Racing(Part):
    """What was saved by giving seeds only to trials that could still win."""

    seeds: dict[str, int] = Field(description="number of seeds -> trials that ended with so many")
    replica_steps: int
    full: int = Field(description="replica-steps, had every trial had all seeds")


class ParetoTrial(Part):
    """A completed trial of a search with several objectives."""

    number: int
    values: list[Number] = Field(description="one per objective")
    front: bool = Field(description="no other trial is at least as good in every objective and better in one")


class Pareto(Part):
    """The trials of a search with several objectives."""

    objectives: list[str]
    trials: list[ParetoTrial]


class FailureSignature(Part):
    """Trials that went wrong in one known way."""

    trials: list[int] = Field(description="numbers of those that show it")
    of: int = Field(description="how many could be judged")
    region: str | None = Field(description="where in the space it occurs; None where no split tells")
    meaning: str


class AblationRow(Part):
    """The recommended setting with some of the loss terms only, on the reporting seeds."""

    terms: str = Field(description="`uni + cross`")
    validation: Measured
    test: Measured
    difference: PairedDifference | None = Field(description="to all terms, on validation; None for all terms")


class TaskItems(Part):
    """How many real items there are."""

    condense: int = Field(description="what is condensed")
    validation: int


class TaskDescription(Part):
    """What is condensed, and how it is judged."""

    name: str = Field(description="`spoken_digits, 1 per class`")
    dataset: str
    encoder: str
    dpc: int = Field(description="synthetic items per class")
    modalities: list[str]
    class_names: list[str]
    items: TaskItems
    metric: str = Field(description="`accuracy`, `log_loss` or `retrieval`")
    full_score: Number = Field(description="what all real items give on validation: shares are of this")
    base_rate: tuple[str, float] | None = None  # validation's largest class, and its share; None: balanced
    full_balanced: Number = Field(None, description="of all real items: accuracy on validation, mean over its classes")
    warnings: list[str] = []
    fingerprints: dict[str, str]
    device: str


class Seeds(Part):
    """Seeds of replicas; the three lists are disjoint."""

    search: list[int]
    choosing: list[int] = Field(description="fresh ones, on which the recommendation was chosen")
    reporting: list[int] = Field(description="fresh ones that had no part in any choice")


class TrialCounts(Part):
    """How trials ended."""

    completed: int
    pruned: int = Field(description="stopped early")
    failed: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.completed + self.pruned + self.failed


class PhaseCost(Part):
    """What the trials took, or the confirmation."""

    replica_steps: int
    seconds: float = Field(
        description="what is left of the search's for the trials; of the last process for the confirmation"
    )


class Cost(Part):
    """What the search took."""

    seconds: float = Field(description="of the whole search, interruptions aside")
    trial_seconds: float = Field(description="the sum over trials")
    replica_steps: int
    replica_steps_per_second: Number
    trials: PhaseCost | None = Field(None, description="None: of an earlier version")
    confirmation: PhaseCost | None = None


class Mlflow(Part):
    """Where the search was logged."""

    tracking_uri: str
    experiment: str
    run_id: str | None


class Report(Part):
    """report.json. `search/report/page.py` makes report.html of it, `search/report/verdict.py` what it says."""

    name: str
    metric: str = Field("accuracy", description="what condensed sets are judged by; `score` where tasks differ in it")
    space: Space
    seeds: Seeds
    search_id: str
    created: float = Field(description="seconds since 1970")
    versions: dict[str, str] = Field(description="library -> version")
    tasks: list[TaskDescription]
    trials: TrialCounts
    ended: TrialsEnded | None = Field(None, description="None: of an earlier version")
    recommended: dict[str, Value] = Field(min_length=1, description="the searched hyperparameters")
    default: dict[str, Value] = Field(description="the project's default's values of the same")
    paper_default: dict[str, Value]
    candidates: list[Candidate] = Field([], description="best score first")
    confirmation: Confirmation
    shrinkage: Number = None
    perturbation: Perturbation | None = None
    robust_region: dict[str, tuple[Number, Number]] = Field(
        description="hyperparameter -> low, high: where the modelled score is within one standard error of the recommended "
        "setting's, the others as recommended; {} with too few trials for a model, or one that is not to be trusted"
    )
    surrogate: Surrogate | None = Field(None, description="None: too few trials for a model, or of an earlier version")
    response: dict[str, Response] = {}
    response_pairs: list[ResponsePair] = []
    best_tried: BestTried | None = Field(None, description="where a published setting outside of the space is kept")
    importance: dict[str, Number] = Field({}, description="by PED-ANOVA: for being among the best trials")
    importance_fanova: dict[str, Number] = Field({}, description="by fANOVA: share of the score's variance")
    sensitivity: dict[str, Number] = Field({}, description="modelled loss of score at the default's value")
    transfer: Transfer | None = Field(None, description="None: a single task")
    racing: Racing | None = Field(None, description="None: trials did not race")
    pareto: Pareto | None = Field(None, description="None: a single objective")
    diagnostics: dict[str, FailureSignature] = Field({}, description="failure signature -> the trials that show it")
    ablation: list[AblationRow] = Field([], description="only after `--ablate`")
    verdict: Judgement | None = Field(None, description="None: of an earlier version")
    validation: Validation | None = Field(None, description="None: of an earlier version")
    test: dict[str, MeasuredOnTest] = Field(description="setting or baseline -> score on the test split")
    cost: Cost
    mlflow: Mlflow

    @field_serializer("space")
    def _whole(self, space: Space) -> dict[str, Any]:
        """Its defaults as well, although the rest leaves out what was not set."""
        return dict(finite(space.model_dump(mode="json")))

    @property
    def chosen(self) -> Candidate | None:
        """The candidate that is recommended, if the candidates are known."""
        return next((candidate for candidate in self.candidates if candidate.chosen), None)

    @property
    def modelled(self) -> Report | BestTried:
        """What has `robust_region`, `response` and `response_pairs`: around the recommended setting, or the best one tried."""
        return self.best_tried or self

    def as_json(self) -> dict[str, Any]:
        """The content of report.json."""
        return self.model_dump(mode="json", exclude_unset=True)

    @classmethod
    def load(cls, folder: Path) -> Report:
        """The report in a search's output folder.

        Raises FileNotFoundError if there is none, and pydantic's ValidationError (a ValueError) if it is no report.
        """
        return cls.model_validate(json.loads((Path(folder) / "report.json").read_text(encoding="utf-8")))
