"""Condense your own files: a CSV names them, one row per item, one column per modality.

python examples/own_data.py
"""

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

import condense

folder = Path("results/own_data")
folder.mkdir(parents=True, exist_ok=True)

# Stand-ins for your files: dark pictures with low tones, bright ones with high tones.
rng = np.random.default_rng(0)
rows = ["split,label,vision,audio"]
for i in range(60):
    label = i % 2
    pixels = (rng.integers(0, 120, (32, 32, 3)) + 120 * label).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"{i}.png")
    seconds = np.arange(16_000) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * (400 + 600 * label) * seconds) + 0.05 * rng.normal(size=len(seconds))
    soundfile.write(folder / f"{i}.wav", tone, 16_000)
    rows.append(f"{'train' if i < 40 else 'test'},{('low', 'high')[label]},{i}.png,{i}.wav")
(folder / "mine.csv").write_text("\n".join(rows))

# Without rows of a `validation` split, a part of train is set aside, the same on every machine.
task = condense.load_task(
    dataset={"name": "manifest", "path": str(folder / "mine.csv")},
    encoder={"name": "tiny", "image_size": 32, "image_channels": 3, "epochs": 2},
    dpc=2,
)
result = condense.run(task, condense.published.recommended(), steps=40)
print(f"validation: {result.score:.3f}, full data: {task.full_score:.3f}")
print(f"look at {result.save(folder / 'condensed') / 'overview.png'}")
