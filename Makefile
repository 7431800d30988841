# Everything that is done here by hand or in CI. Needs GNU make and Python >= 3.11 with venv and pip, for the tests also
# Node.js >= 20 with npm; no root.
#
#   PYTHON=python3.12 make venv      another interpreter
#   make unit ARGS='-k cursor -x'    arguments for pytest
#   make integration SYNAPSE=1.97.0  another Synapse than the locked one, in an environment of its own

PYTHON ?= python3
SYNAPSE ?=
VENV ?= .venv$(SYNAPSE:%=-synapse-%)
ARGS ?=

BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest
BENCH := .venv-bench
LOCKED := $(VENV)/.locked
INSTALLED := $(VENV)/.installed
NODE := tests/node/node_modules/.package-lock.json
# Wheels only: what is built from source is built with tools that no lock holds. Synapse has no wheel for macOS, and is
# built there (needs Rust).
WHEELS := $(if $(filter Linux,$(shell uname -s)),--only-binary :all:)
# Another Synapse takes the locked one's place, from no lock. An older one does not start with the newest of these: it
# derives from a class of prometheus-client as that was before 0.22, and imports what setuptools 82 has dropped.
OTHER_SYNAPSE := 'matrix-synapse==$(SYNAPSE)' 'prometheus-client<0.22' 'setuptools<82'
# Each process has a homeserver of its own; the tests of one file stay together. They wait as much as they work, so there
# are three more than there are processors, in the order of the tiers: the longest first, that none is left with it in the end.
PROCESSES = $(shell $(PYTHON) -c 'import os; print(min(8, (os.cpu_count() or 1) + 3))')
PARALLEL = -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
TIERS := tests/chaos tests/integration tests/unit

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help venv up demo screenshots test coverage unit integration chaos soak workers container fuzz bench lint audit type \
	wheel lock ci clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# ── set up ────────────────────────────────────────────────────────────────────────────────────────────────────────────

venv: $(INSTALLED) ## set up .venv with the locked dependencies and this checkout

# From nothing each time, so that what left the lock leaves the environment.
$(LOCKED): requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or later is needed, and $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.11")'
	@echo "Setting up $(VENV) ($$(grep -c '==' $<) locked packages, about a minute)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes $(WHEELS) -r $<
	@$(if $(SYNAPSE),$(BIN)/python -m pip install --quiet --disable-pip-version-check $(WHEELS) $(OTHER_SYNAPSE))
	@touch $@

$(INSTALLED): $(LOCKED) pyproject.toml src/aiagentchat/__init__.py
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# ── use ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

up: $(INSTALLED) ## start homeserver and daemon in the foreground, for use (Ctrl-C stops both)
	@$(BIN)/cchat up $(ARGS)

demo: $(INSTALLED) ## run the main job once, visibly, in a home of its own
	@$(BIN)/python scripts/demo.py $(ARGS)

screenshots: $(INSTALLED) ## make the pictures in README.md from a real run (needs Chromium; ARGS='--element-archive FILE')
	@$(BIN)/python -m scripts.screenshots $(ARGS)

# ── test ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

# Programs of others that the tests run, locked and without their scripts.
$(NODE): tests/node/package-lock.json
	@npm ci --prefix tests/node --silent --no-audit --no-fund --ignore-scripts
	@touch $@

test: $(INSTALLED) $(NODE) ## all tests, the ones against a real Synapse included
	@for tier in $(TIERS); do ls $$tier/test_*.py >/dev/null || exit; done
	$(PYTEST) $(PARALLEL) $(TIERS) $(ARGS)

coverage: $(INSTALLED) $(NODE) ## all tests with branch coverage, which takes a quarter longer
	$(PYTEST) $(PARALLEL) --cov=aiagentchat $(TIERS) $(ARGS)

unit: $(INSTALLED) ## the tests without sockets: seconds
	$(PYTEST) tests/unit $(ARGS)

integration: $(INSTALLED) $(NODE) ## a real Synapse, real daemon and command processes
	$(PYTEST) $(PARALLEL) tests/integration $(ARGS)

chaos: $(INSTALLED) ## the full run under faults, seeded; writes docs/reliability.md (ARGS=--help: a smaller one)
	$(BIN)/python -m tests.chaos $(ARGS)

soak: $(INSTALLED) ## 30 minutes of mixed load in both modes: what the daemon uses is flat; writes docs/reliability.md
	$(BIN)/python -m tests.chaos.soak $(ARGS)

workers: $(INSTALLED) $(NODE) ## the integration tests on a Synapse of three processes (needs root, PostgreSQL, Redis, nginx); half an hour
	AIAGENTCHAT_TEST_WORKERS=1 $(PYTEST) $(PARALLEL) -o timeout=400 tests/integration $(ARGS)

container: $(INSTALLED) ## build the images and run deploy/compose.yaml with its restrictions (needs root and podman)
	$(BIN)/python -m scripts.container $(ARGS)

fuzz: $(INSTALLED) ## at least 100,000 cases for the parsers of what comes from outside; minutes
	$(BIN)/python scripts/fuzz.py $(ARGS)

# All that is locked, peers included, and so without asking them what else they would like. One thing that a peer needs
# has no wheel.
$(BENCH)/.installed: requirements/bench.txt pyproject.toml src/aiagentchat/__init__.py
	@echo "Setting up $(BENCH) (what is measured beside us included, about a minute)"
	@$(PYTHON) -m venv --clear $(BENCH)
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps $(WHEELS) --no-binary atomicwrites -r $<
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

bench: $(BENCH)/.installed ## measure, side by side with others; writes docs/benchmarks.md (ARGS=--help: single rows)
	$(BENCH)/bin/python -m bench $(ARGS)

# ── check ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

lint: $(INSTALLED) ## ruff (bandit's rules too, and format), the import contracts, containers, and that packages fit together
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/compose-lint check deploy/compose.yaml
	$(BIN)/python -m pip check --disable-pip-version-check

audit: $(LOCKED) ## what is known against the locked packages; needs the network, and installs pip-audit beside
	@$(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --require-hashes --disable-pip -r requirements/dev.txt $(ARGS)

type: $(INSTALLED) ## mypy --strict on source, tests and scripts
	$(BIN)/mypy

wheel: $(INSTALLED) ## build sdist and wheel, and use the wheel from outside the checkout
	$(BIN)/python scripts/check_wheel.py

ci: lint type test wheel ## lint, type, test, wheel: what continuous integration runs

# ── keep ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

lock: $(LOCKED) ## lock the dependencies anew (ARGS=--upgrade: at their newest versions)
	$(BIN)/python scripts/lock.py $(ARGS)

clean: ## remove all that was made here; homes elsewhere stay
	rm -rf $(VENV) $(BENCH) .venv-synapse-* .venv-audit dist build .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis \
		tests/node/node_modules
	find src tests scripts -name __pycache__ -prune -exec rm -rf {} +
