"""What a user asks of a search: the options of the command, or the arguments of `search.run`, once they are valid."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condense.system.errors import UserError
from search.ledger.experiment import check_name
from search.ledger.imports import Imports, imported_trials
from search.ledger.run_folder import absolute_folder, holds_search
from search.space.files import load_space, space_of
from search.space.model import Space
from search.tracking.store import absolute_uri, default_tracking_uri
from search.tuning.warm_start import earlier_settings, importable, recorded, still_possible, with_first_settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    space: Space
    output: Path  # absolute
    resume: bool
    address: str | None
    tracking_uri: str
    ablate: bool = False  # only this, of a search that is complete
    experiment: str | None = None  # MLflow's; None: what is recorded, or the default
    conclude: bool = False  # without further trials
    imports: Imports | None = None  # trials of another search that it takes over when it begins
    note: str | None = None  # what becomes of --warm-start

    @staticmethod
    def of(
        space: str | Path | Mapping[str, Any] | Space,
        *,
        overrides: Sequence[str] = (),
        name: str | None = None,
        output: Path | None = None,
        resume: bool = False,
        auto_resume: bool = False,
        address: str | None = None,
        tracking_uri: str | None = None,
        warm_start: Path | None = None,
        ablate: bool = False,
        experiment: str | None = None,
        conclude: bool = False,
    ) -> Request:
        """`auto_resume`: `resume` if there is a search in `output`, else not.

        Raises UserError if the space or the experiment's name is not valid, or there is nothing to start from in
        `warm_start`."""
        if experiment is not None:
            check_name(experiment)
        if name is not None:
            overrides = [*overrides, f"name={json.dumps(name, ensure_ascii=False)}"]
        if isinstance(space, str | Path):
            loaded = load_space(str(space), overrides)
        else:
            keys = space.model_dump(mode="json") if isinstance(space, Space) else space
            loaded = space_of(keys, overrides, str(keys.get("name", "space")))
        folder = absolute_folder(output or Path("results") / loaded.name)
        resume = resume or (auto_resume and holds_search(folder))
        known = recorded(folder) if resume or ablate else None
        source, imports, note = loaded.name, None, None
        if warm_start is not None and (resume or ablate):
            log.warning("--warm-start is left out: a search that has begun keeps to what it began with")
        elif warm_start is not None:
            if loaded.warm_start:
                raise UserError(f"{loaded.name}: the space has a `warm_start`: give that or --warm-start, not both")
            known, source = earlier_settings(warm_start, loaded), f"--warm-start {warm_start}"
            found = importable(warm_start.absolute(), loaded)
            if isinstance(found, Imports):
                known, imports = None, found
                note = (
                    f"{found.added} trials of {warm_start} are observations: their tasks, steps and seeds are the same"
                )
            else:
                note = f"{warm_start} {found}, so its {len(known)} best settings are run again"
        if resume or ablate:
            known = still_possible(known or [], loaded)
        if known:
            loaded = with_first_settings(loaded, known, source)
        # `trials` are those that it runs: what it has taken over comes in addition.
        added = imported_trials(folder) if resume or ablate else 0 if imports is None else imports.added
        loaded = loaded.model_copy(update={"trials": loaded.trials + added})
        uri = absolute_uri(tracking_uri) if tracking_uri else default_tracking_uri(folder)
        return Request(loaded, folder, resume or ablate, address, uri, ablate, experiment, conclude, imports, note)
