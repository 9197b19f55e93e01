# make demo    the whole pipeline on bundled data, from nothing
# make test    the whole test suite
# make quick   the tests that start no processes which import torch; make slow: the others
# make check   format, lint, types and tests: what CI runs
# make study   the reduced study: rewrites the tables of docs/study.md, in about eight minutes on two cores
# make bench   the benchmarks at a reduced setting: rewrites the tables of docs/benchmarks.md
# make dist    wheel and source archive in dist/; make check-dist: and use the wheel in a fresh environment
# make docs    the documentation site, in build/site
# make format  mend formatting and imports

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed

# newest, or lowest: the lower bounds of pyproject.toml (for a new environment)
VERSIONS ?= newest
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

.PHONY: demo study bench test quick slow check format lint types docs lock dist check-dist install clean

demo: $(STAMP)
	$(BIN)/probe demo

# Two scripts at a time, one core each: the heads are too small to share two cores. The longest come first.
STUDY := layers poolings cache_cost labels optimism queries stores

study: $(STAMP)
	printf '%s\n' $(STUDY) | OMP_NUM_THREADS=1 xargs -P 2 -I {} $(BIN)/python examples/study/{}.py

# BENCH: names of benchmarks, or checkouts of other code; see python benchmarks/run_all.py --help
bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py $(BENCH)

test: $(STAMP)
	$(BIN)/python -m pytest -q -m gpu
	$(BIN)/python -m pytest -m "not gpu" $(PARALLEL)

quick: $(STAMP)
	$(BIN)/python -m pytest -m "not gpu and not slow" $(PARALLEL)

slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not gpu" $(PARALLEL)

check: lint types test

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# The repository root is the package, whatever the clone is called: mypy needs to see it under its own name.
types: $(STAMP)
	@link=$$(mktemp -d) && ln -s "$(CURDIR)" "$$link/tokenprobe" && trap 'rm -rf "$$link"' EXIT && \
	echo "mypy tokenprobe" && cd "$$link" && \
	"$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" --cache-dir "$(CURDIR)/.mypy_cache" tokenprobe

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "tokenprobe needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "making a virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); } || \
	{ echo "$(PYTHON) has no venv; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@echo "installing tokenprobe and what it needs into $(VENV); PyTorch is about 3 GB, so this takes a few minutes once"
ifeq ($(VERSIONS),lowest)
	$(BIN)/python -m pip install uv
	$(BIN)/uv pip install --python $(BIN)/python --resolution lowest-direct -e '.[dev]'
else
	$(BIN)/python -m pip install --no-compile -e '.[dev]'  # modules compile when they are first imported
endif
	@touch $@

# The versions with which the tests pass on the developers' machine.
lock: $(STAMP)
	@{ echo "# Versions of the development environment: pip install -r requirements-dev.lock -e . (written by make lock)"; \
	$(BIN)/python -m pip freeze --exclude-editable; } > requirements-dev.lock

# The wheel is built from the unpacked source archive, so no file of this folder gets in by accident.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --no-isolation

check-dist: dist
	.ci/check-dist

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache tokenprobe-demo study
