"""The durable record of a search."""

__all__ = [
    "atomic_files",
    "data_identity",
    "faults",
    "ledger",
    "records",
    "run_folder",
]
