"""What a complete search has found, from its output folder: `search.load("results/mine")`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condense.config.files import load_config
from condense.config.models import Hyperparameters
from condense.system.errors import UserError
from search.confirmation.trials_csv import trial_rows
from search.ledger.ledger import Ledger
from search.ledger.run_folder import check_search, condensed_folder
from search.space.model import Space
from search.space.recorded import completed

if TYPE_CHECKING:
    import optuna
    import pandas as pd

    from search.report.model import Report
    from search.report.verdict import Verdict


@dataclass(frozen=True)
class Results:
    """A complete search. What it holds is read when it is asked for, then kept."""

    folder: Path  # absolute

    @functools.cached_property
    def space(self) -> Space:
        """What was searched."""
        return Space.model_validate(completed(self._ledger.search["space"]))

    @functools.cached_property
    def report(self) -> Report:
        """All of report.json."""
        from search.report.model import Report

        return Report.load(self.folder)

    @property
    def recommended(self) -> dict[str, Any]:
        """The searched hyperparameters' recommended values."""
        return dict(self.report.recommended)

    @functools.cached_property
    def hyperparameters(self) -> Hyperparameters:
        """The whole recommended setting, for `condense.run`."""
        return load_config(self.folder / "best.yaml").hyperparameters

    @functools.cached_property
    def verdict(self) -> Verdict:
        """What is recommended, how sure, against what, and on test: `str()` gives four lines or more, the fields the numbers."""
        from search.report.verdict import Verdict

        return Verdict.of(self.report)

    @functools.cached_property
    def trials(self) -> pd.DataFrame:
        """A row per trial, by number, as in trials.csv: name, status, score, its mean and std over seeds, hyperparameters, ..."""
        return trials_frame(self._ledger)

    @functools.cached_property
    def study(self) -> optuna.Study:
        """Optuna's study of the search, to be read: importances, plots, optuna-dashboard."""
        from search.tuning.journal import open_study

        return open_study(self.folder)

    @property
    def condensed(self) -> list[Path]:
        """The condensed datasets' folders, one per task."""
        return [condensed_folder(self.folder, task) for task in range(len(self.space.tasks))]

    def __str__(self) -> str:
        return f"{self.space.name} ({self.folder})\n{self.verdict}"

    @functools.cached_property
    def _ledger(self) -> Ledger:
        return Ledger(self.folder)


def load(folder: str | Path) -> Results:
    """The results of a complete search in `folder`.

    Raises:
        UserError: there is no search, or it has not come to its end (`search.status` says how far it is).
    """
    path = Path(folder).absolute()
    check_search(path)
    if not (path / "report.json").is_file():
        raise UserError(f"{path}: the search is not complete (there is no report.json): search.resume goes on with it")
    return Results(path)


def trials_frame(ledger: Ledger) -> pd.DataFrame:
    """The trials of a search that is complete or not, by number."""
    import pandas as pd

    columns, rows = trial_rows(ledger.trials())
    return pd.DataFrame(rows, columns=columns).set_index("number")
