"""After the trials: candidates on fresh seeds, the choice, perturbed runs, the ablation."""

__all__ = [
    "ablation",
    "ceiling",
    "held_out",
    "perturbation",
    "reruns",
    "selection",
    "stages",
    "trials_csv",
]
