"""After the trials: candidates on fresh seeds, the choice, perturbed runs, the ablation."""

__all__ = [
    "ablation",
    "perturbation",
    "reruns",
    "selection",
    "stages",
    "trials_csv",
]
