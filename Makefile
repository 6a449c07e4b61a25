# Needs python3 (3.11 or newer) and make. Everything else goes into .venv, from constraints.txt.

PYTHON ?= python3
# Many tests wait for a server: more processes than cores are of use.
JOBS ?= 6
ARGS ?=
# Another Python has an environment of its own: make quick PYTHON=python3.13 VENV=.state/venv-3.13
VENV ?= .venv
BIN := $(VENV)/bin
# A stamp for each set of extras: made again when what is to be installed has changed.
CORE := $(VENV)/.installed-core
CLOUDS := $(VENV)/.installed-clouds
TEST := $(VENV)/.installed-test
DEV := $(VENV)/.installed-dev
# The distribution's name until it was renamed: both at once would have every entry point twice.
FORMER := cloudq

# Tests start many processes: without its caches, Python would compile the project in each of them.
unexport PYTHONDONTWRITEBYTECODE

# Each link of the site must lead somewhere: --strict, which --quiet would keep from counting warnings.
# The theme's own notice of its next years is left out.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.DEFAULT_GOAL := help
.PHONY: help demo quick django test check format docs site bench localstack mutate clean
# The targets share one environment, so they run one after the other; tests use JOBS processes.
.NOTPARALLEL:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'Options of the command behind a target: make test ARGS="-k sqs"'

demo: $(CORE) ## see it work on this machine: no account, no server, no docker
	@$(BIN)/cloudq demo $(ARGS)

quick: $(TEST) ## run the tests on memory and SQLite: no server, no process, under a minute
	@$(BIN)/python -m pytest --quick -n 4 --dist worksteal -r fE $(ARGS)

django: $(TEST) ## run the tests of cloudq.contrib.django; PYTHON=python3.12 VENV=... for Django 6
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests/contrib/test_django_*.py \
	  tests/execution/test_django.py $(ARGS)

test: $(DEV) ## run all tests, drills shortened; ARGS="-k sqs" chooses, JOBS=6 processes
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

check: $(DEV) ## format, lint, types, imports between rooms, ceilings, and the site's links
	@$(BIN)/ruff format --check --quiet . || { echo 'not formatted: make format'; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python tools/measure.py
	@$(MKDOCS) 2>&1 | { ! grep -v '^INFO'; }

format: $(DEV) ## format the code, and fix what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(DEV) ## write the tables of docs/ that are made from the code
	@$(BIN)/python -m tests.docs.tables

site: $(DEV) ## build the documentation site into build/site; no link may lead nowhere
	@$(MKDOCS)
	@echo 'To read it: $(BIN)/python -m http.server -d build/site'

bench: $(DEV) ## measure throughput and latency on this machine
	@$(BIN)/python benchmarks/run.py $(ARGS)

localstack: $(CLOUDS) ## run the clouds' services here, without docker; ARGS="aws" chooses
	@$(BIN)/python localstack/up.py $(ARGS)

mutate: $(DEV) ## break drivers, or the core (ARGS="--driver executor"): the tests must notice
	@$(BIN)/python tests/mutate.py $(ARGS)

clean: ## remove the environment, the local servers and the caches
	rm -rf $(VENV) .state build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CORE) $(CLOUDS) $(TEST) $(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing cloudq-tasks$(patsubst %,[%],$(EXTRA)) into $(VENV) ...'
	@$(BIN)/python -m pip uninstall -q -y $(FORMER) 2>/dev/null
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt \
	  -e '.$(patsubst %,[%],$(EXTRA))'
	@touch $@ $(COVERS)

$(CLOUDS): EXTRA := aws,gcp,azure
$(CLOUDS): COVERS := $(CORE)
$(TEST): EXTRA := test
$(TEST): COVERS := $(CORE) $(CLOUDS)
$(DEV): EXTRA := dev
$(DEV): COVERS := $(CORE) $(CLOUDS) $(TEST)

$(BIN)/python:
	@for python in $(PYTHON) python3.14 python3.13 python3.12 python3.11; do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  $$python -m venv --clear $(VENV) && exit 0; \
	  echo "$$python cannot make a virtual environment: on Debian, apt install python3-venv" >&2; \
	  exit 1; \
	done; \
	echo 'cloudq needs Python 3.11 or newer, and found none.' >&2; \
	echo 'Say where it is: make PYTHON=/path/to/python3' >&2; \
	exit 1
