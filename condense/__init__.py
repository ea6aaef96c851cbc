"""Multi-modal dataset condensation by matching characteristic functions (ImageBindDC, arXiv 2511.08263).

    import condense

    task = condense.load_task(dataset={"name": "spoken_digits"}, encoder={"name": "tiny"}, dpc=1)
    result = condense.run(task, condense.published.recommended(), seed=0)
    table = condense.compare(result)

Names are loaded at first use: `import condense` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condense.api import Diverged, Interrupted, LoadedTask, Result, RunReport, compare, load_task, run
    from condense.config import published
    from condense.config.models import CondensationConfig, Hyperparameters, TaskConfig
    from condense.system.errors import UserError

__all__ = [
    "CondensationConfig",
    "Diverged",
    "Hyperparameters",
    "Interrupted",
    "LoadedTask",
    "Result",
    "RunReport",
    "TaskConfig",
    "UserError",
    "compare",
    "load_task",
    "published",
    "run",
]

_FROM = {
    **dict.fromkeys(
        ("Diverged", "Interrupted", "LoadedTask", "RunReport", "Result", "compare", "load_task", "run"), "condense.api"
    ),
    **dict.fromkeys(("CondensationConfig", "Hyperparameters", "TaskConfig"), "condense.config.models"),
    "UserError": "condense.system.errors",
}


def __getattr__(name: str) -> Any:
    if name == "published":
        return import_module("condense.config.published")
    if name in _FROM:
        return getattr(import_module(_FROM[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
