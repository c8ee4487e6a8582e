# `make demo` and `make test` are all a newcomer needs; both set up what they need first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEBIAN13 ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/extension-router/debian13

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-rabbitmq4 faults soak bench bench-quick check reference format clean

help:
	@echo "make demo    the main job as a story, on the embedded broker (under a minute)"
	@echo "make test    every test"
	@echo "make test-rabbitmq4   the tests with RabbitMQ once more, on RabbitMQ 4 (Debian 13's, in ~/.cache)"
	@echo "make faults  every fault, with 2,000 jobs (an hour)"
	@echo "make soak    faults at random, for 30 minutes"
	@echo "make bench   ours beside its peers, written into docs/benchmarks.md (40 minutes); \`make bench-quick\`: five"
	@echo "make check   ruff, mypy --strict, import-linter"
	@echo "make reference   docs/reference.md, from schemas/extensions.schema.json"
	@echo "make format  let ruff format the code"

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "router needs Python 3.11 or newer; say which one: make PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@$(BIN)/python -m compileall -q router
	@touch $@

demo: setup
	@$(BIN)/python examples/demo.py

test: setup
	@bash tests/servers/install.sh
	@$(BIN)/python -m pytest --numprocesses 3 --dist worksteal

faults: setup
	@bash tests/servers/install.sh
	@ROUTER_FAULT_JOBS=2000 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "full or not full" tests/faults

soak: setup
	@bash tests/servers/install.sh
	@PYTHONPATH=. $(BIN)/python tests/faults/soak.py

bench: $(VENV)/.benched
	@bash tests/servers/install.sh
	@$(BIN)/python -m benchmarks $(ROWS)

bench-quick: $(VENV)/.benched
	@bash tests/servers/install.sh
	@$(BIN)/python -m benchmarks --quick $(ROWS)

$(VENV)/.benched: $(VENV)/.installed
	@echo "Setting up the peers ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	@touch $@

test-rabbitmq4: export ROUTER_TEST_RABBITMQ_ROOT = $(DEBIAN13)
test-rabbitmq4: export ROUTER_TEST_AMQP_URL =
test-rabbitmq4: setup
	@bash tests/servers/install.sh
	@bash tests/servers/debian13.sh "$(DEBIAN13)"
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -k amqp tests/contract tests/amqp tests/faults

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

reference: setup
	@$(BIN)/python docs/make_reference.py

format: setup
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

clean:
	rm -rf $(VENV) dist build var .pytest_cache .mypy_cache .ruff_cache
