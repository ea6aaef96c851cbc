"""Spaces that an earlier version recorded."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from search.space.model import Space

# The defaults of versions whose tasks had no `encoders`, where they are others now.
EARLIER = {
    "scaling": "normalized",
    "lambda_uni": 1.0,
    "lambda_cross": 1.0,
    "lambda_joint": 1.0,
    "frequency_scale": 1.0,
    "learning_rate": 1.0,
}


def completed(recorded: dict[str, Any]) -> dict[str, Any]:
    """A space recorded by any version of this project, completed with the defaults of newer keys.

    Hyperparameters that were neither searched nor fixed keep the defaults of that version.
    """
    tasks = recorded.get("tasks")
    if isinstance(tasks, list) and any(isinstance(task, dict) and "encoders" not in task for task in tasks):
        fixed, searched = recorded.get("fixed", {}), recorded.get("search", {})
        earlier = {name: value for name, value in EARLIER.items() if name not in fixed and name not in searched}
        recorded = {**recorded, "fixed": {**fixed, **earlier}}
    try:
        return Space.model_validate(recorded).model_dump(mode="json")
    except ValidationError:  # no longer a valid space: the comparison will report it
        return recorded
