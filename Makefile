# Two commands do everything on a machine with Python 3.11, 3.12 or 3.13: make demo, make test.
# A command that is there need not run: pyenv has a shim for each version that it knows.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
DEV := .venv/.dev
# the tests of a file share what it sets up
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-cluster check bench gpu-check constraints sbom

demo: $(INSTALLED)
	$(BIN)/segtune demo --to demo

# every guarantee once
test: $(DEV) .venv/.cleval
	$(PYTEST) -n 2 -m "not cluster"

# engines, servers with passwords, every point at which a worker can die, and long searches for a
# case that hypothesis has not tried; three processes, as many of these tests wait
test-cluster: $(DEV) .venv/.cleval
	$(PYTEST) -n 3 -m "cluster or hypothesis" --hypothesis-profile exhaustive

# before each commit: style, types, the direction of imports, unit tests
check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks
	for folder in research/*/; do MYPYPATH=research/early-stopping $(BIN)/mypy $$folder || exit 1; done
	$(BIN)/lint-imports
	$(PYTEST) -n 2 tests/unit -m "not slow and not cluster" -q

# on a machine with a GPU: its tests, and its figures into benchmarks/gpu-<card>.md
gpu-check: $(DEV)
	SEGTUNE_DEVICE=cuda $(PYTEST) tests/gpu/real
	SEGTUNE_DEVICE=cuda $(BIN)/python -m benchmarks.gpu

# the measured figures of the README; needs the CamVid and SROIE images
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.camvid
	$(BIN)/python -m benchmarks.sroie

# after an upgrade of what .venv holds: its versions into constraints.txt, and what the images hold
# with its licences into docker/LICENSES.txt
constraints: $(DEV)
	$(BIN)/python -m pip install --quiet --editable '.[dev,cleval,lightning]'
	$(BIN)/python docker/packages.py

# what .venv holds as a CycloneDX list, sbom.json
sbom: $(DEV)
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-format JSON --output-file sbom.json $(BIN)/python

# a part of CLEval is C without wheels: without a compiler its test is skipped
.venv/.cleval: $(DEV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cleval]' \
		|| echo "CLEval could not be built; its test will be skipped"
	touch $@

$(INSTALLED): pyproject.toml constraints.txt
	$(or $(PYTHON),$(error segtune needs Python 3.11, 3.12 or 3.13 with its venv module, and found \
		none on the PATH; name one: make $@ PYTHON=/path/to/python3.12)) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

# what tests and checks need beside it: every extra, and the engines' packages
$(DEV): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
