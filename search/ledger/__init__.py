"""The durable record of a search."""

__all__ = [
    "atomic_files",
    "data_identity",
    "experiment",
    "faults",
    "imports",
    "ledger",
    "records",
    "requests",
    "run_folder",
]
