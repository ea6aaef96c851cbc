"""Condense through an encoder of your own: one file with `specs` and `build` (docs/encoders.md).

python examples/own_encoder.py
"""

from pathlib import Path

import condense

ENCODER = """
import math

import torch
import torch.nn.functional as F
from torch import nn

from condense.inputs.spec import ImageSpec, LogMelSpec


def specs(options):
    return {"vision": ImageSpec.of("vision", 1, 16, (0.5,), (0.5,)), "audio": LogMelSpec.of(32, 32)}


class RandomFeatures(nn.Module):
    def __init__(self, specs, dim):
        super().__init__()
        self.specs, self.dim, self.output_scale = specs, dim, dict.fromkeys(specs, 1.0)
        self.fingerprint = f"random features, {dim}"  # all that embeddings depend on, besides this file
        generator = torch.Generator().manual_seed(0)
        for name, spec in specs.items():
            size = math.prod(spec.shape)
            self.register_buffer(name, torch.randn(size, dim, generator=generator) / size**0.5)

    def embed(self, modality, inputs):  # (n, *shape) -> (n, dim) float32 of unit norm
        return F.normalize(torch.tanh(inputs.flatten(1) @ getattr(self, modality)), dim=1)


def build(options, dataset):
    return RandomFeatures(dataset.specs, options.get("dim", 64))
"""

file = Path("results/own_encoder/my_encoder.py")
file.parent.mkdir(parents=True, exist_ok=True)
file.write_text(ENCODER)

# The file is tried first: unit norm, a gradient, and no dependence on the other items of a batch.
task = condense.load_task(
    dataset={"name": "spoken_digits"},
    encoder={"name": "python", "path": str(file), "options": {"dim": 128}},
    dpc=1,
)
result = condense.run(task, condense.published.recommended(), steps=40)
print(f"validation: {result.score:.3f} (its start: {result.scores.score[0]:.3f}), full data: {task.full_score:.3f}")
