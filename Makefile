# make search   a small real search on the embedded dataset, under 5 minutes on a CPU (ARGS=--resume to continue it)
# make setup    only the virtual environment
# make test     format, lint, types, all tests
# make bench    the benchmarks, as tables
# make suite    every method on the suite's real tasks (ARGS=--quick: ten minutes; else hours; interrupted, it goes on)
# make lint     only format, lint, imports between packages, and types
# make clean    remove everything that these create, except results/
#
# Each first sets up the virtual environment .venv, with the versions in constraints.txt.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
READY := .venv/.ready
BENCHMARKS := $(wildcard $(addprefix benchmarks/,quickstart.py throughput.py accuracy.py scaling.py encoding.py imagebind_gpu.py))

.PHONY: search setup test test-faults test-cluster bench suite lint clean

setup: $(READY)

search: $(READY)
	$(BIN)/python search/run.py --space spaces/quickstart.yaml $(ARGS)

# One thread per process: many tests start processes that would otherwise compete for the cores. As root, and with sshd
# and rsync installed, this includes a search over hosts made of namespaces.
test: export OMP_NUM_THREADS := 1
test: lint
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow and not cluster and not faults"
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --durations=12 -m "slow and not faults"

# A lost cluster, a full disk (as root), a wrong clock (libfaketime), Slurm with stand-ins for its programs, variants of
# slow tests. Takes longer than `make test`.
test-faults: export OMP_NUM_THREADS := 1
test-faults: $(READY)
	$(BIN)/python -m pytest -m faults

# A laptop, a head and two workers, made of namespaces on this machine, also with a cut cable; three nodes of a Slurm, where slurm-wlm
# and munge are installed. Needs root; takes some minutes.
# Says which test it is in, what is typed there, and what it waits for.
test-cluster: $(READY)
	$(BIN)/python -m pytest -vv --durations 0 --log-cli-level INFO --log-cli-format "%(asctime)s %(message)s" \
		--log-cli-date-format %H:%M:%S -m cluster tests/cluster

bench: $(READY)
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script $(ARGS); done

# Fetches the data and the towers that are missing. The recordings of spoken digits are in no package: FROM=FOLDER, where they are.
suite: $(READY)
	@set -e; for name in emoji hapt; do test -e data/$$name || $(BIN)/python -m condense data $$name --to data/$$name; done
	@set -e; for name in minilm whisper_tiny_en efficientnet_lite0; do \
		test -e towers/$$name || $(BIN)/python -m condense towers $$name --to towers/$$name; done
	@set -e; test -e data/av_mnist || $(BIN)/python -m condense data av_mnist --to data/av_mnist $(addprefix --from ,$(FROM))
	@set -e; test -e data/parity || $(BIN)/python -m condense data av_mnist --label parity --to data/parity $(addprefix --from ,$(FROM))
	$(BIN)/python benchmarks/suite.py $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy condense search

clean:
	rm -rf .venv build *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find condense search spaces tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# The environment is updated when one of these files changes. torch is installed first and alone, so that no dependent
# package selects its version. ImageBind is installed without its dependencies, which are from 2022.
$(READY): pyproject.toml constraints.txt
	@echo "setting up .venv (some minutes; torch is large)"
	@# One without pip is what Debian's Python leaves where its package python3-venv is missing.
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,imagebind,transformers]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps imagebind-packaged
	@touch $@
