# Every target has a help line: make help
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Compiled once, not at each of the hundreds of starts of a test run; some containers forbid to keep what was compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## Show the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  %-10s %s\n", $$1, $$2}'

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready ## Make .venv with everything the other targets need

.PHONY: demo
demo: setup ## Start queen, hive and worker, stream an answer, show the decision, stop everything
	@bash demo.sh

.PHONY: test
test: setup ## Run the whole test suite
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: lint
lint: setup ## Check style, import contracts and the contract's own rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code

.PHONY: types
types: setup ## Check types
	$(BIN)/mypy

.PHONY: proto
proto: setup ## Generate the Python stubs from proto/
	rm -rf src/rbee/v1 && mkdir -p src/rbee/v1
	@echo '"""The contract, generated from proto/ by make proto. Never edited."""' > src/rbee/v1/__init__.py
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=src --mypy_out=quiet:src proto/rbee/v1/*.proto
	$(BIN)/python -m grpc_tools.protoc -Iproto --grpc_python_out=src --mypy_grpc_out=quiet,generate_concrete_servicer_stubs:src proto/rbee/v1/*_service.proto

.PHONY: verify
verify: setup ## Check that the generated stubs are fresh
	@before=$$(mktemp -d) && cp -r src/rbee/v1/. $$before && $(MAKE) --no-print-directory proto && \
	diff -r -x __pycache__ $$before src/rbee/v1 && rm -r $$before && echo "stubs are fresh"

.PHONY: soak
soak: setup ## Try the properties on many examples, kill and stop programs at random for ten rounds (about 25 minutes)
	$(BIN)/python -m pytest --hypothesis-profile=soak --timeout=3600 tests/properties
	RBEE_CHAOS_ROUNDS=$${RBEE_CHAOS_ROUNDS:-10} $(BIN)/python -m pytest -m soak

.PHONY: bench
bench: setup ## Measure, and print each figure beside its target (bench/README.md)
	@for file in bench/[a-z]*.py; do $(BIN)/python $$file || exit 1; done
