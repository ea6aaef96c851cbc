"""Put searches side by side: what each recommends, how sure, and on test.

python examples/compare_searches.py results/example results/several_tasks
"""

import sys

import pandas as pd

import search

rows = {}
for folder in sys.argv[1:]:
    results = search.load(folder)
    confirmed, test = results.report.confirmation, results.report.test
    rows[results.space.name] = {
        **results.recommended,
        "confirmed": confirmed.recommended.mean,
        "over the default": confirmed.difference.mean,
        "low": confirmed.difference.ci95[0],
        "high": confirmed.difference.ci95[1],
        "test": test["recommended"].mean,
        "test of full data": test["full_data"].mean,
    }
print(pd.DataFrame(rows).to_string(float_format="%.4g"))
