"""Speed of encoding a manifest's files, decoded by threads of one process or ahead of time by worker processes. Measures both
in turn, on one machine and on the same files.

python benchmarks/encoding.py --json encoding.json

The files: JPEG images of 500 x 375 pixels and WAV sounds of 10 s at 44.1 kHz, as ImageBind takes them (224 x 224 pixels, three
clips of 2 s as log-mel spectrograms).

- decoding: decoded items per second, without encoding.
- encoding: the same with ImageBind behind it (random weights; on a CPU a few narrow layers of it).
- cpu_seconds_per_item: of all processes, their start included; more telling than the rate if others use the machine.
- first_chunk_seconds: until the first items arrive; includes the start of worker processes.
- speedup_by_workers {`decoding`, `encoding`}: items per second with processes over those with threads, their start included.
"""

from __future__ import annotations

from condense.system.process import cores, prepare_process

prepare_process()

import argparse
import csv
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import soundfile
import torch
from PIL import Image
from provenance import provenance

from condense.config.models import ImageBindEncoder, ManifestDataset
from condense.data.dataset import Split
from condense.data.decoding import CHUNK, cut, decoded, worker_count
from condense.data.manifest import load_manifest
from condense.embeddings.encoding import LARGEST_BATCH, Embedder
from condense.encoders import build_encoder, encoder_specs
from condense.encoders.protocol import Encoder

WAYS = ("threads", "processes")


def write_files(folder: Path, items: int) -> Path:
    """The CSV of so many train items (and two test items, the minimum of a manifest)."""
    rng = np.random.default_rng(0)
    rows = [["split", "label", "vision", "audio"]]
    for i in range(items + 2):
        # Smooth noise has about the file size of a photograph, and takes as long to decode.
        small = Image.fromarray(rng.integers(0, 256, (47, 63, 3), np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=90)
        soundfile.write(folder / f"{i}.wav", rng.uniform(-0.5, 0.5, 441_000), 44_100, subtype="PCM_16")
        split = "test" if i >= items else "validation" if i < 2 else "train"
        rows.append([split, "ab"[i % 2], f"{i}.jpg", f"{i}.wav"])
    with (folder / "files.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "files.csv"


def measure(split: Split, way: str, workers: int, encoder: Encoder | None, device: torch.device) -> dict[str, float]:
    """Over the whole split: items per second, CPU seconds per item; seconds until the first items are there."""
    batches = cut(range(len(split)), LARGEST_BATCH)
    size = CHUNK if way == "processes" else LARGEST_BATCH
    started, cpu_before = time.perf_counter(), cpu_seconds()
    first = None
    stream = decoded(split, [c for b in batches for c in cut(b, size)], workers if way == "processes" else 0, device)
    embedder = None if encoder is None else Embedder(encoder, split.present, device, LARGEST_BATCH)
    for batch in batches:
        chunks = []
        for _ in cut(batch, size):
            chunks.append(next(stream))
            first = first or time.perf_counter() - started
        if embedder is not None:
            embedder(chunks, batch)
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu_before
    assert next(stream, None) is None and first is not None
    return {"rate": len(split) / seconds, "cpu": cpu / len(split), "first": first}


def cpu_seconds() -> float:
    """CPU seconds of this process and its running children."""
    this = psutil.Process()
    return sum(sum(of.cpu_times()[:2]) for of in (this, *this.children(recursive=True)))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--items", type=int, default=1024, help="files of each kind")
    parser.add_argument("--rounds", type=int, default=3, help="of each side, in turn; the median counts")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = ImageBindEncoder(random_weights=True, size="huge" if device.type == "cuda" else "small")
    workers = worker_count() or cores()
    figures: dict[str, Any] = {**provenance(), "items": options.items, "cores": cores(), "workers": workers}
    with tempfile.TemporaryDirectory() as name:
        path = write_files(Path(name), options.items)
        dataset = load_manifest(ManifestDataset(name="manifest", path=path), encoder_specs(config))
        encoder = build_encoder(config, dataset)
        if isinstance(encoder, torch.nn.Module):
            encoder.to(device)
        split = dataset.condense
        split.load(range(min(64, len(split))))  # the files are in the page cache, and libraries are loaded
        for work, behind in (("decoding", None), ("encoding", encoder)):
            runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for _ in range(options.rounds):
                for way in WAYS:
                    runs[way].append(measure(split, way, workers, behind, device))
            figures[work] = {
                way: {"median": median(run["rate"] for run in of), "values": [run["rate"] for run in of]}
                for way, of in runs.items()
            }
            for figure, key in (("cpu_seconds_per_item", "cpu"), ("first_chunk_seconds", "first")):
                figures[work][figure] = {way: median(run[key] for run in of) for way, of in runs.items()}
    figures["speedup_by_workers"] = {
        work: figures[work]["processes"]["median"] / figures[work]["threads"]["median"]
        for work in ("decoding", "encoding")
    }
    print(f"{options.items:,} items (JPEG and WAV) on {cores()} cores, {device}; {workers} worker processes")
    print("| | threads | processes | ratio | CPU ms per item | first chunk after |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for work, ratio in figures["speedup_by_workers"].items():
        of = figures[work]
        cpu = " / ".join(f"{1000 * of['cpu_seconds_per_item'][way]:.0f}" for way in WAYS)
        print(
            f"| {work}, items per second | {of['threads']['median']:.0f} | {of['processes']['median']:.0f} | {ratio:.2f} "
            f"| {cpu} | {of['first_chunk_seconds']['processes']:.1f} s |"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
