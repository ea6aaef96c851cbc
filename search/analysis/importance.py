"""How much each hyperparameter matters."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import optuna

log = logging.getLogger(__name__)


def importances(study: optuna.Study) -> dict[str, dict[str, float]]:
    """Importance of each hyperparameter among completed trials, by evaluator; {} for an evaluator with too few trials.

    `ped_anova` (Watanabe et al. 2023): for reaching the best trials; `fanova` (Hutter et al. 2014): share of the
    score's variance over the whole space.
    """
    found: dict[str, dict[str, float]] = {}
    target = _loss if len(study.directions) > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, evaluator in (
            ("ped_anova", optuna.importance.PedAnovaImportanceEvaluator()),
            ("fanova", optuna.importance.FanovaImportanceEvaluator(seed=0)),
        ):
            try:
                values = optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
            except (ValueError, RuntimeError) as error:
                log.info("cannot compute the importance by %s: %s", name, error)
                values = {}
            found[name] = {key: float(value) for key, value in values.items() if math.isfinite(value)}
    return found


def _loss(trial: Any) -> float:
    """The first objective, the score, negated: PED-ANOVA treats low values of a given target as good."""
    return -float(trial.values[0])
