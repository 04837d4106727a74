# make demo and make test are all a fresh machine needs (git, make, Python 3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
EXAMPLE := examples/fashion_mnist

.PHONY: demo test test-slow conformance lint typecheck bench clean

demo: $(VENV)/.installed
	$(BIN)/lpcc optimize $(EXAMPLE)/model.onnx --target arm-cortex-a --calib $(EXAMPLE)/calib.npz \
		--eval $(EXAMPLE)/eval.npz --preprocess $(EXAMPLE)/preprocess.toml --output demo/model.int8.onnx \
		--json demo/report.json

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

conformance: $(VENV)/.dev
	$(BIN)/python benchmarks/conformance.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The packages lie in three top-level folders, so mypy checks them where the wheel puts them together.
typecheck: $(VENV)/.dev
	rm -rf build/typecheck && mkdir -p build/typecheck
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/typecheck .
	$(BIN)/python -m pip install --quiet --no-deps --target build/typecheck/site build/typecheck/*.whl
	cd build/typecheck/site && ../../../$(BIN)/python -m mypy --config-file ../../../pyproject.toml -p lpcc

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet "setuptools>=77" --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist demo *.egg-info
