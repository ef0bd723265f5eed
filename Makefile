# Every target sets up what it needs: `make test` and `make demo` work on a machine with Python >= 3.10 and make.
.DEFAULT_GOAL := help
.PHONY: help install demo demo-retrieval test test-slow nightly lint docs smoke report benchmark clean

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
# One thread for each test process: the processes already fill the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(READY) ## create .venv with the tested versions of everything (PYTHON=... chooses the interpreter)

demo: $(READY) ## train a hyperbolic ResNet on real digits in half a minute, print the results and what to type next
	@echo "training a narrow hyperbolic ResNet on handwritten digits: 12 epochs, half a minute on two quiet cores"
	@$(BIN)/hyplearn train experiment=demo model.width=16 trainer.max_epochs=12

demo-retrieval: $(READY) ## train an embedding on digits, search among digits it has never seen
	@echo "training an embedding on handwritten digits, to search among others: 6 epochs, a minute on two quiet cores"
	@$(BIN)/hyplearn train experiment=demo_retrieval

test: lint docs ## lint, types and layers, the documentation, then the test suite
	@$(PYTEST) -m "not slow"

test-slow: $(READY) ## only the tests that take minutes
	@$(PYTEST) -m slow

nightly: test-slow smoke ## the tests that take minutes, then every experiment of the papers on small data

lint: $(READY) ## ruff, mypy and import-linter
	@$(BIN)/ruff check --quiet && $(BIN)/ruff format --check --quiet && $(BIN)/mypy && $(BIN)/lint-imports --no-logo

docs: $(READY) ## build the documentation into docs/_build/html, warnings are errors
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

smoke: $(READY) ## run every cell of the papers' tables end to end on small data, hours on a small machine
	@$(BIN)/hyplearn reproduce '*' 'evidence/*' --scale smoke

report: $(READY) ## tables of both papers, measured beside published (TABLE=bdeir_table3 chooses one)
	@$(BIN)/hyplearn report $(TABLE)

benchmark: $(READY) ## time and memory of the models beside their Euclidean twins
	@$(BIN)/python scripts/benchmark.py

clean: ## remove the environment, caches and build products; outputs/ and data/ stay
	@rm -rf .venv build dist docs/_build docs/_generated .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.10 found: install one or name it, make install PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot create environments: install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv

$(READY): pyproject.toml constraints.txt .venv/bin/python
	@echo "installing into .venv, which takes a few minutes the first time"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
