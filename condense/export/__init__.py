"""A condensed set as a folder, for programs and for people."""

__all__ = [
    "export",
    "folder",
    "nearest",
    "unfinished",
]
