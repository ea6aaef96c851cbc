"""Failure signatures: why a trial does badly, read from its loss curve and diagnostics.

The thresholds were found in runs on the embedded dataset with the encoder `tiny`: 160 settings at 1 item per class (60
steps, 3 seeds, learning rates 0.3 .. 300, sigma 0.1 .. 4, lambda_cross and lambda_joint 0.01 .. 100), 24 of them at 10
items, and single ones outside of that. Scores are shares of full data; a run is called healthy here if its share is at
least 0.9 (the best: 0.94 at 1 item per class, 0.99 at 10). Standard library only: trial processes import this.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median

from search.ledger.ledger import Report, TrialRecord

MEANING = {
    "modality_collapse": "One modality takes the gradient or carries the score alone; the items teach little with another.",
    "instability": "The loss, or its uni-modal term, ends above where it began, jumps up time and again, or is not finite.",
    "poor_alignment": "The nearest synthetic item of another modality is of the same class less often than among real items.",
}

CARRIED = 0.5
"""The lower `alone` of two modalities over the higher. At least 0.75 in all of these runs, since real items are a good
start; below 0 if a modality stayed at its initial noise. One half is far from both."""
CARRYING = 0.3
"""Smallest `alone` of a modality that contributes to the score at all. It is 0.4 or more after any reasonable step."""
DOMINANCE = 5.0
"""Ratio of two modalities' gradients: at most 3.2 in healthy runs, 9 in the one spoilt by a heavy joint term."""
TAUGHT = 0.8
"""From this `alone` on, a modality needs no gradient: it has learned all there is. 0.76 to 0.99 in healthy runs."""
ALIGNED = 0.6
"""Smallest `alignment`, as a share of that of equally many real items. In healthy runs: above 2 at 1 item per class,
which is as good as a class mean, and 0.79 to 1.3 at 10 items, which spread like the real ones. 0.3 to 0.5 if the loss
oscillated so much that items lost their class, or if one modality stayed at noise."""
JUMP = 0.1
"""A change of the loss in one step that counts as a jump, as a share of its initial value. The drawn frequencies alone
cause 0.01 (standard deviation; 256 frequencies, one seed), at most 0.04 in 12 steps; with 64 frequencies, 0.03 and 0.1."""
JUMPS, JUMPING = 3, 0.05
"""An oscillation has at least so many jumps, and this share of the steps. A first step that is too long causes one or
two and does no harm: healthy runs at 1 item per class have up to 2, and none with more came above 0.89. At 10 items, two
runs with 3 jumps did well (0.94 and 0.97), after a loss above its start for half of the steps."""
RISEN, NOISES = 0.01, 4.0
"""How far above its start a diverging loss ends: by this share of it, and by so many standard deviations of its noise,
estimated from the curve. The total is a poor sign: with a heavy joint term it falls by 2 % while the uni-modal term, the
distance of the items from real ones, rises. The uni-modal term ended at 0.96 to 1.22 of its start in runs with a share
under 0.78, and at 0.60 to 0.97 in healthy ones."""
END = 5  # the end of a curve is the mean of its last steps


def signatures(metrics: Mapping[str, float], *curves: Mapping[str, Sequence[float]]) -> list[str]:
    """The signatures (keys of MEANING) of a trial, from its last metrics (`diagnostics/...`) and its whole curves, one for
    each racing stage."""
    found = {
        "modality_collapse": _collapsed(metrics),
        "instability": any(map(unstable, curves)),
        "poor_alignment": metrics.get("diagnostics/alignment", math.inf) < ALIGNED,
    }
    return [name for name in MEANING if found[name]]


def trial_signatures(record: TrialRecord) -> list[str] | None:
    """The signatures of a trial so far; None if it cannot be judged: it ended without a report, for a reason other than its
    loss."""
    broken = record.status == "failed" and "not finite" in (record.error or "")  # as `search.tuning.trainable` words it
    if not record.reports and not broken:
        return None
    found = signatures(record.metrics, *whole_curves(record.reports))
    return [name for name in MEANING if name in found or (broken and name == "instability")]


def whole_curves(reports: Iterable[Report]) -> list[dict[str, list[float]]]:
    """The curves of a trial's reports, joined. Each racing stage has its own, since its seeds start at step 0."""
    stages: dict[float, dict[str, list[float]]] = {}
    for report in reports:
        whole = stages.setdefault(report.metrics.get("race/stage", 0.0), {})
        for name, values in (report.curve or {}).items():
            whole.setdefault(name, []).extend(values)
    return list(stages.values())


def ended_metrics(record: TrialRecord) -> dict[str, float]:
    """A trial's last metrics, and each signature as 1 or 0."""
    found = trial_signatures(record)
    return {
        **record.metrics,
        **({} if found is None else {f"signature/{name}": float(name in found) for name in MEANING}),
    }


def ended_tags(record: TrialRecord) -> dict[str, str]:
    """Tags for the MLflow run of an ended trial: `failure_signatures`, comma-separated, or `none`."""
    found = None if record.status == "unfinished" else trial_signatures(record)
    return {} if found is None else {"failure_signatures": ",".join(found) or "none"}


def diagnostic_means(
    replicas: Sequence[Mapping[str, float]],
    before: Mapping[str, float],  # the metrics of the stage before; empty in the first
    share: float,  # share of the seeds that belong to earlier stages
) -> dict[str, float]:
    """`diagnostics/...`: mean of each value of `condense.evaluation.diagnostics` over the replicas that have it."""
    names = dict.fromkeys(name for figures in replicas for name in figures)
    means = {f"diagnostics/{name}": fmean(f[name] for f in replicas if name in f) for name in names}
    return {key: share * before.get(key, value) + (1 - share) * value for key, value in means.items()}


def unstable(curve: Mapping[str, Sequence[float]]) -> bool:
    """Whether the loss diverges or oscillates. Curves: "loss" and "loss/uni", a value per step."""
    loss, uni = curve.get("loss", ()), curve.get("loss/uni", ())
    return _diverges(loss) or _diverges(uni) or _oscillates(loss)


def _diverges(values: Sequence[float]) -> bool:
    if not all(map(math.isfinite, values)):
        return True
    if len(values) < 2:
        return False
    end = fmean(values[-max(1, min(END, len(values) // 3)) :])
    # The median difference of two normal values is 0.954 standard deviations; a trend only makes this larger.
    noise = median(abs(after - before) for before, after in pairwise(values)) / 0.954
    return end - values[0] > max(RISEN * _scale(values), NOISES * noise)


def _oscillates(values: Sequence[float]) -> bool:
    if not values:
        return False
    least = JUMP * _scale(values)
    jumps = sum(after - before > least for before, after in pairwise(values))
    return jumps >= max(JUMPS, JUMPING * len(values))


def _scale(values: Sequence[float]) -> float:
    """The unit a loss is measured in: its initial value, or its range (the published scaling falls far below zero)."""
    return max(abs(values[0]), values[0] - min(values))


def _collapsed(metrics: Mapping[str, float]) -> bool:
    def of(kind: str) -> dict[str, float]:
        prefix = f"diagnostics/{kind}/"
        return {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}

    alone, shares = of("alone"), of("gradient_share")
    highest = max(alone.values(), default=0.0)
    if highest >= CARRYING and min(alone.values()) < CARRIED * highest:
        return True
    # Without any `alone` (data without classes) the gradient decides; a modality without one teaches nothing alone anyway.
    starving = [m for m, share in shares.items() if max(shares.values()) >= DOMINANCE * share]
    return any(alone[m] < TAUGHT if m in alone else not alone for m in starving)
