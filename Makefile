# `make demo` and `make test` are all that a fresh machine needs. It has to have git, make and Python 3.11 or newer.
PYTHON ?= $(shell for each in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && echo $$each && break; done)
WORKERS ?= 2
# Small solves gain nothing from threads of their own beside the workers.
export OMP_NUM_THREADS ?= 1
# Which torch to install for training; builds for the CPU alone are smaller.
TORCH ?= torch
VENV := .venv
BIN := $(VENV)/bin
# Without setuptools' remark, at each editable install, that the current folder comes first on Python's path.
INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet
EXAMPLE := examples/fashion_mnist

.PHONY: demo test test-train test-slow conformance lint typecheck clean

demo: $(VENV)/.installed
	mkdir -p demo
	$(BIN)/lpcc optimize $(EXAMPLE)/model.onnx --target arm-cortex-a --calib $(EXAMPLE)/calib.npz \
		--eval $(EXAMPLE)/eval.npz --preprocess $(EXAMPLE)/preprocess.toml --output demo/model.int8.onnx \
		--json demo/report.json

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-train: $(VENV)/.train
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" tests/lpcc/train tests/passes/transfer \
		tests/lpcc/test_retraining.py tests/lpcc/cli/test_retrain.py tests/passes/factorize/test_learn_ranks.py \
		tests/test_readme.py

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

conformance: $(VENV)/.dev
	$(BIN)/python benchmarks/conformance.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The package lies in three top-level folders, so mypy checks it where a wheel puts it together.
typecheck: $(VENV)/.dev
	rm -rf build && mkdir -p build/typecheck
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/typecheck .
	$(INSTALL) --no-deps --target build/typecheck/site build/typecheck/*.whl
	cd build/typecheck/site && ../../../$(BIN)/python -m mypy --config-file ../../../pyproject.toml -p lpcc

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(INSTALL) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(INSTALL) --editable ".[dev]"
	touch $@

$(VENV)/.train: $(VENV)/.dev
	$(INSTALL) "$(TORCH)"
	$(INSTALL) --editable ".[dev,train]"
	touch $@

clean:
	rm -rf $(VENV) build dist demo *.egg-info
