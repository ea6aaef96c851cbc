"""trials.csv and a light report.html every few minutes, while trials run."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from types import TracebackType

from search.confirmation.trials_csv import write_trials_csv
from search.ledger.ledger import Ledger
from search.report.running import write_running_html
from search.report.trials import Trial
from search.space.model import Space

log = logging.getLogger(__name__)
SECONDS_BETWEEN = 300.0
FIRST_TRIALS, FIRST_SECONDS = 3, 10.0  # that have ended, and that have passed, before the first
SHARE = 0.02  # of the time that writing may take: where it takes longer, it is done less often
SECONDS_BETWEEN_LOOKS = 1.0


class InterimReport:
    """Writes from what the ledger has on disk, in a thread of its own, for as long as the block lasts."""

    def __init__(
        self, space: Space, output: Path, between: float = SECONDS_BETWEEN, first: float = FIRST_SECONDS
    ) -> None:
        """`between`: seconds from one to the next. `first`: seconds before the first."""
        self.space, self.output, self.between, self.first = space, output, between, first
        self._ledger = Ledger(output)  # its own: a ledger's memory of ended trials is one thread's
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="interim report", daemon=True)

    def __enter__(self) -> InterimReport:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the one that is being written: what follows writes to the same files."""
        self._over.set()
        self._thread.join()

    def write(self) -> None:
        """Both files, each replaced in one step. Raises OSError if that is not possible."""
        records = self._ledger.trials()
        ended = [Trial.of(record) for record in records if record.status != "unfinished"]
        write_trials_csv(self.output / "trials.csv", records)
        write_running_html(self.output, self.space, ended, len(records) - len(ended), time.time())

    def _work(self) -> None:
        due = time.monotonic() + self.first
        while not self._over.wait(min(SECONDS_BETWEEN_LOOKS, self.between)):
            began = time.monotonic()
            if began < due or self._ended() < FIRST_TRIALS:
                continue
            try:
                self.write()
            except OSError as error:  # the loop of the trials notices a full disk by itself
                log.warning("the interim report could not be written: %s", error.strerror or error)
            except Exception:
                log.exception("the interim report could not be made: there will be none until the search ends")
                return
            due = time.monotonic() + max(self.between, (time.monotonic() - began) / SHARE)

    def _ended(self) -> int:
        return sum(1 for _ in (self.output / "trials").glob("*/result.json"))
