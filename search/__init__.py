"""Distributed search for robust hyperparameters of multi-modal dataset condensation.

    import search

    results = search.run("quickstart", output="results/mine", trials=48)
    results.recommended, results.verdict, results.trials, results.study, results.report
    search.load("results/mine")
    search.status("results/mine")

Names are loaded at first use: `import search` imports neither Ray nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condense.system.errors import UserError
    from search.api import ablate, conclude, resume, run, stop_trial
    from search.interruption import Stopped
    from search.results import Results, load
    from search.run_status import Status, status
    from search.space.files import load_space
    from search.space.model import Space

__all__ = [
    "Results",
    "Space",
    "Status",
    "Stopped",
    "UserError",
    "ablate",
    "conclude",
    "load",
    "load_space",
    "resume",
    "run",
    "status",
    "stop_trial",
]

_FROM = {
    "Results": "search.results",
    "Space": "search.space.model",
    "Status": "search.run_status",
    "Stopped": "search.interruption",
    "UserError": "condense.system.errors",
    "ablate": "search.api",
    "conclude": "search.api",
    "load": "search.results",
    "load_space": "search.space.files",
    "resume": "search.api",
    "run": "search.api",
    "status": "search.run_status",
    "stop_trial": "search.api",
}


def __getattr__(name: str) -> Any:
    if name in _FROM:
        return getattr(import_module(_FROM[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
