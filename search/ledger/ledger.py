"""The durable record of a search: its output folder. Tune only executes; the ledger is the source of truth.

    search.json                  the space, search_id, created, versions: refuses another search's folder
    sessions.txt                 start time (unix) of each process that worked on it, a line each
    trials/00012/trial.json      number, name, params, config, seeds, created: written before the trial starts
    trials/00012/progress.jsonl  a line per report: step, time, seconds, metrics, curve
    trials/00012/checkpoint.bin  the engine's last checkpoint, or where it is, and its report; deleted when the trial ends
    trials/00012/fault.txt       the exception that the last attempt raised; absent if its process died
    trials/00012/fault.json      that of the last attempt that raised one, with its traceback (`search/ledger/faults.py`)
    trials/00012/result.json     status, steps, score, error, finished: written once, when the trial ends

A process may be killed between any two bytes that it writes. Complete files appear by rename. A report is written twice:
inside the checkpoint (atomically, with a checksum), then as a line. If the line is missing, `load` adds it; if reports
cannot be completed, they count as absent, and the trial starts again from step 0.

One process at a time writes to a trial's folder; any number may read. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from condense.system.errors import UserError
from search.ledger.atomic_files import read, read_json, write
from search.ledger.faults import record_fault
from search.ledger.records import NOT_FINITE, PastReport, Report, Status, TrialRecord
from search.ledger.run_folder import check_folder, check_resumable, lock_folder

__all__ = ["NOT_FINITE", "Ledger", "PastReport", "Report", "Status", "TrialRecord"]


class Ledger:
    """A search's output folder. The driver uses `Ledger.open`; `Ledger(output)` attaches without check and lock."""

    def __init__(self, output: Path) -> None:
        self.output = Path(output).absolute()
        self.search: dict[str, Any] = read_json(self.output / "search.json") or {}
        self._lock: TextIO | None = None
        self._ended: dict[int, TrialRecord] = {}  # records that cannot change any more
        self._sound: dict[int, tuple[Any, tuple[int, Report] | None]] = {}  # checkpoints seen: file, header

    @classmethod
    def open(
        cls,
        output: Path,
        space: Mapping[str, Any],
        *,
        resume: bool,
        versions: dict[str, str] | None = None,
        complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda recorded: recorded,
    ) -> Ledger:
        """Creates a search's folder, or continues in it with `resume`, and locks out other drivers until `close`.

        `space`: the validated space as JSON. `complete`: adds new keys to a recorded space that an earlier version wrote.
        The folder of a search that ended before its first trial is taken over, or replaced.
        Raises UserError if the folder cannot be written to, is in use, holds another search, holds this one but `resume`
        is false, or holds none but `resume` is true.
        """
        output = Path(output).absolute()
        file = output / "search.json"
        space = json.loads(json.dumps(space))
        if resume:
            check_resumable(output)
        with contextlib.ExitStack() as on_error:
            try:
                (output / "trials").mkdir(parents=True, exist_ok=True)
                lock = on_error.enter_context(lock_folder(output))
                known = read_json(file)
                if known is not None and isinstance(known.get("space"), dict):
                    known["space"] = complete(known["space"])
                check_folder(output, space, resume, known)
                if known is not None and not resume and known.get("space") != space:
                    known = None
                search = known or {"search_id": uuid.uuid4().hex, "created": time.time(), "versions": versions}
                if search.get("space") != space:
                    write(file, json.dumps({**search, "space": space}, indent=2).encode())
                with open(output / "sessions.txt", "a") as sessions:
                    print(time.time(), file=sessions)
                for leftover in (*output.glob("trials/*/.*.tmp"), *_checkpoints_of_ended(output)):
                    leftover.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"{output}: cannot be written to: {error.strerror or error}") from None
            on_error.pop_all()
        ledger = cls(output)
        ledger._lock = lock
        return ledger

    def close(self) -> None:
        """Unlocks the folder for other drivers."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process attaches without owning the lock.
        return {**self.__dict__, "_lock": None, "_ended": {}, "_sound": {}}

    @property
    def search_id(self) -> str:
        """Identifies the search; stays the same after a resume."""
        return str(self.search["search_id"])

    def folder(self, number: int) -> Path:
        """A trial's folder."""
        return self.output / "trials" / f"{number:05d}"

    def new_trial(
        self, number: int, name: str | None, params: Mapping[str, Any], config: Mapping[str, Any], seeds: Sequence[int]
    ) -> None:
        """Records a trial that is about to start. Recording it again is allowed. Raises ValueError if it differs."""
        entry = {"number": number, "name": name, "params": dict(params), "config": dict(config), "seeds": list(seeds)}
        file = self.folder(number) / "trial.json"
        known = read_json(file)
        if known is not None:
            if {key: known.get(key) for key in entry} != json.loads(json.dumps(entry)):
                raise ValueError(f"trial {number} is already recorded with different content")
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, json.dumps({**entry, "created": time.time()}).encode())

    def save(
        self,
        number: int,
        step: int,
        metrics: Mapping[str, float],
        curve: Mapping[str, Sequence[float]] | None,
        checkpoint: bytes | None,
        node: str = "",
    ) -> None:
        """Records a report after `step` steps and the checkpoint to continue from. None: that of an earlier report stays; if
        the trial starts again there, this report goes. A later report of an earlier step (of a trial that started again)
        replaces everything from that step on. Reports of an ended trial are ignored."""
        if self._has_ended(number):
            return
        before = [report for report in self._progress(number) if report.step < step]
        now = max([time.time(), *(report.time for report in before[-1:])])
        points = None if curve is None else {key: [float(v) for v in values] for key, values in curve.items()}
        values = {key: float(value) for key, value in metrics.items()}
        report = Report(step, now, values.get("seconds", 0.0), values, points, node, checkpoint is not None)
        # The order matters: the checkpoint's report can be added to the progress later, but not the reverse.
        if checkpoint is not None:
            header = json.dumps({"index": len(before), "report": report.__dict__}).encode() + b"\n"
            write(self.folder(number) / "checkpoint.bin", _checksum(header + checkpoint) + header + checkpoint)
        self._append(number, report)

    def load(self, number: int) -> tuple[int, list[Report], bytes] | None:
        """A trial's state: steps done, its reports so far, the checkpoint. None if it must start from step 0, or has ended.

        Repairs the folder after a kill, so only the process that continues the trial may call it.
        """
        if self._has_ended(number):
            return None
        reports, _ = self._consistent(number)
        file = self.folder(number) / "progress.jsonl"
        lines = b"".join(_line(report) for report in reports)
        (self.folder(number) / "fault.txt").unlink(missing_ok=True)
        if lines != read(file):
            write(file, lines)
        checkpoint = _read_checkpoint(self.folder(number) / "checkpoint.bin") if reports else None
        return None if checkpoint is None else (reports[-1].step, list(reports), checkpoint[2])

    def restart(self, number: int) -> None:
        """The trial's checkpoint is of no use: it starts again from step 0."""
        (self.folder(number) / "checkpoint.bin").unlink(missing_ok=True)
        write(self.folder(number) / "progress.jsonl", b"")

    def set_fault(self, number: int, text: str, trace: str = "") -> int:
        """Records the exception that ends an attempt at a trial; the next `load` deletes `fault.txt`. Returns how many attempts
        in a row it has ended."""
        line = " ".join(text.split())
        write(self.folder(number) / "fault.txt", line.encode())
        return record_fault(self.folder(number), line, trace).times

    def fault(self, number: int) -> str | None:
        """The exception that ended the last attempt; None if there was none because its process died."""
        return read(self.folder(number) / "fault.txt").decode() or None

    def finish(
        self, number: int, status: Status, score: float | None, error: str | None = None, steps: int | None = None
    ) -> bool:
        """Records how a trial ended; returns False, and changes nothing, if an end is already recorded. A score that is not
        finite is recorded as None. `steps` defaults to those of the last report. The checkpoint, which can be large, is
        deleted."""
        if self._has_ended(number):
            return False
        missing = self._consistent(number)[1]
        if missing is not None:
            self._append(number, missing)
        reports = self._told(number)
        if steps is None:
            steps = reports[-1].step if reports else 0
        score = None if score is None or not math.isfinite(score) else float(score)
        result = {"status": status, "steps": steps, "score": score, "error": error, "finished": time.time()}
        write(self.folder(number) / "result.json", json.dumps(result).encode())
        (self.folder(number) / "checkpoint.bin").unlink(missing_ok=True)
        return True

    def trial(self, number: int) -> TrialRecord | None:
        """A trial's record; None for an unknown trial."""
        if number in self._ended:
            return self._ended[number]
        folder = self.folder(number)
        entry = read_json(folder / "trial.json")
        if entry is None:
            return None
        record = TrialRecord(**{key: entry[key] for key in ("number", "name", "params", "config", "seeds", "created")})
        result = read_json(folder / "result.json")
        if result is None:
            reports = self._told(number)
            known: dict[str, Any] = (
                {"steps": reports[-1].step, "score": reports[-1].metrics.get("score")} if reports else {}
            )
            return replace(record, reports=reports, **known)
        record = replace(record, **result, reports=tuple(self._progress(number)))
        self._ended[number] = record
        return record

    def reported(self, number: int, after: int, step: int) -> list[Report]:
        """The reports of steps in (after, step], as saved. Cheap: used to follow a running search."""
        return [report for report in self._progress(number) if after < report.step <= step]

    def over(self, numbers: Sequence[int]) -> list[int]:
        """Those of these trials that have ended."""
        return [number for number in numbers if self._has_ended(number)]

    def numbers(self) -> list[int]:
        """Of the trials that have a folder, in order."""
        try:
            names = os.listdir(self.output / "trials")
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isdecimal())

    def trials(self) -> list[TrialRecord]:
        """All trials, by number."""
        return [record for number in self.numbers() if (record := self.trial(number)) is not None]

    def ended(self, number: int) -> TrialRecord | None:
        """As `trial`; None for one that has not ended, whose reports are not read."""
        return self.trial(number) if number in self._ended or self._has_ended(number) else None

    def earlier_seconds(self) -> float:
        """Seconds that earlier processes worked on the trials: each from its start to its last report."""
        return sum(self._session_seconds()[:-1])

    def worked_seconds(self) -> float:
        """Seconds that all processes worked on the trials, each from its start to its last report."""
        return sum(self._session_seconds())

    def _session_seconds(self) -> list[float]:
        """Per process that has worked on the search: from its start to its last report."""
        begins = [float(line) for line in read(self.output / "sessions.txt").split()]
        told = [report.time for record in self.trials() for report in record.reports]
        return [
            max((at - begin for at in told if begin <= at < end), default=0.0)
            for begin, end in itertools.pairwise([*begins, math.inf])
        ]

    def history(self) -> list[PastReport]:
        """Every report of every ended trial, in order of time."""
        past = []
        for record in self.trials():
            if record.status != "unfinished":
                for report in record.reports:
                    ended = record.status if report is record.reports[-1] else None
                    past.append(PastReport(record.number, report, ended))
        return sorted(past, key=lambda entry: (entry.report.time, entry.number, entry.report.step))

    def _has_ended(self, number: int) -> bool:
        return read_json(self.folder(number) / "result.json") is not None

    def _progress(self, number: int) -> list[Report]:
        """The reports in progress.jsonl, up to the first torn line."""
        return _parse(read(self.folder(number) / "progress.jsonl"))[0]

    def _append(self, number: int, report: Report) -> None:
        with open(self.folder(number) / "progress.jsonl", "a+b") as file:
            file.seek(0)
            file.truncate(_parse(file.read())[1])  # cuts off a torn line; append mode then writes at the new end
            file.write(_line(report))
            file.flush()
            os.fsync(file.fileno())

    def _consistent(self, number: int) -> tuple[tuple[Report, ...], Report | None]:
        """The reports that an intact checkpoint confirms, and the one that progress.jsonl lacks, if any.

        Empty without such a checkpoint, or if reports before it are missing: the trial starts again.
        """
        head = self._head(number)
        if head is None:
            return (), None
        index, last = head
        lines = self._progress(number)
        reports = [report for report in lines if report.step < last.step]
        if len(reports) != index:
            return (), None
        there = any((report.step, report.time) == (last.step, last.time) for report in lines)
        return (*reports, last), None if there else last

    def _told(self, number: int) -> tuple[Report, ...]:
        """All sound reports of a trial, also those after its checkpoint, that it would make again."""
        sound, lines = self._consistent(number)[0], self._progress(number)
        if not sound and any(report.kept for report in lines):  # they had a checkpoint, which is damaged
            return ()
        after = sound[-1].step if sound else 0
        return (*sound, *(report for report in lines if report.step > after and not report.kept))

    def _head(self, number: int) -> tuple[int, Report] | None:
        """The number of reports before a checkpoint, and its own report; None if it is absent or damaged. Each file is read
        once: they are large, and are replaced, never modified."""
        path = self.folder(number) / "checkpoint.bin"
        try:
            at = path.stat()
        except FileNotFoundError:
            return None
        file = at.st_ino, at.st_mtime_ns, at.st_size
        if number not in self._sound or self._sound[number][0] != file:
            checkpoint = _read_checkpoint(path)
            self._sound[number] = file, None if checkpoint is None else checkpoint[:2]
        return self._sound[number][1]


