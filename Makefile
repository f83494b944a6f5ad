# Two commands do everything on a machine with Python 3.11: make demo, make test.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test check bench

demo: $(INSTALLED)
	$(BIN)/segtune demo --to demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

# before each commit: style, types, the direction of imports, unit tests
check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit -q

# the measured figures of the README; needs the CamVid images (docs/benchmarks.md)
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.camvid

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
