"""The command line: python -m condense run | evaluate | embed | download | data | towers."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from condense.config.arguments import Parser
from condense.evaluation.protocols import PROTOCOLS
from condense.recipes.arguments import add_recipe_commands, make_recipe
from condense.system.terminal import print_anything

CONFIG_HELP = (
    "YAML of one condensation: dataset, encoder, dpc, steps, seed, hyperparameters (a search's best.yaml is one)"
)


def build_parser() -> Parser:
    """The commands and their options."""
    shown = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="python -m condense",
        description="Condense a paired multi-modal dataset into a few synthetic items per class.",
        epilog="Datasets, encoders and embeddings are kept in $CONDENSE_CACHE (default ~/.cache/condense).\n"
        "Exit status: 0 done, 1 it went wrong on the way (a loss is not finite), 2 a mistake in what was asked for,\n"
        "130 interrupted.",
        formatter_class=shown,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run",
        help="one condensation, exported to a folder",
        description="Run one condensation with given hyperparameters and export the synthetic items.\n\n"
        "The state is kept in .DIR.partial, beside DIR, every 30 s and when the run is interrupted (Ctrl-C, SIGTERM). The\n"
        "same command then goes on from there, to the same result. Another configuration starts anew in its place.",
        epilog="example:\n  python -m condense run results/quickstart/best.yaml --output condensed --set dpc=10",
        formatter_class=shown,
    )
    run.add_argument("config", type=Path, metavar="CONFIG.yaml", help=CONFIG_HELP)
    run.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="new folder, or one with an earlier condensed dataset"
    )

    evaluate = commands.add_parser(
        "evaluate",
        help="score a condensed dataset against baselines and full data",
        description="Score a condensed dataset on the test split, beside as many real items and the full data.\n\n"
        "Three protocols, each trained on the set: a linear probe on the frozen encoder's embeddings; a ConvNet\n"
        "from scratch on the inputs, mean ± std over seeds; retrieval across modalities (class-level recall@1).",
        epilog="example:\n  python -m condense evaluate condensed --json scores.json",
        formatter_class=shown,
    )
    evaluate.add_argument("directory", type=Path, metavar="DIR", help="what `run` or a search exported")
    evaluate.add_argument(
        "--convnet-seeds", type=_whole, default=3, metavar="N", help="ConvNets per row; 0 leaves them out (default 3)"
    )
    evaluate.add_argument(
        "--protocols",
        nargs="+",
        choices=PROTOCOLS,
        default=PROTOCOLS,
        metavar="NAME",
        help="which of probe, convnet and retrieval (default: all three)",
    )
    evaluate.add_argument(
        "--convnet",
        choices=("fast", "dc"),
        default="fast",
        help="how they are trained: fast, a light ConvNet for 300 steps (default); dc, as DC and DSA evaluate: width 128, "
        "1000 epochs of their augmentation, which wants a GPU",
    )
    evaluate.add_argument(
        "--architecture",
        choices=("convnet", "resnet"),
        default="convnet",
        help="which network: the preset's ConvNet (default), or a small ResNet, to see what carries over",
    )
    evaluate.add_argument(
        "--steps", type=_positive, metavar="N", help="training steps of each network (default: the preset's)"
    )
    evaluate.add_argument("--device", metavar="DEVICE", help="cpu, cuda or cuda:1 (default: the GPU if there is one)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write all values there, too")

    embed = commands.add_parser(
        "embed",
        help="only fill the embedding cache",
        description="Compute the encoder and the embeddings of all three splits, if they are not in the cache yet.\n"
        "Shows its progress; after an interruption the same command goes on. $CONDENSE_WORKERS: processes that\n"
        "decode files.",
        epilog="example:\n  python -m condense embed results/quickstart/best.yaml",
        formatter_class=shown,
    )
    embed.add_argument("config", type=Path, metavar="CONFIG.yaml", help=CONFIG_HELP)

    download = commands.add_parser(
        "download",
        help="fetch an encoder's checkpoint",
        description="Fetch the official checkpoint of an encoder. Nothing else here fetches anything, but `data`, `towers`,\n"
        "and `download: true` of a transformers encoder. An interrupted download goes on where it ended. ImageBind: 4.8 GB,\n"
        "CC-BY-NC-SA 4.0 (non-commercial).",
        epilog="example:\n  python -m condense download imagebind --to checkpoints/imagebind_huge.pth",
        formatter_class=shown,
    )
    download.add_argument("name", choices=["imagebind"], metavar="NAME", help="imagebind")
    download.add_argument("--to", type=Path, required=True, metavar="PATH", help="a file, or a folder that is there")

    add_recipe_commands(commands)
    for command in (run, evaluate, embed):
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            dest="overrides",
            help="override a key of the recorded configuration, such as dataset.path=FILE where the data have moved"
            if command is evaluate
            else "override a key, such as dpc=5 or hyperparameters.learning_rate=3; may be repeated",
        )
    run.add_argument(
        "--device",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1, or several GPUs that share the work, cuda:0,cuda:1 (default: the GPU if there is one)",
    )
    embed.add_argument("--device", metavar="DEVICE", help="cpu, cuda or cuda:1 (default: the GPU if there is one)")
    for command in (run, evaluate, embed):
        command.add_argument("--verbose", action="store_true", help="show the log")
        command.add_argument(
            "--verify",
            action="store_true",
            help="read every file of the data and the encoder anew, whatever is known of it",
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status; what a user can mend is one line on stderr and status 2."""
    print_anything()
    options = build_parser().parse_args(arguments)
    level = logging.INFO if getattr(options, "verbose", False) else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s")
    from condense.storage.cache_folder import begin_to_verify
    from condense.system.errors import UserError, what_ran_out
    from condense.system.process import prepare_process

    prepare_process()
    if getattr(options, "verify", False):
        begin_to_verify()
    try:
        if options.command == "download":
            from condense.encoders.download import download

            print(download(options.name, options.to))
            return 0
        if options.command in ("data", "towers"):
            print("\n".join(make_recipe(options)))
            return 0
        from condense import commands  # here: `--help` needs no torch

        if options.command == "run":
            return commands.run(options.config, options.output, options.overrides, options.device)
        if options.command == "evaluate":
            from condense.evaluation.network_protocol import network_protocol

            protocol = network_protocol(options.convnet, options.architecture, options.steps)
            return commands.evaluate(
                options.directory,
                options.convnet_seeds,
                options.json,
                protocols=options.protocols,
                protocol=protocol,
                device=options.device,
                overrides=options.overrides,
            )
        return commands.embed(options.config, options.overrides, options.device)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:  # an embedding of the user's data
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (OSError, RuntimeError, MemoryError) as error:
        if (line := what_ran_out(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted: run the same command again to go on", file=sys.stderr)
        return 130


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, but got {value}")
    return value


_whole.__name__ = "whole number"  # what argparse calls it


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but got {value}")
    return value


_positive.__name__ = "whole number"


if __name__ == "__main__":
    sys.exit(main())
