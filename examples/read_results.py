"""Read a finished search as DataFrames, and its Optuna study.

python examples/read_results.py results/example
"""

import sys

import search

folder = sys.argv[1]
print(search.status(folder))

results = search.load(folder)
trials = results.trials  # a row per trial
searched = list(results.recommended)
print(trials.sort_values("score", ascending=False)[["status", "score", *searched]].head())
print(trials[searched].corrwith(trials.score, method="spearman").rename("rank correlation with the score"))

print(results.report.confirmation.difference)  # recommended minus default, on fresh seeds
print(results.report.importance)
print(f"Optuna: {len(results.study.trials)} trials, best value {results.study.best_value:.3f}")
