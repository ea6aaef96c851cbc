"""The three-task search of spaces/robust_digits.yaml as the README's table: the recommendation's gain over each alternative.

python benchmarks/robust.py --output results/robust_digits --json robust.json

Runs (or resumes) the search and the ablation, and prints a summary of report.json. Without racing, so that every seed of
the search can choose alone: "the best trial by a single seed" is the mean over these choices.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
LABELS = {
    "recommended": "**recommended**",
    "best": "best trial of the search",
    "best_single_seed": "best trial by a single seed",
    "tuned_rates": "default lambdas and sigma, learning rates tuned",
    "default": "default lambdas and sigma, central learning rates",
    "paper_default": "the paper's default, in its own scaling",
}


def run(output: Path) -> dict[str, Any]:
    """Its report.json."""
    command = [sys.executable, str(ROOT / "search" / "run.py"), "--space", "robust_digits", "--output", str(output)]
    command += ["--set", "racing=null"]
    begun = (output / "search.json").exists()
    subprocess.run([*command, "--resume"] if begun else command, check=True, stdout=sys.stderr)
    subprocess.run([*command, "--ablate"], check=True, stdout=sys.stderr)
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    return report


def table(report: dict[str, Any]) -> list[str]:
    """Markdown: a row per setting, a column per task."""
    confirmation, tasks = report["confirmation"], report["tasks"]
    lines = ["| share of full-data accuracy, % | mean | " + " | ".join(f"{t['dpc']} per class" for t in tasks)]
    lines[0] += " | recommended is ahead by |"
    lines.append("| --- |" + " ---: |" * (len(tasks) + 2))
    for label, name in LABELS.items():
        if label not in confirmation:
            continue
        of = confirmation[label]
        cells = [f"{100 * each['mean']:.1f} ± {100 * each['std']:.1f}" for each in (of, *of["tasks"])]
        apart = confirmation["differences"].get(label)
        ahead = ""
        if apart is not None:
            low, high = apart["ci95"]
            ahead = f"{100 * apart['mean']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {ahead} |")
    return [line.replace("-0", "−0") for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/robust_digits"), help="folder of the search")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    report = run(options.output.absolute())
    print("\n".join(table(report)))
    if report["perturbation"]:
        around = report["perturbation"]["recommended"]
        print(f"\nmoved by up to {report['perturbation']['decades']} decades: 10 % quantile {around['quantile']:.3f}")
    print("\n| terms | validation | test |\n| --- | ---: | ---: |")
    for row in report["ablation"]:
        cells = [f"{100 * row[key]['mean']:.1f} ± {100 * row[key]['std']:.1f}" for key in ("validation", "test")]
        print(f"| {row['terms']} | {cells[0]} | {cells[1]} |")
    if options.json is not None:
        content = {**provenance(), "report": report}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
