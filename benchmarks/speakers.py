"""Whether a verdict on few speakers holds for others: handwritten digits and recordings of six people, two of them unseen.

python benchmarks/speakers.py --json speakers.json          needs data/av_mnist; some minutes

The README's space through small towers, twice: with validation drawn at random from the speakers of the condense split, where
scores come near their ceiling, and with another speaker as validation. Told are when the search said that its score is saturated,
if it did; the narrowest interval of its report; and its verdict on the paper's default and MMD, beside the same on test.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from provenance import provenance, run

from condense.system.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data" / "av_mnist" / "manifest.csv"
SPACE: dict[str, Any] = {
    "search": {
        "lambda_cross": {"low": 0.01, "high": 10, "log": True},
        "lambda_joint": {"low": 0.001, "high": 3, "log": True},
        "frequency_scale": {"low": 0.1, "high": 4, "log": True},
        "learning_rate": {"low": 0.03, "high": 3, "log": True},
    },
    "steps": 60,
}
RIVALS = ("paper_default", "mmd")


def write_manifest(path: Path, mixed: bool) -> None:
    """AV-MNIST's, with absolute paths. `mixed`: without groups, and with validation drawn from all speakers but test's."""
    with DATA.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rng = random.Random(0)
    for row in rows:
        row |= {name: str(DATA.parent / row[name]) for name in ("vision", "audio")}
        if mixed:
            row["group"] = ""
            if row["split"] != "test":
                row["split"] = "validation" if rng.random() < 0.3 else "train"
    names = [name for name in rows[0] if not (mixed and name == "group")]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def searched(folder: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """A search of one manifest: what it said while it ran, and its report."""
    write_manifest(folder / f"{name}.csv", mixed=name == "mixed")
    task = {
        "dataset": {"name": "manifest", "path": f"{name}.csv"},
        "encoder": {"name": "tiny"},
        "dpc": options.dpc,
    }
    space = {"name": name, "tasks": [task], **SPACE, "trials": options.trials, "seeds": options.seeds}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    command = [sys.executable, str(ROOT / "search" / "run.py"), "--space", str(folder / f"{name}.yaml")]
    command += ["--output", str(folder / name), "--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report = json.loads((folder / name / "report.json").read_text(encoding="utf-8"))
    at = re.search(r"best quarter of (\d+) trials", done.stdout)
    return {
        "saturation_told_after": None if at is None else int(at[1]),
        "saturated": report["verdict"]["saturated"],
        "text": report["verdict"]["text"],
        "narrowest_interval": min(widths(report)),
        "claims": {rival: claim(report, rival) for rival in RIVALS if rival in report["confirmation"]["differences"]},
    }


def widths(report: dict[str, Any]) -> list[float]:
    """Of all intervals of differences on validation, and of scores and differences on test."""
    found = [own["ci95"] for own in report["confirmation"]["differences"].values()]
    for own in report["test"].values():
        found += [own.get("ci95"), *(difference["ci95"] for difference in own["difference"].values())]
    return [high - low for interval in found if interval and None not in interval for low, high in [interval]]


def claim(report: dict[str, Any], rival: str) -> dict[str, Any]:
    """What validation says of the recommendation minus `rival`, and what test does. `true`: test does not contradict it; None
    where test has no interval for that."""
    said = report["confirmation"]["differences"][rival]
    on_test = report["test"]["recommended"]
    key = "best_baseline" if rival == on_test["baseline"] else rival
    own = on_test["difference"].get(key)
    mean = report["test"]["recommended"]["mean"] - report["test"][rival]["mean"]
    low, high = said["ci95"]
    contradicted = own is not None and ((low > 0 and own["ci95"][1] < 0) or (high < 0 and own["ci95"][0] > 0))
    return {
        "validation": said,
        "test": {"mean": mean, "ci95": None if own is None else own["ci95"]},
        "true": None if own is None else not contradicted,
    }


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    if not DATA.exists():
        raise UserError(f"{DATA} is missing: `python -m condense data av_mnist --to data/av_mnist` makes it")
    figures: dict[str, Any] = {**provenance(), "trials": options.trials, "dpc": options.dpc}
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("mixed", "speakers"):
            figures[name] = found = searched(Path(temporary), name, options)
            after = found["saturation_told_after"]
            print(f"{name}: saturation {'not told' if after is None else f'told after {after} trials'}, "
                  f"narrowest interval {found['narrowest_interval']:.4f}\n{found['text']}", flush=True)  # fmt: skip
            for rival, of in found["claims"].items():
                print(f"  minus {rival}: validation {of['validation']['mean']:+.4f} {of['validation']['ci95']}, "
                      f"test {of['test']['mean']:+.4f} {of['test']['ci95']}", flush=True)  # fmt: skip
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dpc", type=int, default=5, help="items per class (default 5)")
    parser.add_argument("--trials", type=int, default=36, help="of each search (default 36)")
    parser.add_argument("--seeds", type=int, default=3, help="of each trial (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch in this process")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return run(benchmark, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
