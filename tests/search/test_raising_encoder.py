"""An encoder with a bug: its traceback is shown once, at once; nothing is tried more than twice; the search ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from search_process import SearchProcess
from small_search import SMALL, small_tensors

from search.ledger.faults import described, read_fault, record_fault

MESSAGE = "the camera of my encoder is off"
ENCODER = f"""
import math

import torch
import torch.nn.functional as F

from condense.inputs.spec import ImageSpec, LogMelSpec


def specs(options):
    return {{"vision": ImageSpec.of("vision", 1, 8, (0.5,), (0.5,)), "audio": LogMelSpec.of(32, 32)}}


class Raising(torch.nn.Module):
    def __init__(self, specs):
        super().__init__()
        self.specs, self.dim, self.output_scale, self.calls = specs, 8, dict.fromkeys(specs, 1.0), 0
        self.fingerprint = "raising"
        for name, spec in specs.items():
            size = math.prod(spec.shape)
            self.register_buffer(name, torch.randn(size, 8, generator=torch.Generator().manual_seed(0)) / size**0.5)

    def embed(self, modality, inputs):
        if inputs.requires_grad:
            self.calls += 1
            if self.calls > 12:
                raise RuntimeError({MESSAGE!r})
        return F.normalize(torch.tanh(inputs.flatten(1) @ getattr(self, modality)), dim=1)


def build(options, dataset):
    return Raising(dataset.specs)
"""


@pytest.mark.slow
def test_a_raising_encoder_ends_the_search_with_its_own_traceback(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(small_tensors(), tmp_path / "data.safetensors")
    (tmp_path / "encoder.py").write_text(ENCODER)
    task = {**SMALL["tasks"][0], "encoder": {"name": "python", "path": "encoder.py"}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({**SMALL, "tasks": [task], "trials": 12}))
    search = SearchProcess(tmp_path, "--space", "space.yaml", "--output", "out", "--address", "local")
    assert search.finish() == 1
    told, lines = search.err.read_text(), search.out.read_text()
    assert told.count(f"RuntimeError: {MESSAGE}") == told.count("raised an exception after step") == 1
    assert "encoder.py" in told, "the place in the user's file"
    last = told.strip().splitlines()[-1]
    assert last.startswith("error: 3 trials in a row failed with the exception above"), last
    assert "--resume" in last
    assert "its process died" not in lines
    assert lines.count(f"failed: RuntimeError: {MESSAGE}") <= 4, "two trials at a time: the search went on"
    failed = [json.loads(path.read_text()) for path in (tmp_path / "out" / "trials").glob("*/result.json")]
    assert {result["error"] for result in failed} == {f"RuntimeError: {MESSAGE}"}
    fault = read_fault(tmp_path / "out" / "trials" / "00000")
    assert fault is not None and fault.times == 2 and "encoder.py" in fault.trace


def test_faults_are_counted_until_another_one_comes(tmp_path: Path) -> None:
    assert read_fault(tmp_path) is None
    times = [record_fault(tmp_path, text, "trace").times for text in ("a", "a", "b", "a", "a", "a")]
    assert times == [1, 2, 1, 1, 2, 3]


def test_an_exception_is_described_with_its_traceback() -> None:
    try:
        raise ValueError("no such thing")
    except ValueError as error:
        text, trace = described(error)
    assert text == "ValueError: no such thing"
    assert "test_raising_encoder.py" in trace and trace.rstrip().endswith(text)


def test_an_exception_of_an_actor_is_the_actors() -> None:
    class OfAnActor(RuntimeError):
        cause = KeyError("lambda")

    text, trace = described(OfAnActor("\x1b[36mray::EngineActor\x1b[39m\n  File x\nKeyError: 'lambda'"))
    assert text == "KeyError: 'lambda'"
    assert trace == "ray::EngineActor\n  File x\nKeyError: 'lambda'"
