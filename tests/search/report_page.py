"""A search's results that are made up, and a report's page taken apart: what the tests of the report start from."""

from __future__ import annotations

import io
import math
import struct
import wave
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

SEARCHED = ["lambda_cross", "lambda_joint", "frequency_scale", "learning_rate_vision", "learning_rate_audio"]


def fake_search(num_trials: int = 24) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """(report, trials, gallery) as a search on spoken digits would leave them; the same at every call."""
    rng = np.random.default_rng(0)
    low_high = {
        "lambda_cross": (1e-2, 1e2),
        "lambda_joint": (1e-2, 1e2),
        "frequency_scale": (0.1, 4.0),
        "learning_rate_vision": (0.1, 100.0),
        "learning_rate_audio": (0.1, 100.0),
    }
    best = dict(zip(SEARCHED, (0.3, 0.1, 0.9, 8.0, 5.0), strict=True))
    trials: list[dict[str, Any]] = []
    for number in range(num_trials):
        name = {0: "paper_default", 1: "default"}.get(number)
        params: dict[str, Any] = {
            key: float(np.exp(rng.uniform(math.log(low), math.log(high)))) for key, (low, high) in low_high.items()
        }
        if number > 10:  # as if the sampler had learnt
            params = {key: best[key] * (params[key] / best[key]) ** 0.4 for key in params}
        if name:
            params = dict(zip(SEARCHED, (10.0, 10.0, 1.0, *((0.5, 0.5) if number == 0 else (3.16, 3.16))), strict=True))
        distance = sum((math.log10(params[key]) - math.log10(best[key])) ** 2 for key in SEARCHED)
        final = 0.945 - 0.022 * distance + rng.normal(0, 0.008)
        seeds = final + rng.normal(0, 0.01 + 0.006 * distance, 3)
        status = "failed" if number == 7 else "pruned" if not name and number > 2 and final < 0.82 else "completed"
        steps = {"failed": 20, "pruned": 40, "completed": 100}[status]
        progress = [
            {"step": step, "score": float(0.45 + (final - 0.45) * (1 - math.exp(-step / 18)) + rng.normal(0, 0.006))}
            for step in range(20, steps + 1, 20)
        ]
        mean, std = float(seeds.mean()), float(seeds.std(ddof=1))
        trial = {
            "number": number,
            "name": name,
            "status": status,
            "error": None,
            "params": params,
            "score": mean - 0.5 * std,
            "score_mean": mean,
            "score_std": std,
            "steps": steps,
            "seconds": 7.3 + number / 7,
            "accuracies": [float(seed) for seed in seeds],
            "progress": progress,
        }
        if status == "pruned":
            trial["score"], trial["score_mean"] = progress[-1]["score"] - 0.5 * std, progress[-1]["score"]
        if status == "failed":
            trial |= {"score": None, "score_mean": None, "score_std": None, "accuracies": [], "progress": []}
            trial["error"] = (
                "loss/joint became NaN at step 20 (replica spoken_digits dpc 5 seed 2), learning_rate_audio 88.1"
            )
        trials.append(trial)

    def entry(mean: float, std: float, n: int = 10) -> dict[str, Any]:
        return {"mean": mean, "std": std, "n": n, "values": [float(v) for v in rng.normal(mean, std, n)]}

    report = {
        "name": "spoken digits, 5 per class: which lambdas?",
        "space": "spaces/quickstart.yaml",
        "seeds": {"search": [0, 1, 2], "confirmation": list(range(1000, 1010))},
        "trials": {status: sum(t["status"] == status for t in trials) for status in ("completed", "pruned", "failed")},
        "recommended": {"lambda_uni": 1.0, **best, "scaling": "normalized", "optimizer": "sgd", "momentum": 0.5},
        "default": {"lambda_uni": 1.0, **trials[1]["params"], "scaling": "normalized"},
        "confirmation": {
            "recommended": entry(0.931, 0.009),
            "best": entry(0.927, 0.012),
            "default": entry(0.868, 0.016),
            "paper_default": entry(0.812, 0.019),
            "difference": {"mean": 0.119, "ci95": [0.104, 0.133], "against": "paper_default"},
            "differences": {
                "default": {"mean": 0.063, "ci95": [0.051, 0.075]},
                "paper_default": {"mean": 0.119, "ci95": [0.104, 0.133]},
            },
            "shrinkage": 0.014,
        },
        "robust_region": dict(
            zip(SEARCHED, ([0.06, 1.4], [0.02, 0.5], [0.5, 1.6], [2.1, 31.0], [1.4, 19.0]), strict=True)
        ),
        "importance": dict(zip(SEARCHED, (0.12, 0.21, 0.38, 0.2, 0.09), strict=True)),
        "test": {
            "recommended": {"mean": 0.924, "std": 0.006, "n": 10},
            "default": {"mean": 0.861, "std": 0.014, "n": 10},
            "random": {"mean": 0.736, "std": 0.019, "n": 10},
            "herding": {"mean": 0.895, "std": 0.0, "n": 10},
            "k_center": {"mean": 0.842, "std": 0.004, "n": 10},
            "mmd": {"mean": 0.911, "std": 0.005, "n": 10},
            "full_data": 0.966,
        },
        "cost": {"seconds": 214.3, "replica_steps": 6120, "replica_steps_per_second": 37.42},
        "mlflow": {
            "tracking_uri": "sqlite:////data/results/quick start/mlflow.db",
            "experiment": "quickstart",
            "run_id": "4e0c2f7a9b1d4c7f8a52f3b1f0a7c9de",
        },
        "versions": {"condense": "0.1.0", "torch": "2.9.1", "ray": "2.52.0", "optuna": "4.6.0", "mlflow": "3.6.0"},
    }
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    gallery = [
        {"label": name, "index": index, "items": _items(rng, index, 0.06), "start": _items(rng, index, 0.0)}
        for index, name in enumerate(names)
    ]
    return report, trials, gallery


def _items(rng: np.random.Generator, kind: int, noise: float) -> dict[str, dict[str, Any]]:
    rows, columns = np.mgrid[0:32, 0:32] / 31 - 0.5
    picture = np.exp(-((np.hypot(rows * (1 + kind / 9), columns) - 0.12 - 0.02 * kind) ** 2) / 0.004)
    mel = np.abs(np.sin(6 * rows * (1 + kind / 4)) * np.exp(-((columns + 0.05 * (kind - 5)) ** 2) / 0.04))
    tone = np.sin(np.arange(4000) * (0.1 + 0.02 * kind)) * np.exp(-np.arange(4000) / 1500)
    return {
        "vision": {"png": _png(picture + rng.normal(0, noise, (32, 32))), "wav": None, "txt": None},
        "audio": {"png": _png(mel + rng.normal(0, noise, (32, 32))), "wav": _wav(tone), "txt": None},
    }


def _png(grey: np.ndarray) -> bytes:
    pixels = (np.clip(grey, 0, 1) * 255).astype(np.uint8)
    height, width = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def _wav(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 20_000).astype("<i2").tobytes())
    return buffer.getvalue()


class Page(HTMLParser):
    """What of a page matters here: its elements, the ids of its sections, and every address it names."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.sections: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        known = dict(attrs)
        if tag == "section":
            self.sections.append(known.get("id") or "")
        self.addresses += [known[key] or "" for key in ("src", "href", "srcset", "poster", "action") if key in known]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["script"] and self.tags[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())
