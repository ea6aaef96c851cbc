"""One setting for several tasks: here for 1 and 5 items per class. A trial's score is over all of them.

python examples/several_tasks.py [results/several_tasks]
"""

import sys

import search

folder = sys.argv[1] if len(sys.argv) > 1 else "results/several_tasks"
data, encoder = {"name": "spoken_digits"}, {"name": "tiny"}
space = {
    "name": "several_tasks",
    "tasks": [{"dataset": data, "encoder": encoder, "dpc": dpc} for dpc in (1, 5)],
    "search": {
        "lambda_cross": {"low": 0.01, "high": 10, "log": True},
        "lambda_joint": {"low": 0.001, "high": 3, "log": True},
        "frequency_scale": {"low": 0.1, "high": 4, "log": True},
        "learning_rate": {"low": 0.03, "high": 3, "log": True},
    },
    "steps": 10,
    "report_every": 5,
    "trials": 8,
    "seeds": 2,
    "confirmation": {"top_k": 2, "seeds": 4, "perturbations": 2, "reported_perturbations": 2, "tuned_rates": 2},
}
results = search.run(space, output=folder)
print(results.verdict)
print(results.report.transfer)  # does what is best for one task hold on the other?
