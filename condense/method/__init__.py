"""The method of the paper: the objective, one condensation, and what it starts from."""

__all__ = [
    "condensation",
    "initialization",
    "objective",
]
