"""Validation accuracy with orthogonal and with independent frequencies, on the same seeds.

python benchmarks/frequencies.py --json frequencies.json

Our settings (benchmarks/settings) and the paper's default, which draws its frequencies independently. The pool holds four
times the frequencies of a step in every case.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from accuracy import parser_of, read_settings
from judge import condensed
from provenance import provenance, run

from condense.config.models import Hyperparameters
from condense.config.published import PAPER_DEFAULT
from condense.embeddings.task import load_task
from condense.evaluation.comparison import Comparison, Sample
from condense.storage.store import Store
from search.analysis.statistics import paired_difference

COUNTS = (32, 64, 128, 256)
POOL = 4  # passes of one step's frequencies
SAMPLINGS = ("independent", "orthogonal")
FIRST_SEED = 3_500_000_000  # used by no other benchmark


def settings_of(ours: Hyperparameters, counts: Sequence[int]) -> list[tuple[str, list[Hyperparameters]]]:
    """(whose, its setting with independent and with orthogonal frequencies)."""
    rows = [("ours", count, ours) for count in counts] + [("paper_default", counts[-1], PAPER_DEFAULT)]
    return [
        (
            whose,
            [
                h.model_copy(
                    update={
                        "num_frequencies": count,
                        "frequency_pool": POOL * count,
                        "frequency_sampling": sampling,
                    }
                )
                for sampling in SAMPLINGS
            ],
        )
        for whose, count, h in rows
    ]


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Prints a table; returns what `--json` writes."""
    seeds = [FIRST_SEED + i for i in range(options.seeds)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    configs = read_settings(options.settings, options.quick)
    task = load_task(list(configs.values())[-1], Store(), device)
    validation = Comparison(task, Store(), held_out="validation")
    print("| per class | setting | frequencies in a step | independent | orthogonal | difference, 95 % | seconds |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    found = []
    for dpc, config in configs.items():
        for whose, both in settings_of(config.hyperparameters, COUNTS[-1:] if options.quick else COUNTS):
            count = both[0].num_frequencies
            samples, seconds = [], []
            for h in both:
                started = time.perf_counter()
                (sets,) = condensed(task, config, [h], seeds)
                seconds.append(time.perf_counter() - started)
                samples.append(Sample(tuple(validation.probe(validation.embed(items)) for items in sets)))
            apart = paired_difference(samples[1].values, samples[0].values)
            found.append(
                {
                    "dpc": dpc,
                    "setting": whose,
                    "num_frequencies": count,
                    "independent": samples[0].as_json(),
                    "orthogonal": samples[1].as_json(),
                    "difference": apart.as_json(),
                    "seconds": dict(zip(SAMPLINGS, seconds, strict=True)),
                }
            )
            low, high = (100 * x for x in (apart.low, apart.high))
            told = " | ".join(f"{100 * s.mean:.1f} ± {100 * s.std:.1f}" for s in samples)
            print(
                f"| {dpc} | {whose} | {count} | {told} | {100 * apart.mean:+.2f} [{low:.2f}, {high:.2f}] "
                f"| {seconds[0]:.1f}, {seconds[1]:.1f} |",
                flush=True,
            )
    return {**provenance(), "seeds": seeds, "frequencies": found}


def main(arguments: Sequence[str] | None = None) -> int:
    return run(benchmark, parser_of(__doc__, seeds=16).parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