def _checkpoints_of_ended(output: Path) -> list[Path]:
    """Deletes a checkpoint left by a kill right after the trial's result was written, or by an earlier version."""
    return [file for file in output.glob("trials/*/checkpoint.bin") if read_json(file.parent / "result.json")]


def _read_checkpoint(path: Path) -> tuple[int, Report, bytes] | None:
    """The number of reports before it, its report, the checkpoint; None if the file is absent or damaged."""
    content = read(path)
    checksum, rest = content[:65], content[65:]
    if checksum != _checksum(rest):
        return None
    header, _, checkpoint = rest.partition(b"\n")
    entry = json.loads(header)
    return entry["index"], Report(**entry["report"]), checkpoint


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


def _line(report: Report) -> bytes:
    return json.dumps(report.__dict__).encode() + b"\n"


def _parse(content: bytes) -> tuple[list[Report], int]:
    """The reports in a progress.jsonl, and the number of its intact bytes."""
    reports: list[Report] = []
    sound = 0
    for line in content.split(b"\n")[:-1]:  # the part after the last newline is torn or empty
        try:
            report = Report(**json.loads(line))
        except (ValueError, TypeError):
            break
        while reports and reports[-1].step >= report.step:  # the trial was started again
            reports.pop()
        reports.append(report)
        sound += len(line) + 1
    return reports, sound
