"""How much each hyperparameter matters."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution

from search.analysis.surrogate import Scored
from search.space.model import Space

MOST = 500  # trials for fANOVA
log = logging.getLogger(__name__)


def importances(
    space: Space, trials: Sequence[Scored], distributions: Mapping[str, BaseDistribution]
) -> dict[str, dict[str, float]]:
    """Importance of each hyperparameter among all trials, by evaluator; {} for an evaluator with too few trials.

    `ped_anova` (Watanabe et al. 2023): for reaching the best trials; `fanova` (Hutter et al. 2014): share of the
    score's variance over the whole space. Both are of what all trials have: nothing is said of a hyperparameter with `when`.
    `trials`: those that were stopped early, too (`search.analysis.surrogate.scored`): what survives differs little in what
    matters most. fANOVA takes seconds for each hundred: it gets evenly many of them, 500 at most. `distributions`: the space's
    `search` in Optuna's terms.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = [  # a default may lie outside
        optuna.trial.create_trial(
            params=dict(trial.params),
            distributions={name: distributions[name] for name in trial.params},
            value=trial.mean,
        )
        for trial in trials
        if all(space.search[name].contains(value) for name, value in trial.params.items())
    ]
    always = [name for name in distributions if space.search[name].when is None]
    fewer = known if len(known) <= MOST else [known[(i + 1) * len(known) // MOST - 1] for i in range(MOST)]
    found: dict[str, dict[str, float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, evaluator, some in (
            ("ped_anova", optuna.importance.PedAnovaImportanceEvaluator(), known),
            ("fanova", optuna.importance.FanovaImportanceEvaluator(seed=0), fewer),
        ):
            study = optuna.create_study(direction="maximize")
            study.add_trials(some)
            try:
                values = optuna.importance.get_param_importances(study, evaluator=evaluator, params=always)
            except (ValueError, RuntimeError) as error:
                log.info("cannot compute the importance by %s: %s", name, error)
                values = {}
            found[name] = {key: float(value) for key, value in values.items() if math.isfinite(value)}
    return found
