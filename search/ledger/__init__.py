"""The durable record of a search."""

__all__ = [
    "atomic_files",
    "ledger",
    "run_folder",
]
