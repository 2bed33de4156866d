# make demo: install and run the main job on a CPU.   make test: install, lint, type-check, test.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("latentpad needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/latentpad ablate recipes/demo.yaml --out runs/demo

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
