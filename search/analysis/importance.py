"""How much each hyperparameter matters."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import optuna

log = logging.getLogger(__name__)


def importances(study: optuna.Study) -> dict[str, dict[str, float]]:
    """How much each hyperparameter matters among completed trials, by evaluator; {} for one with too few of them.

    `ped_anova` (Watanabe et al. 2023): for being among the best trials; `fanova` (Hutter et al. 2014): share of the
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
                log.info("no importance by %s: %s", name, error)
                values = {}
            found[name] = {key: float(value) for key, value in values.items() if math.isfinite(value)}
    return found


def _loss(trial: Any) -> float:
    """The first objective, the score; negative, because PED-ANOVA takes low values of a given target for good ones."""
    return -float(trial.values[0])
