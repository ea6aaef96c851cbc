"""Signatures of failure: what a trial's curve and diagnostics say about why it does badly.

The thresholds were found in runs on the embedded dataset with the encoder `tiny`: 160 settings at 1 item per class (60
steps, 3 seeds, learning rates 0.3 .. 300, sigma 0.1 .. 4, lambda_cross and lambda_joint 0.01 .. 100), 24 of them at 10
items, and single ones outside of that. Scores are shares of full data; a run is called healthy here if its share is at
least 0.9 (the best: 0.94 at 1 item per class, 0.99 at 10). Standard library only: a trial's process reads this.
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
"""Of two modalities' `alone`, the lower over the higher. At least 0.75 in all of these runs, as real items are a good
start; below 0 where a modality was left at the noise that it had been started from. Half is far from both."""
CARRYING = 0.3
"""Least `alone` of a modality that carries a score at all: under it there is nothing yet to be carried. 0.4 and more after
any step that was taken on purpose."""
DOMINANCE = 5.0
"""One modality's gradient over another's: at most 3.2 in healthy runs, 9 in the one that a heavy joint term had torn."""
TAUGHT = 0.8
"""`alone` from which on a modality may do without gradient: it has learned what there is. 0.76 to 0.99 in healthy runs."""
ALIGNED = 0.6
"""Least `alignment`, as a share of that of as many real items. In healthy runs it is above 2 at 1 item per class, which
is as good as a class mean, and 0.79 to 1.3 at 10, which are spread as the real ones are. 0.3 to 0.5 where the loss
oscillated so much that items lost their class, or one modality was left at noise."""
JUMP = 0.1
"""What counts as a jump of the loss from one step to the next, of its value at the start. The frequencies that each step
draws make 0.01 (standard deviation; at 256 frequencies and one seed), at most 0.04 in 12 steps; at 64, 0.03 and 0.1."""
JUMPS, JUMPING = 3, 0.05
"""How many jumps are an oscillation: so many, and this share of the steps. A first step that is too long makes one or
two, and does no harm: healthy runs at 1 item per class have up to 2, and of those with more none came above 0.89. At 10,
two with 3 got far (0.94 and 0.97), after a loss that stayed above its start for half of the steps."""
RISEN, NOISES = 0.01, 4.0
"""How far above its start a loss has to end: this share of it, and so many standard deviations of its noise, which is
read off the curve. The total hardly tells: with a heavy joint term it falls by 2 % while the uni-modal term, which says
how far from real the items are, rises. That one ended at 0.96 to 1.22 of its start in runs of a share under 0.78, and at
0.60 to 0.97 in healthy ones."""
END = 5  # steps at the end of a curve whose mean is where it ends


def signatures(metrics: Mapping[str, float], *curves: Mapping[str, Sequence[float]]) -> list[str]:
    """The names of MEANING that a trial shows, from its last metrics (`diagnostics/...`) and its whole curve: one for each
    stage of racing."""
    found = {
        "modality_collapse": _collapsed(metrics),
        "instability": any(map(unstable, curves)),
        "poor_alignment": metrics.get("diagnostics/alignment", math.inf) < ALIGNED,
    }
    return [name for name in MEANING if found[name]]


def trial_signatures(record: TrialRecord) -> list[str] | None:
    """Those of a trial as it stands; None if there is nothing to judge: it ended without a report, for another reason than
    its loss."""
    broken = record.status == "failed" and "not finite" in (record.error or "")  # as `search.tuning.trainable` words it
    if not record.reports and not broken:
        return None
    found = signatures(record.metrics, *whole_curves(record.reports))
    return [name for name in MEANING if name in found or (broken and name == "instability")]


def whole_curves(reports: Iterable[Report]) -> list[dict[str, list[float]]]:
    """The curves of a trial's reports, one after the other. Each stage of racing, whose seeds start anew, has its own."""
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
    """Of the MLflow run of a trial that has ended: `failure_signatures`, comma-separated, or `none`."""
    found = None if record.status == "unfinished" else trial_signatures(record)
    return {} if found is None else {"failure_signatures": ",".join(found) or "none"}


def diagnostic_means(
    replicas: Sequence[Mapping[str, float]],
    before: Mapping[str, float],  # the metrics of the stage before; empty in the first
    share: float,  # of the seeds that are of the stages before
) -> dict[str, float]:
    """`diagnostics/...`: the mean of each figure of `condense.evaluation.diagnostics` over the replicas that have it."""
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
    """What a loss is measured by: its start, or how far it has come (the published scaling's falls far below zero)."""
    return max(abs(values[0]), values[0] - min(values))


def _collapsed(metrics: Mapping[str, float]) -> bool:
    def of(kind: str) -> dict[str, float]:
        prefix = f"diagnostics/{kind}/"
        return {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}

    alone, shares = of("alone"), of("gradient_share")
    highest = max(alone.values(), default=0.0)
    if highest >= CARRYING and min(alone.values()) < CARRIED * highest:
        return True
    # Without any `alone` (data without classes) the gradient decides; a modality that alone has none teaches nothing anyway.
    starving = [m for m, share in shares.items() if max(shares.values()) >= DOMINANCE * share]
    return any(alone[m] < TAUGHT if m in alone else not alone for m in starving)
