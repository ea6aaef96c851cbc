"""After a search: what each loss term is worth. Re-runs the recommended setting with each term alone and each removed.

python examples/ablation.py results/example
"""

import sys

import search

results = search.ablate(sys.argv[1])
for row in results.report.ablation:
    print(row)
