"""Condense a dataset with given hyperparameters, look at the curves, compare with real items.

python examples/one_condensation.py
"""

import condense

task = condense.load_task(dataset={"name": "spoken_digits"}, encoder={"name": "tiny"}, dpc=1)
print(f"{task.modalities}, {len(task.class_names)} classes, full data: {task.full_score:.3f}")

ours = [condense.run(task, condense.published.recommended(), seed=seed, steps=60) for seed in range(3)]
paper = condense.run(task, condense.published.paper_default(), steps=60)

print(ours[0].losses.tail())  # uni, cross, joint and total, a row per step
print(ours[0].scores)  # on validation, from the start on

# Opens the test split: make all choices before. `convnet_seeds=3` adds ConvNets from scratch, and minutes on a CPU.
table = condense.compare({"ours": ours, "the paper's default": paper}, convnet_seeds=0)
print((100 * table.xs("mean", axis=1, level=1)).round(1))

print(f"saved to {ours[0].save('results/one_condensation')}")
