# Needs Python 3.11+, make and git. The first target makes .venv; the others use it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install demo test faults lint format bench clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; name another: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install  ## the whole pipeline on a synthetic cohort with tiny local models
	$(BIN)/ckd demo

test: install  ## the test suite, under 10 minutes on 2 cores
	$(BIN)/python -m pytest -m "not faults"

faults: install  ## kill -9 and other slow fault tests
	$(BIN)/python -m pytest -m faults

lint: install  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## embed with a null engine: visits/s, peak memory at 20k and 200k visits
	$(BIN)/python benchmarks/pipeline_overhead.py

clean:
	rm -rf $(VENV) results/demo
