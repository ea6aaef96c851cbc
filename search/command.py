"""The command `python search/run.py`: its options, and how it ends."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from pathlib import Path

from condense.system.errors import UserError
from condense.system.terminal import print_anything
from search.output_folder import placed


def folder(text: str) -> Path:
    """See `placed`. A shell variable that is not set would be the current one."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    try:
        return Path(text) if "://" in text else placed(Path(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line. Exits with status 2 on a mistake."""
    from condense.config.arguments import Parser

    parser = Parser(
        prog="search/run.py", description="Search robust hyperparameters of multi-modal dataset condensation."
    )
    parser.add_argument(
        "--space", default="quickstart", help="a search space: a YAML file, or the name of one in spaces/"
    )
    parser.add_argument("--trials", type=int, help="number of trials (as --set trials=N)")
    parser.add_argument(
        "--time",
        type=float,
        metavar="HOURS",
        help="end in so many hours, with confirmation and report (as --set budget.hours=HOURS)",
    )
    parser.add_argument("--output", type=folder, help="folder of the results (default: results/NAME)")
    parser.add_argument("--name", help="name of the search (default: the space's)")
    parser.add_argument("--resume", action="store_true", help="continue the search in the output folder")
    parser.add_argument(
        "--auto-resume",
        action="store_true",
        help="continue the search in the output folder, or begin it if there is none: for schedulers that repeat a job",
    )
    parser.add_argument("--address", help="Ray cluster: an address, `auto`, or `local` to start one on this machine")
    parser.add_argument(
        "--tracking-uri",
        help="MLflow server or database (default: $MLFLOW_TRACKING_URI, or a database beside the output)",
    )
    parser.add_argument("--experiment", metavar="NAME", help="MLflow experiment to log to (default: condensation)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override a key of the space"
    )
    parser.add_argument(
        "--warm-start",
        type=folder,
        metavar="OTHER",
        help="start from the trials of the search in this folder, or from its best settings",
    )
    parser.add_argument(
        "--ablate",
        action="store_true",
        help="after a search: re-run with each loss term alone and with each removed",
    )
    parser.add_argument(
        "--status",
        type=folder,
        metavar="FOLDER",
        help="say how far the search in this folder is, running or not; run nothing",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read every file of the data and the encoders anew, whatever is known of it",
    )
    parser.add_argument(
        "--conclude",
        type=folder,
        metavar="FOLDER",
        help="end the search in this folder, running or not, with the trials that it has: confirm them, write the report",
    )
    parser.add_argument(
        "--stop-trial",
        type=int,
        metavar="N",
        help="of the search that runs in --output: end trial N at its next report; it counts as stopped early",
    )
    parser.add_argument("--dry-run", action="store_true", help="validate and print the space; run nothing")
    parser.add_argument("--verbose", action="store_true", help="show the log")
    return parser.parse_args(arguments)


def tell_status(of: Path) -> int:
    """Prints the line of `search.status`; it only reads. Returns the exit status."""
    from search.run_status import status

    try:
        print(status(of), flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 when the search is complete, 2 for a user's mistake, 130 if it was interrupted, 1 if it had to stop."""
    started = time.monotonic()
    print_anything()
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s %(message)s")
    from condense.storage.cache_folder import begin_to_verify

    if options.status is not None:
        return tell_status(options.status)
    from search.driver import Request, Search, describe
    from search.interruption import Stopped

    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # a lost connection is an interruption: --resume goes on
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    if options.verify:
        begin_to_verify()
    try:
        if options.conclude is not None:
            from search.api import conclude

            conclude(options.conclude, address=options.address, tracking_uri=options.tracking_uri)
            return 0
        if options.stop_trial is not None:
            from search.api import stop_trial

            if options.output is None:
                raise UserError("--stop-trial needs --output FOLDER, in which the search runs")
            stop_trial(options.output, options.stop_trial)
            return 0
        limits = [f"trials={options.trials}"] if options.trials is not None else []
        limits += [f"budget.hours={options.time}"] if options.time is not None else []
        request = Request.of(
            options.space,
            overrides=[*options.overrides, *limits],
            name=options.name,
            output=options.output,
            resume=options.resume,
            auto_resume=options.auto_resume,
            address=options.address,
            tracking_uri=options.tracking_uri,
            warm_start=options.warm_start,
            ablate=options.ablate,
            experiment=options.experiment,
        )
        if options.dry_run:
            with contextlib.suppress(BrokenPipeError):  # `| head` has seen enough
                print(describe(request), flush=True)
            return 0
        return Search(request, started=started).run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"error: {stopped}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the first trial or after the last: what is done is in the output folder
        print("interrupted", file=sys.stderr)
        return 130
