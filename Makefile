# Each target makes its own virtual environment in .venv when there is none.
PYTHON ?= python3
BIN := .venv/bin
# Threads that spin while they wait for each other slow everything on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test lint clean

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python setup.cfg pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable .
	@touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[test,lint]'
	@touch $@

demo: .venv/.installed
	$(BIN)/python -m benchmarks.demo --out demo

test: .venv/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/fawltydeps --detailed
	$(BIN)/vulture

clean:
	rm -rf .venv demo build dist *.egg-info
