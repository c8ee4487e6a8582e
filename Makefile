# `make demo` and `make test` are all a newcomer needs; both set up what they need first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format clean

help:
	@echo "make demo    the main job as a story, on the embedded broker (under a minute)"
	@echo "make test    every test"
	@echo "make check   ruff, mypy --strict, import-linter"
	@echo "make format  let ruff format the code"

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "router needs Python 3.11 or newer; say which one: make PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@

demo: setup
	@$(BIN)/python examples/demo.py

test: setup
	@bash tests/servers/install.sh
	@$(BIN)/python -m pytest --numprocesses 3 --dist worksteal

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

clean:
	rm -rf $(VENV) dist build var .pytest_cache .mypy_cache .ruff_cache
