"""A notebook: a real Jupyter kernel runs a condensation and searches, in a thread and without, and shows how far they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from search_process import report
from small_search import NO_CONFIRMATION

CELLS = (
    """
import yaml
import condense, search
space = yaml.safe_load(open("small.yaml"))
task = condense.load_task(space["tasks"][0])
result = condense.run(task, steps=6)
result.losses
""",
    """
import threading
found = []
thread = threading.Thread(target=lambda: found.append(search.run("small.yaml", output="out")))
thread.start()
thread.join()
(results,) = found
""",
    """
print(results.verdict)
results.trials
""",
    """
print(search.resume("out", trials=6).recommended)
print(search.status("out"))
""",
)


def text_of(cell: Any) -> str:
    """All that a cell shows."""
    found = []
    for output in cell.outputs:
        data = output.get("data", {})
        found.append(output.get("text", "") or data.get("text/html", "") or data.get("text/plain", ""))
    return "\n".join(found)


@pytest.mark.faults
def test_a_notebook(write_space: Callable[..., Path], tmp_path: Path) -> None:
    write_space(tmp_path, confirmation=NO_CONFIRMATION, trials=4)
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    losses, ran, found, resumed = map(text_of, notebook.cells)
    assert "<th>uni</th>" in losses and "<th>6</th>" in losses
    assert "small: 4 trials x 2 seeds" in ran
    assert "trials 4/4" in ran
    assert "\x1b[" not in ran
    assert "on test" in found
    assert "paper_default" in found
    assert "complete" in resumed and "trials 6/6" in resumed
    recommended = report(tmp_path / "out")["recommended"]
    known = [value for value in recommended.values() if value is not None]  # a setting that is kept may lack some
    assert json.dumps(known[0])[:6] in resumed
    assert yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())["hyperparameters"]
    for cell in notebook.cells:
        assert "Traceback" not in text_of(cell)
        assert not any(output.output_type == "error" for output in cell.outputs)
