"""The process and its device: errors, progress, threads, memory, precision."""

__all__ = [
    "control_group",
    "device_errors",
    "device_memory",
    "devices",
    "errors",
    "interruption",
    "live_line",
    "precision",
    "process",
    "progress",
    "terminal",
]
