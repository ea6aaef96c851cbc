"""The durable record of a search."""

__all__ = [
    "atomic_files",
    "faults",
    "ledger",
    "run_folder",
]
