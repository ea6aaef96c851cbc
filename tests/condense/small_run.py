"""A small run: its configuration, and what a command says of a mistake in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_files import ENCODER, HYPERPARAMETERS, write_tensors

from condense.__main__ import main


def write_config(folder: Path, **changes: Any) -> Path:
    """`folder`/config.yaml, and the data that it names."""
    if not (folder / "data.safetensors").exists():
        write_tensors(folder / "data.safetensors")
    content = {
        "dataset": {"name": "tensors", "path": "data.safetensors"},
        "encoder": ENCODER,
        "dpc": 2,
        "steps": 4,
        "hyperparameters": HYPERPARAMETERS,
        **changes,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a user's mistake gets."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("reading", "warning"))]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]
