"""Records a benchmark's commit and machine with its results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from condense.system.errors import UserError


def provenance() -> dict[str, Any]:
    """{`commit`, `uncommitted_changes`, `machine`}."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return {
        "commit": git("rev-parse", "HEAD") or None,
        "uncommitted_changes": bool(git("status", "--porcelain")),
        "machine": {
            "cpu_count": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        },
    }


def run(benchmark: Callable[[argparse.Namespace], dict[str, Any]], options: argparse.Namespace) -> int:
    """A benchmark with `options.threads` of PyTorch; its figures go to `options.json`, if given. Returns the exit status."""
    torch.set_num_threads(options.threads)
    try:
        figures = benchmark(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return 0
