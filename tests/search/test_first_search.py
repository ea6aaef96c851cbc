"""From a clone to a recommendation for a folder of 200 pairs, with precisely the commands that docs/your-data.md shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

ROOT = Path(__file__).parents[2]
MOST = 10  # commands
SOURCES = ("condense", "search", "spaces", "Makefile", "pyproject.toml", "constraints.txt", "README.md")


def documented() -> list[str]:
    """The commands, each with what is fed to it."""
    page = (ROOT / "docs" / "your-data.md").read_text()
    block = page.split("## From a folder of pairs to a recommendation")[1].split("```bash\n")[1].split("```")[0]
    commands, lines = [], iter(block.splitlines())
    for line in lines:
        command = [line]
        if "<<'END'" in line:
            command += iter(lambda: next(lines), "END")
            command.append("END")
        commands.append("\n".join(command))
    return commands


def write_pairs(folder: Path) -> None:
    """200 pairs of four labels: pictures of a colour each, sounds of a pitch each, under noise."""
    rng = np.random.default_rng(0)
    seconds = np.arange(8_000) / 8_000
    for number in range(200):
        label = number % 4
        place = folder / "pairs" / ("red", "green", "blue", "grey")[label]
        place.mkdir(parents=True, exist_ok=True)
        colour = np.full(3, 60) + 90 * (np.arange(3) == label)
        pixels = colour + rng.integers(0, 100, (40, 40, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number:04d}.png")
        tone = 0.3 * np.sin(2 * np.pi * 300 * (label + 1) * seconds) + 0.05 * rng.normal(size=len(seconds))
        soundfile.write(place / f"{number:04d}.wav", tone, 8_000)


def test_there_are_few_commands() -> None:
    commands = documented()
    assert len(commands) <= MOST
    assert commands[0].startswith("git clone ") and commands[1] == "cd condense-search"
    assert sum("search/run.py" in command for command in commands) == 2


@pytest.mark.slow
def test_the_documented_commands_lead_to_a_recommendation(tmp_path: Path) -> None:
    """All but the clone, which is a copy of what is here, and the installation, which is that of this Python."""
    environment = Path(sys.prefix)
    if not (environment / "bin" / "activate").is_file():
        pytest.skip("this Python is not that of a virtual environment")
    write_pairs(tmp_path)
    clone = tmp_path / "condense-search"
    clone.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, clone / name)
    (clone / ".venv" / "bin").mkdir(parents=True)
    for name in ("activate", "python"):
        (clone / ".venv" / "bin" / name).symlink_to(environment / "bin" / name)
    (clone / ".venv" / ".ready").touch()  # newer than pyproject.toml: `make setup` finds nothing to do
    variables = {**os.environ, "PYTHONPATH": str(clone), "CONDENSE_CACHE": str(tmp_path / "cache")}
    ran = subprocess.run(
        ["bash", "-e", "-c", "\n".join(documented()[1:])],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"^recommended +\S", ran.stdout, re.MULTILINE), ran.stdout
    report = json.loads((clone / "results" / "mine" / "report.json").read_text())
    assert report["recommended"] and report["verdict"]["text"] and report["trials"]["failed"] == 0
    assert report["tasks"][0]["items"] == {"condense": 128, "validation": 32}
    assert (clone / "results" / "mine" / "report.html").is_file()
    assert (clone / "my_condensed" / "overview.png").is_file()
