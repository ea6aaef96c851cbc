"""report.html and the model of report.json."""

__all__ = [
    "axes",
    "confirmation",
    "failure_signatures",
    "figures",
    "gallery",
    "html",
    "importance",
    "links",
    "page",
    "parallel",
    "pareto",
    "response",
    "robustness",
    "tables",
    "tasks",
    "text",
]
