"""After the trials: candidates on fresh seeds, the choice, perturbed runs, the ablation."""

__all__ = [
    "ablation",
    "held_out",
    "perturbation",
    "reruns",
    "selection",
    "stages",
    "trials_csv",
]
