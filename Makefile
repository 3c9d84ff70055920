# A fresh machine needs python3 (3.11 or newer), make and a network; all else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
LOCKED := $(VENV)/locked.stamp
READY := $(VENV)/ready.stamp
# Without the drivers of S3, Google and Azure, which are fifty packages that no test needs.
EXTRAS := --extra demo --extra hfds --extra https --extra tensorboard

.PHONY: help setup demo test test-all check lint types bench lock clean

help:
	@echo 'make demo      the main job on small real data, on a CPU, in about a minute; see runs/demo'
	@echo 'make test      the tests;  make test-all  the slow ones too'
	@echo 'make check     lint, types and tests: what CI runs'
	@echo 'make bench     the benchmarks'
	@echo 'make lock      requirements.lock from pyproject.toml (LOCK=--upgrade for newer versions)'
	@echo 'make clean     remove .venv, caches and build outputs'

setup: $(READY)

demo: $(READY)
	$(BIN)/swa-tools demo -o runs/demo --force

test: $(READY)
	$(BIN)/python -m pytest

test-all: $(READY)
	$(BIN)/python -m pytest -m ""

check: lint types test

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY)
	$(BIN)/mypy

bench: $(READY)
	@for script in tests/benchmarks/*.py; do \
		echo "== $$script"; $(BIN)/python "$$script" || exit 1; \
	done

lock: $(UV)
	$(UV) pip compile pyproject.toml $(EXTRAS) --group dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --custom-compile-command 'make lock' \
		--quiet $(LOCK) --output-file requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find swa_tools tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is \
	needed, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

$(LOCKED): requirements.lock | $(UV)
	$(UV) pip install --python $(BIN)/python --require-hashes --compile-bytecode \
		--requirements requirements.lock
	touch $@

$(READY): pyproject.toml $(LOCKED)
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
