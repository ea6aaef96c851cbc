"""A search's results that are made up, complete, and agree with each other: what the tests of the report start from.

The report is a `search.report.model.Report`, as a search writes it: a key that production has not cannot be made up here.
"""

from __future__ import annotations

import io
import math
import struct
import wave
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from search.report.model import Report
from search.report.trials import Trial, comparable

SPACE = {
    "lambda_cross": (1e-2, 1e2),
    "lambda_joint": (1e-2, 1e2),
    "frequency_scale": (0.1, 4.0),
    "learning_rate_vision": (0.1, 100.0),
    "learning_rate_audio": (0.1, 100.0),
}
SEARCHED = list(SPACE)
OPTIMUM = dict(zip(SEARCHED, (0.3, 0.1, 0.9, 8.0, 5.0), strict=True))
WIDTH = dict(zip(SEARCHED, (0.012, 0.02, 0.05, 0.024, 0.01), strict=True))  # loss of score per decade, squared
DEFAULT = dict(zip(SEARCHED, (10.0, 10.0, 1.0, 3.16, 3.16), strict=True))
PAPER_DEFAULT = DEFAULT | {"learning_rate_vision": 0.5, "learning_rate_audio": 0.5}
TASKS = ["spoken_digits, 1 per class", "spoken_digits, 5 per class", "ave, 5 per class"]
OFFSETS = (-0.035, 0.01, 0.025)  # of each task's share of full data
Params = Mapping[str, float]


def true_score(params: Params) -> float:
    """Share of full data without noise: highest at OPTIMUM."""
    return 0.942 - sum(WIDTH[key] * math.log10(params[key] / OPTIMUM[key]) ** 2 for key in SEARCHED)


def fake_search(num_trials: int = 40) -> tuple[Report, list[Trial], list[dict[str, Any]]]:
    """(report, trials, gallery) as a search over three tasks would leave them; the same at every call."""
    content, trials, gallery = fake_content(num_trials)
    return Report.model_validate(content), trials, gallery


def fake_content(num_trials: int = 40) -> tuple[dict[str, Any], list[Trial], list[dict[str, Any]]]:
    """As `fake_search`, with the content of report.json in place of the report: to be changed before it is validated."""
    rng = np.random.default_rng(0)
    trials = [_trial(rng, number) for number in range(num_trials)]
    content = _report(rng, trials)
    return Report.model_validate(content).as_json(), trials, _gallery(rng)


def _trial(rng: np.random.Generator, number: int) -> Trial:
    name = {0: "paper_default", 1: "default"}.get(number)
    params = {key: float(np.exp(rng.uniform(math.log(low), math.log(high)))) for key, (low, high) in SPACE.items()}
    if number > 16:  # as if the sampler had learnt
        params = {key: OPTIMUM[key] * (params[key] / OPTIMUM[key]) ** 0.4 for key in SEARCHED}
    if name:
        params = PAPER_DEFAULT if number == 0 else DEFAULT
    final = true_score(params) + rng.normal(0, 0.006)
    seeds = final + rng.normal(0, 0.01 + 0.1 * (0.942 - final), 3)
    status = "failed" if number == 7 else "pruned" if not name and number > 2 and final < 0.85 else "completed"
    steps = {"failed": 20, "pruned": 40, "completed": 100}[status]
    progress = [
        (step, float(0.45 + (final - 0.45) * (1 - math.exp(-step / 18)) + rng.normal(0, 0.006)))
        for step in range(20, steps + 1, 20)
    ]
    mean, std = float(seeds.mean()), float(seeds.std(ddof=1))
    known: dict[str, Any] = {
        "score": mean - 0.5 * std,
        "score_mean": mean,
        "score_std": std,
        "accuracies": [float(seed) for seed in seeds],
        "progress": progress,
    }
    if status == "pruned":
        known |= {"score": progress[-1][1] - 0.5 * std, "score_mean": progress[-1][1]}
    if status == "failed":
        cause = "loss/joint became NaN at step 20 (replica spoken_digits dpc 5 seed 2), learning_rate_audio 88.1"
        known = {"error": cause}
    return Trial(number, status, params, name, steps=steps, seconds=7.3 + number / 7, **known)


