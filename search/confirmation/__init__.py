"""After the trials: candidates on fresh seeds, the choice, perturbed runs, the ablation."""

__all__ = [
    "ablation",
    "ceiling",
    "elimination",
    "held_out",
    "perturbation",
    "portions",
    "reporting",
    "reruns",
    "selection",
    "stages",
    "trials_csv",
]
