# metadrift: `make demo` and `make test` do all their own set-up. `make help` lists the rest.
#
# PYTHON chooses the interpreter that .venv is made from: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check faults build bench bench-meta bench-canaries constraints clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.run $(VENV)/.dev ## .venv with metadrift, its libraries and the tools

demo: $(VENV)/.run ## the sorting centre: the whole loop on one machine, in minutes
	$(BIN)/metadrift demo

test: $(VENV)/.dev ## all tests, against real servers (needs Java 17, Maven, HAProxy, Python 3.11, and Go 1.24 once)
	$(BIN)/python -m tests.servers.kafka_jars
	$(BIN)/python -m tests.servers.kube_servers
	$(BIN)/python -m tests.servers.haproxy
	$(BIN)/python -m deploy.serving_environment --into .cache
	$(BIN)/python -m pytest

check: $(VENV)/.dev ## format, lint, types, import contracts, then the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

faults: $(VENV)/.dev ## every call to API server, HAProxy and MLflow going wrong in every way, at every place
	$(BIN)/python -m tests.servers.kube_servers
	$(BIN)/python -m tests.servers.haproxy
	METADRIFT_FAULTS=full $(BIN)/python -m pytest -rP tests/deploy/test_seldon_kubernetes_faults.py \
	  tests/deploy/test_seldon_kubernetes_core2.py \
	  tests/deploy/test_seldon_local_faults.py tests/deploy/test_mlflow_faults.py

build: $(VENV)/.dev ## dist/metadrift-VERSION-py3-none-any.whl
	rm -rf build
	$(BIN)/python -m build --wheel --no-isolation

bench: $(VENV)/.dev ## speed against its baselines, in the same run
	$(BIN)/python -m tests.servers.kafka_jars
	$(BIN)/python -m benchmarks

bench-meta: $(VENV)/.dev ## meta-learning against its baselines; takes hours
	$(BIN)/python -m benchmarks.meta_step
	$(BIN)/python -m benchmarks.anil_step
	$(BIN)/python -m benchmarks.sorting_plans
	$(BIN)/python -m benchmarks.sinusoids
	$(BIN)/python -m benchmarks.omniglot --budget-minutes 60
	$(BIN)/python -m benchmarks.gas_shots
	$(BIN)/python -m benchmarks.wisdm_shots
	$(BIN)/python -m benchmarks.wisdm_routes

bench-canaries: $(VENV)/.dev ## wrong verdicts and labels to a decision over simulated canaries
	$(BIN)/python -m benchmarks.canaries
	$(BIN)/python -m benchmarks.canary_bound
	$(BIN)/python -m benchmarks.new_class_canaries

constraints: $(VENV)/.dev ## write constraints.txt from what .venv holds
	{ echo '# The versions the tests ran with; `make constraints` writes this file from .venv.'; \
	  $(BIN)/python -m pip freeze --all --exclude-editable --exclude metadrift --exclude pip \
	  | grep -E '^[A-Za-z0-9._-]+==[^ ]+$$'; } > constraints.tmp
	mv constraints.tmp constraints.txt

clean: ## remove what was built; .venv and the downloads in .cache stay
	rm -rf build dist demo-out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache
	find pipeline detectors adapters deploy tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up, once: each stamp is newer than what it was made from

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'metadrift needs Python 3.11 or newer: make PYTHON=/path/to/python3.12' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo 'python3 cannot make environments: apt-get install python3-venv' >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@# uv installs in seconds what pip installs in minutes; pip takes over where there is none.
	@$(BIN)/python -m pip install --quiet uv || echo 'no uv for this machine: pip installs'
	@touch $@

# $(1): what to install
define install
	@echo 'installing into $(VENV) (some gigabytes the first time)'
	@{ [ -x $(BIN)/uv ] && $(BIN)/uv pip install --python $(BIN)/python -c constraints.txt $(1); } \
	  || $(BIN)/python -m pip install -c constraints.txt $(1)
	@# Without bytecode every start of the daemon, its workers and its servers pays seconds. Some
	@# libraries ship files that are no Python of this version, so a complaint is no failure.
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@
endef

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/.made
	$(call install,-e .)

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.run
	$(call install,--group dev)
