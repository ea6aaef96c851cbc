"""What racing saves: replica-steps and confirmed score of the same search with and without racing.

python benchmarks/racing.py --repetitions 5 --json racing.json

All sides of a repetition have the same seed, so the same sampler's seeds, paired replica seeds and fresh seeds. The confirmed
score is that of the recommendation, on reporting seeds that no search has used.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
ALL = "all seeds"


def sides(tolerances: Sequence[float]) -> dict[str, str]:
    """What is compared, and the override that makes it so."""
    races = {f"racing, {t:g}": f"racing={{start: 1, growth: 2, tolerance: {t:g}}}" for t in tolerances}
    return {ALL: "racing=null", **races}


def search(output: Path, seed: int, racing: str, trials: int, seeds: int) -> dict[str, Any]:
    """One search; replica-steps of its trials, and the confirmed scores of its recommendation by seed."""
    # What is compared are the trials: the choice goes by a few fresh seeds, and a good many judge it.
    confirmation = "confirmation={top_k: 3, seeds: 20, perturbations: 0, tuned_rates: 0}"
    command = [sys.executable, str(ROOT / "search" / "run.py"), "--space", "quickstart", "--output", str(output)]
    for override in (f"trials={trials}", f"seeds={seeds}", f"seed={seed}", racing, confirmation):
        command += ["--set", override]
    subprocess.run(command, cwd=output.parent, stdout=subprocess.DEVNULL, check=True)
    report = json.loads((output / "report.json").read_text())
    confirmed = report["confirmation"]["recommended"]
    return {
        "replica_steps": report["cost"]["replica_steps"],
        "score": confirmed["mean"],
        "std": confirmed["std"],
        "racing": report["racing"],
        "trials": report["trials"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--tolerances", type=float, nargs="+", default=[0.0, 0.5, 1.0], metavar="STANDARD_ERRORS")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    compared = sides(options.tolerances)
    print(f"{'seed':>4}  {'side':<12} {'replica-steps':>13}  confirmed score")
    for seed in range(options.repetitions):
        row = {}
        for side, racing in compared.items():
            with tempfile.TemporaryDirectory() as name:
                row[side] = search(Path(name) / "out", seed, racing, options.trials, options.seeds)
            found = row[side]
            print(
                f"{seed:>4}  {side:<12} {found['replica_steps']:>13}  {found['score']:.4f} ± {found['std']:.4f}",
                flush=True,
            )
        rows.append(row)
    figures: dict[str, Any] = {**provenance(), "searches": rows}
    for side in compared:
        if side == ALL:
            continue
        share = fmean(row[side]["replica_steps"] / row[ALL]["replica_steps"] for row in rows)
        apart = [row[side]["score"] - row[ALL]["score"] for row in rows]
        error = stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
        figures[side] = {"share_of_replica_steps": share, "difference": fmean(apart), "standard_error": error}
        print(f"{side}: {share:.2f} of the replica-steps; confirmed score {fmean(apart):+.4f} ± {error:.4f}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
