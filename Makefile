# One environment, .venv, made on first use and renewed when pyproject.toml changes.
# `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := work_dirs/demo
DEMO_CONFIG := configs/vig/vig_nano_digits.py
PYTEST_ARGS ?=
# Each process needs up to 5 GB of memory.
PYTEST_WORKERS ?= 2

export NO_ALBUMENTATIONS_UPDATE := 1
# Tests and demo work on small tensors, for which more threads only wait for each other.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types pytest format build clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## make .venv with everything needed to develop

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: no '$(PYTHON)' found; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "error: Python 3.10 or newer is needed, '$(PYTHON)' is $$($(PYTHON) -V 2>&1); name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "==> setting up $(VENV) with $$($(PYTHON) -V); the first time takes some minutes (PyTorch is large)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
		echo "==> this Python lacks ensurepip; taking pip from outside the environment"; \
		$(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
	@echo "==> $(VENV) is ready"

demo: $(STAMP)  ## train and evaluate a nano ViG on handwritten digits (minutes, CPU)
	@echo "==> training a nano ViG on scikit-learn's handwritten digits"
	@rm -rf $(DEMO)
	@$(BIN)/python tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO)
	@echo "==> evaluating the last checkpoint on the held-out fifth and drawing $(DEMO)/demo.png"
	@$(BIN)/python tools/test.py $(DEMO_CONFIG) $(DEMO) --work-dir $(DEMO)/test
	@$(BIN)/python tools/plot_run.py $(DEMO_CONFIG) $(DEMO) --out $(DEMO)/demo.png

test: lint types pytest  ## lint, types and the whole test suite (what CI runs)

lint: $(STAMP)  ## ruff: rules and formatting
	@echo "==> ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)  ## pyright (the basedpyright build, which comes complete from PyPI)
	@echo "==> types"
	@$(BIN)/basedpyright --pythonpath $(BIN)/python --level error

pytest: $(STAMP)  ## tests alone, in two processes; PYTEST_ARGS="tests/models -k vig_s" narrows them
	@echo "==> pytest"
	@$(BIN)/python -m pytest -q -n $(PYTEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

format: $(STAMP)  ## rewrite the sources the way `make lint` wants them
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

build: $(STAMP)  ## wheel and source archive into dist/
	@$(BIN)/python -m hatchling build

clean:  ## remove the environment, caches and build products (work_dirs stays)
	@rm -rf $(VENV) dist build .pytest_cache .ruff_cache
	@find gatedvision kernels configs tools tests -name __pycache__ -prune -exec rm -rf {} +
