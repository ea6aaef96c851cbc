"""After the trials: candidates on fresh seeds, the choice, perturbed runs, the ablation."""

__all__ = [
    "ablation",
    "elimination",
    "held_out",
    "perturbation",
    "reporting",
    "reruns",
    "selection",
    "stages",
    "trials_csv",
]
