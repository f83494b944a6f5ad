# Two commands do everything on a machine with Python 3.11: make demo, make test.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test check bench

demo: $(INSTALLED)
	$(BIN)/segtune demo --to demo

test: $(INSTALLED) .venv/.cleval
	$(BIN)/python -m pytest

# before each commit: style, types, the direction of imports, unit tests
check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit -q

# the measured figures of the README; needs the CamVid and SROIE images
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.camvid
	$(BIN)/python -m benchmarks.sroie

# a part of CLEval is C without wheels: without a compiler its test is skipped
.venv/.cleval: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cleval]' \
		|| echo "CLEval could not be built; its test will be skipped"
	touch $@

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