def _entry(rng: np.random.Generator, mean: float, std: float, trial: int | None = None, n: int = 10) -> dict[str, Any]:
    tasks = [{"mean": mean + offset * (1 + 8 * (0.942 - mean)), "std": std * 1.4, "n": n} for offset in OFFSETS]
    values = [float(value) for value in rng.normal(mean, std, n)]
    return {"mean": mean, "std": std, "n": n, "values": values, "score": mean - std, "trial": trial, "tasks": tasks}


def _against(mean: float, low: float, high: float) -> dict[str, Any]:
    return {"mean": mean, "ci95": [low, high], "n": 10, "covers": ["seeds", "groups"]}


def _on_test(own: float, std: float, n: int = 10) -> dict[str, Any]:
    to = {"paper_default": _against(own - 0.803, own - 0.823, own - 0.783)}
    to["best_baseline"] = _against(own - 0.911, own - 0.921, own - 0.901)
    return {**_spread(own, std, n), "ci95": [own - 0.012, own + 0.012], "difference": to, "baseline": "mmd"}


def _spread(mean: float, std: float, n: int = 10) -> dict[str, Any]:
    return {"mean": mean, "std": std, "n": n, "values": [mean] * n}


def _report(rng: np.random.Generator, trials: list[Trial]) -> dict[str, Any]:
    statuses = [trial.status for trial in trials]
    ended = comparable(trials)
    best = max(ended, key=lambda pair: pair[1])[0].number
    search = {key: {"low": low, "high": high, "log": True} for key, (low, high) in SPACE.items()}
    return {
        "name": "spoken digits and AVE: which lambdas?",
        "metric": "accuracy",
        "space": {"name": "spoken digits and AVE", "tasks": [{}, {"dpc": 5}, {}], "search": search, "steps": 100},
        "search_id": "5d3c0c8e5a6f4d3b9c3e1b7a2f6d8e90",
        "seeds": {"search": [0, 1, 2], "choosing": list(range(1000, 1010)), "reporting": list(range(2000, 2010))},
        "created": 1772446447.2,
        "tasks": [
            {
                "dataset": name.split(",")[0], "encoder": "tiny", "dpc": int(name.split()[1]), "modalities": ["vision", "audio"],
                "class_names": names, "items": {"condense": items, "validation": items // 4}, "metric": "accuracy",
                "full_score": full, "warnings": [], "fingerprints": {"dataset": "7acd", "encoder": "2965"}, "device": "cpu",
                "name": name,
            }
            for name, names, items, full in zip(
                TASKS, (list("0123456789"), list("0123456789"), [f"event {i}" for i in range(28)]),
                (4000, 4000, 3339), (0.947, 0.947, 0.881), strict=True,
            )
        ],
        "trials": {status: statuses.count(status) for status in ("completed", "pruned", "failed")},
        "recommended": OPTIMUM,
        "default": DEFAULT,
        "paper_default": PAPER_DEFAULT,
        "confirmation": {
            "recommended": _entry(rng, 0.931, 0.009),
            "best": _entry(rng, 0.927, 0.012, best),
            "best_single_seed": {**_entry(rng, 0.909, 0.013), "trials": [22, 31, 22]},
            "tuned_rates": _entry(rng, 0.912, 0.011),
            "default": _entry(rng, 0.868, 0.016),
            "paper_default": _entry(rng, 0.812, 0.019),
            "mmd": {**_entry(rng, 0.919, 0.004), "difference": _against(0.012, 0.005, 0.019)},
            "difference": {**_against(0.063, 0.051, 0.075), "against": "default"},
            "differences": {
                "default": _against(0.063, 0.051, 0.075),
                "paper_default": _against(0.119, 0.104, 0.133),
                "tuned_rates": _against(0.019, 0.010, 0.028),
                "best_single_seed": _against(0.022, 0.013, 0.031),
                "best": _against(0.004, -0.003, 0.011),
                "mmd": _against(0.012, 0.005, 0.019),
            },
            "shrinkage": 0.014,
        },
        "shrinkage": 0.014,
        "candidates": _candidates(rng, ended),
        "perturbation": {
            "decades": 0.3,
            "quantile": 0.1,
            "seeds": 2,
            "predicted": 0.916,
            "recommended": _moved(rng, 0.931, 0.0),
            "best": _moved(rng, 0.927, 0.012),
        },
        "robust_region": dict(
            zip(SEARCHED, ([0.06, 1.4], [0.02, 0.5], [0.5, 1.6], [2.1, 31.0], [1.4, 19.0]), strict=True)
        ),
        "response": {name: _slice(name) for name in SEARCHED},
        "response_pairs": [_pair(*pair) for pair in (SEARCHED[:2], SEARCHED[2:4], SEARCHED[3:5])],
        "importance": dict(zip(SEARCHED, (0.12, 0.21, 0.38, 0.2, 0.09), strict=True)),
        "importance_fanova": dict(zip(SEARCHED, (0.22, 0.27, 0.16, 0.24, 0.11), strict=True)),
        "sensitivity": {name: true_score(OPTIMUM) - true_score(OPTIMUM | {name: DEFAULT[name]}) for name in SEARCHED},
        "transfer": {
            "tasks": TASKS,
            "settings": [{"task": task, "trial": number} for task, number in zip(TASKS, (31, 22, 38), strict=True)],
            "share": [[0.911, 0.939, 0.928], [0.884, 0.952, 0.951], [0.862, 0.944, 0.971]],
        },
        "pareto": _pareto(ended),
        "diagnostics": {
            "ignored_modality": {
                "trials": [4, 5, 9, 12],
                "of": len(trials),
                "region": "lambda_cross above 20",
                "meaning": "The loss of one modality does not fall: the other one's weight drowns it.",
            },
            "diverging": {
                "trials": [7],
                "of": len(trials),
                "region": "learning_rate_audio above 60",
                "meaning": "The loss grew by a factor of ten or became NaN.",
            },
            "copies": {"trials": [], "of": len(trials), "region": None, "meaning": "Items of a class are the same."},
        },
        "ablation": [
            {
                "terms": terms,
                "validation": {"mean": mean, "std": 0.009, "n": 10},
                "test": {"mean": mean * 0.944, "std": 0.007, "n": 10},
                "difference": _against(mean - 0.931, mean - 0.939, mean - 0.923) if mean < 0.931 else None,
            }
            for terms, mean in (
                ("uni + cross + joint", 0.931), ("uni + cross", 0.918), ("uni + joint", 0.925), ("cross + joint", 0.909),
                ("uni", 0.897), ("cross", 0.802), ("joint", 0.871),
            )
        ],
        "verdict": {
            "text": "the plateau's setting, from a model of all trials (33 completed, 6 stopped early, 1 failed)",
            "keep_default": False, "saturated": False, "covers": ["seeds", "groups"], "limit": None, "published": "mmd",
            "challenger": "plateau", "trial": None, "difference": _against(0.013, 0.002, 0.024), "compared": 39,
            "unlike_fixed": {},
        },
        "validation": {"groups": 20, "by": "group", "folds": None},
        "racing": {"seeds": {"1": 24, "2": 9, "4": 7}, "replica_steps": 6120, "full": 14800},
        "test": {
            "recommended": _on_test(0.924, 0.006),
            "default": _on_test(0.861, 0.014),
            "paper_default": _on_test(0.803, 0.017),
            "tuned_rates": _on_test(0.905, 0.009),
            "random": _on_test(0.736, 0.019),
            "herding": _on_test(0.895, 0.0),
            "k_center": _on_test(0.842, 0.004),
            "k_means": _on_test(0.871, 0.0),
            "mmd": _on_test(0.911, 0.005),
            "full_data": _on_test(0.966, 0.0, 1),
        },
        "cost": {"seconds": 214.3, "trial_seconds": 402.5, "replica_steps": 6120, "replica_steps_per_second": 37.42},
        "mlflow": {
            "tracking_uri": "sqlite:////data/results/quick start/mlflow.db",
            "experiment": "quickstart",
            "run_id": "4e0c2f7a9b1d4c7f8a52f3b1f0a7c9de",
        },
        "versions": {"condense": "0.1.0", "torch": "2.9.1", "ray": "2.52.0", "optuna": "4.6.0", "mlflow": "3.6.0"},
    }  # fmt: skip


def _candidates(rng: np.random.Generator, ended: list[tuple[Trial, float]]) -> list[dict[str, Any]]:
    top = sorted(ended, key=lambda pair: -pair[1])[:4]
    found: list[tuple[str, int | None, Params, float, float]] = [("plateau", None, OPTIMUM, 0.93, 0.917)]
    found += [
        (f"trial {t.number}", t.number, t.params, 0.934 - 0.007 * i, 0.904 - 0.008 * i) for i, (t, _) in enumerate(top)
    ]
    return [
        {
            "label": label,
            "trial": number,
            "params": params,
            "confirmed": {"mean": mean, "std": float(rng.uniform(0.007, 0.014)), "n": 10},
            "score": mean - 0.01,
            "perturbed": {"quantile": kept, "mean": mean - 0.006, "n": 24} if mean > 0.915 else None,
            "chosen": label == "plateau",
            "tied": mean > 0.925,
        }
        for label, number, params, mean, kept in found
    ]


def _moved(rng: np.random.Generator, mean: float, wider: float) -> dict[str, Any]:
    factors = 10 ** rng.uniform(-0.3, 0.3, (24, len(SEARCHED)))
    lost = [true_score(OPTIMUM) - true_score({k: OPTIMUM[k] * f for k, f in zip(SEARCHED, row)}) for row in factors]
    values = [float(mean - 1.5 * x - wider * rng.uniform() + rng.normal(0, 0.004)) for x in lost]
    return {
        "quantile": float(np.quantile(values, 0.1)),
        "mean": float(np.mean(values)),
        "worst": min(values),
        "values": values,
        "diverged": 0,
    }


def _grid(name: str, count: int) -> list[float]:
    low, high = SPACE[name]
    return [float(value) for value in np.geomspace(low, high, count)]


def _slice(name: str) -> dict[str, list[float]]:
    values = _grid(name, 41)
    mean = [true_score(OPTIMUM | {name: value}) - 0.004 for value in values]
    unsure = [0.006 + 0.006 * math.log10(value / OPTIMUM[name]) ** 2 for value in values]
    low, high = ([m + sign * u for m, u in zip(mean, unsure, strict=True)] for sign in (-1, 1))
    return {"values": values, "mean": mean, "low": low, "high": high}


def _pair(x: str, y: str) -> dict[str, Any]:
    xs, ys = _grid(x, 24), _grid(y, 24)
    mean = [[true_score(OPTIMUM | {x: a, y: b}) + 0.004 * math.log10(a) * math.log10(b) for a in xs] for b in ys]
    return {"x": x, "y": y, "xs": xs, "ys": ys, "mean": mean}


def _pareto(ended: list[tuple[Trial, float]]) -> dict[str, Any]:
    found = [(t.number, [t.score_mean or score, t.steps * 0.06 + t.number % 7]) for t, score in ended]
    return {
        "objectives": ["score", "seconds per condensation"],
        "trials": [
            {"number": n, "values": v, "front": not any(a >= v[0] and b <= v[1] and [a, b] != v for _, (a, b) in found)}
            for n, v in found
        ],
    }


def _gallery(rng: np.random.Generator) -> list[dict[str, Any]]:
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    cards = []
    for label, name in enumerate(names):
        for item in range(2):
            way = [(step, _items(rng, label + item / 2, 0.5 * math.exp(-step / 25))) for step in (20, 40, 60, 80, 100)]
            cards.append(
                {
                    "label": name,
                    "index": 5 * label + item,
                    "start": _items(rng, label + item / 2, 0.5),
                    "items": way[-1][1],
                    "steps": [{"step": step, "items": items} for step, items in way],
                }
            )
    return cards


def _items(rng: np.random.Generator, kind: float, noise: float) -> dict[str, dict[str, Any]]:
    rows, columns = np.mgrid[0:32, 0:32] / 31 - 0.5
    picture = np.exp(-((np.hypot(rows * (1 + kind / 9), columns) - 0.12 - 0.02 * kind) ** 2) / 0.004)
    mel = np.abs(np.sin(6 * rows * (1 + kind / 4)) * np.exp(-((columns + 0.05 * (kind - 5)) ** 2) / 0.04))
    tone = np.sin(np.arange(4000) * (0.1 + 0.02 * kind)) * np.exp(-np.arange(4000) / 1500)
    tone = (1 - noise) * tone + noise * rng.normal(0, 0.2, 4000)
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
