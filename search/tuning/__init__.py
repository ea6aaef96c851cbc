"""A trial, who proposes it, and what ends it early."""

__all__ = [
    "callbacks",
    "display",
    "early_stopping",
    "ending",
    "journal",
    "racing",
    "referee",
    "resumption",
    "sampler",
    "searcher",
    "trainable",
    "warm_start",
    "window",
]
