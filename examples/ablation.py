"""After a search: what each loss term is worth. Re-runs the recommended setting with each term alone and each removed.

python examples/ablation.py results/example
"""

import sys

import search

results = search.ablate(sys.argv[1])  # prints a table, and adds it to the report
for row in results.report.ablation:
    if row.difference is not None:  # to all terms, on validation
        low, high = row.difference.ci95
        print(f"{row.terms}: {row.difference.mean:+.3f} [{low:+.3f}, {high:+.3f}]")
