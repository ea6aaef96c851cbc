"""How `suite.py` measures its sets: three protocols with intervals, paired differences, and its tables.

Intervals of probe and retrieval are a bootstrap over condensation seeds x held-out items: both are drawn anew, items in whole
groups (speakers, people, concepts) where the data has at least `FEWEST_GROUPS` of them. What an item brings to a recall is by the
delta method (`condense/evaluation/item_values.py`). ConvNets: Student's t over seeds, which says nothing of new items.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from condense.data.dataset import MemorySplit
from condense.embeddings.embeddings import Embedded
from condense.evaluation.comparison import Comparison, is_finite
from condense.evaluation.dd_ranking import rank
from condense.evaluation.linear_probe import train_probes
from condense.evaluation.replica_scores import judge

METHODS = {
    "random": "random items",
    "herding": "herding",
    "k_center": "k-center",
    "medoids": "k-means medoids",
    "mmd": "MMD, rate tuned",
    "avdd": "AVDD-style, rate tuned",
    "paper_default": "paper's default",
    "default": "our default",
    "recommended": "**the search's recommendation**",
    "full_data": "full data",
}
OVER = ("paper_default", "mmd", "default")  # what the recommendation is compared with
PROTOCOLS = {"probe": "linear probe", "retrieval": "retrieval (recall@1 of the class)", "convnet": "ConvNet"}
FEWEST_GROUPS = 5
RESAMPLES = 4000


def measure(comparison: Comparison, sets: Mapping[str, Sequence[MemorySplit]], convnet_seeds: int) -> dict[str, Any]:
    """`methods`: method -> protocol -> {mean, ci95, n, share}; `differences`: of the recommendation, by the probe and by
    retrieval; `ranking`: LRS and ARS of `OVER` and the recommendation; `covers`: what intervals of these two cover. Features are
    not judged by ConvNets."""
    task = comparison.task
    test, classes = comparison.test, task.dataset.num_classes
    zeros = torch.zeros(len(test.labels), dtype=torch.bool)
    if task.dataset.source is not None:  # ConvNets take inputs, not features
        convnet_seeds = 0
    clusters, covers = clusters_of(comparison)
    hits: dict[str, Tensor] = {}
    recalls: dict[str, Tensor] = {}

    def recall(x: Embedded | None) -> Tensor | None:
        found = zeros.double() if x is None else judge(x, test, classes, "retrieval").values
        return None if found is None else found.double()

    for method, of in sets.items():
        embedded = [comparison.embed(items) if is_finite(items) else None for items in of]
        right = [
            zeros if x is None else hits_of(x.features, x.labels, test.features, test.labels, classes) for x in embedded
        ]
        hits[method] = torch.stack(right)
        found = [value for x in embedded if (value := recall(x)) is not None]
        if found:
            recalls[method] = torch.stack(found)
    full = task.condense
    hits["full_data"] = hits_of(full.features, full.labels, test.features, test.labels, classes)[None]
    if recalls and (of_full := recall(full)) is not None:
        recalls["full_data"] = of_full[None]
    nets: dict[str, list[float]] = {}
    if convnet_seeds:
        trainings = [(of[seed % len(of)], seed) for of in sets.values() for seed in range(convnet_seeds)]
        values = iter(comparison.convnet(trainings))
        nets = {method: list(itertools.islice(values, convnet_seeds)) for method in sets}
        nets["full_data"] = comparison.full_convnet(range(convnet_seeds))
    draws = Draws(clusters)
    methods: dict[str, Any] = {}
    for method, right in hits.items():
        methods[method] = {"probe": summary(draws.means(right), float(right.float().mean()), len(right))}
        if method in recalls:
            own = recalls[method]
            methods[method]["retrieval"] = summary(draws.means(own), float(own.mean()), len(own))
        if nets.get(method):
            methods[method]["convnet"] = over_seeds(nets[method])
    for of_protocol in methods.values():
        for protocol, value in of_protocol.items():
            whole = methods["full_data"][protocol]["mean"]
            value["share"] = value["mean"] / whole if whole else None
    differences: dict[str, dict[str, Any]] = {other: {} for other in OVER}
    for protocol, found_by in (("probe", hits), ("retrieval", recalls)):
        for other in OVER if found_by else ():
            ours, theirs = found_by["recommended"].double(), found_by[other].double()
            apart = float(ours.mean() - theirs.mean())
            differences[other][protocol] = summary(draws.means(ours) - draws.means(theirs), apart, len(ours))
    ranking = {}
    if convnet_seeds:
        for method in ("recommended", *OVER):
            scores = rank(comparison, sets[method], sets["random"], range(convnet_seeds))
            ranking[method] = {name: over_seeds(list(scores[name].values)) for name in ("lrs", "ars")}
    return {"methods": methods, "differences": differences, "ranking": ranking, "covers": covers}


def hits_of(features: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, classes: int) -> Tensor:
    """(n,) bool, on the CPU: which test items a linear probe trained on (features, labels) classifies correctly."""
    probes = train_probes(features[None], labels[None], None, classes)
    right: Tensor = (test.float() @ probes.weight[0, 0] + probes.bias[0, 0]).argmax(1) == test_labels
    return right.cpu()


def clusters_of(comparison: Comparison) -> tuple[Tensor, list[str]]:
    """(n,) int64: the cluster of each held-out item, 0 .. k-1, and what intervals over them cover."""
    split = comparison.task.dataset.open_test() if comparison.held_out == "test" else comparison.task.dataset.validation
    groups = split.groups
    if groups is not None:
        distinct, index = groups.cpu().unique(return_inverse=True)
        if len(distinct) >= FEWEST_GROUPS:
            return index, ["seeds", f"{len(distinct)} groups"]
        return torch.arange(len(index)), ["seeds", f"items, of {len(distinct)} groups only"]
    return torch.arange(len(split)), ["seeds", "items"]


class Draws:
    """Bootstrap means. Every method's share a draw's items, so that differences are paired; seeds are drawn per method."""

    def __init__(self, clusters: Tensor) -> None:
        """`clusters`: (n,) int64 in 0 .. k-1."""
        self.clusters, k = clusters, int(clusters.max()) + 1
        self.sizes = torch.bincount(clusters, minlength=k).double()
        drawn = torch.randint(k, (RESAMPLES, k), generator=torch.Generator().manual_seed(0))
        self.weights = torch.zeros(RESAMPLES, k, dtype=torch.float64).scatter_add_(
            1, drawn, torch.ones(RESAMPLES, k, dtype=torch.float64)
        )

    def means(self, hits: Tensor) -> Tensor:
        """(seeds, n), what each item brings -> (RESAMPLES,) means over drawn seeds and clusters. Equal counts: equal seeds."""
        count = len(hits)
        per_cluster = torch.zeros(count, len(self.sizes), dtype=torch.float64).index_add_(
            1, self.clusters, hits.double()
        )
        seeds = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(1))
        of_seeds = torch.zeros(RESAMPLES, count, dtype=torch.float64).scatter_add_(
            1, seeds, torch.full((RESAMPLES, count), 1 / count, dtype=torch.float64)
        )
        right = (of_seeds @ per_cluster * self.weights).sum(1)
        return right / (self.weights @ self.sizes)


def summary(means: Tensor, mean: float, n: int) -> dict[str, Any]:
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"mean": mean, "ci95": [low, high], "n": n}


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean and Student's t interval; none for a single value, nor where seeds change nothing."""
    n = len(values)
    if len(set(values)) < 2:
        return {"mean": fmean(values), "ci95": None, "n": n}
    half = float(student.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n)
    return {"mean": fmean(values), "ci95": [fmean(values) - half, fmean(values) + half], "n": n}


