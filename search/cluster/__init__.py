"""Ray sessions and nodes."""

__all__ = [
    "nodes",
    "ray_session",
    "turns",
]
