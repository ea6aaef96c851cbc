"""Run a search from Python, and use what it recommends.

python examples/search_from_python.py [results/example]
"""

import sys

import condense
import search

folder = sys.argv[1] if len(sys.argv) > 1 else "results/example"
results = search.run(
    "quickstart",
    output=folder,
    trials=8,
    overrides={
        "steps": 20,
        "report_every": 10,
        "scheduler.grace_steps": 10,
        "seeds": 2,
        "confirmation": {"top_k": 2, "seeds": 5, "perturbations": 2, "reported_perturbations": 2, "tuned_rates": 2},
    },
)
print(results.verdict)
print(results.recommended)

# The whole setting, for one condensation with more items per class:
task = condense.load_task(results.space.tasks[0], dpc=2)
print(f"2 per class: {condense.run(task, results.hyperparameters, steps=20).score:.3f}")