def points(value: Mapping[str, Any] | None, sign: bool = False) -> str:
    """`48.2 [46.0, 50.1]`, in %."""
    if value is None:
        return ""
    text = f"{100 * value['mean']:+.1f}" if sign else f"{100 * value['mean']:.1f}"
    if value["ci95"] is None:
        return text
    return f"{text} [{100 * value['ci95'][0]:.1f}, {100 * value['ci95'][1]:.1f}]"


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(name: str, cells: Mapping[str, Mapping[str, Any]]) -> str:
    """A task's tables: per protocol a row per method and a column per number of items; the best mean of each is bold."""
    first = next(iter(cells.values()))
    lines = [
        f"\n### {name}\n\nTest, %; 95 %: intervals cover {' and '.join(first['covers'])}, those of ConvNets seeds only."
    ]
    for protocol, title in PROTOCOLS.items():
        if protocol not in first["methods"]["random"]:
            continue
        lines += ["", row([title, *(f"{dpc} per class" for dpc in cells)]), row(["---", *["---:"] * len(cells)])]
        for method, title_of in METHODS.items():
            values = [of["methods"][method].get(protocol) for of in cells.values()]
            best = [
                max(own[protocol]["mean"] for m, own in of["methods"].items() if m != "full_data" and protocol in own)
                for of in cells.values()
            ]
            texts = [
                f"**{points(v)}**" if v is not None and method != "full_data" and v["mean"] == top else points(v)
                for v, top in zip(values, best, strict=True)
            ]
            lines.append(row([title_of, *texts]))
        if protocol != "convnet":
            for other in OVER:
                told = [points(of["differences"][other][protocol], True) for of in cells.values()]
                lines.append(row([f"recommendation minus {METHODS[other]}", *told]))
    return "\n".join(lines)
