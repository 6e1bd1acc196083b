# Two commands do everything: `make lab` opens the course, `make test` validates it.
# `make run` and `make slides` write pages of all lessons under build/; `make store` is for authors.

PYTHON ?= python3
BIN := .venv/bin
JUPYTER := $(BIN)/jupyter
LESSON = $(firstword $(wildcard notebooks/00_*.ipynb) $(wildcard notebooks/01_*.ipynb))
# In a container one often is root, and Jupyter wants to hear that this is meant.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: lab test everywhere run slides store record bench clean

lab: .venv/installed
	$(JUPYTER) lab --ip=127.0.0.1 $(AS_ROOT) $(LESSON)

test: .venv/installed-test
	$(BIN)/python -m pytest

# All lessons under the arithmetic of other processors; goes on after an interruption.
everywhere: .venv/installed
	$(BIN)/python -m course_lib.everywhere

run: .venv/installed
	$(BIN)/python -m course_lib.run

slides: .venv/installed
	$(BIN)/python -m course_lib.run --slides

store: .venv/installed
	$(BIN)/python -m course_lib.run --store

# What COURSE_MODE=lecture replays instead of computing.
record: .venv/installed
	COURSE_RECORD=1 $(BIN)/python -m course_lib.run

bench: .venv/installed-bench
	$(BIN)/python benchmarks/gradient_attacks.py
	$(BIN)/python benchmarks/latency.py

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "The course needs Python 3.11 or newer, and '$(PYTHON)' is not."; \
	  echo "Say which to take, for example: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "No virtual environment; on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }

# A stamp is touched only after pip has succeeded, so a broken install is tried again.
.venv/installed: pyproject.toml | .venv/bin/python
	@echo "Installing the course into .venv; the first time this takes some minutes."
	$(BIN)/python -m pip install --editable .
	$(JUPYTER) labextension disable "@jupyterlab/apputils-extension:announcements"
	@touch $@

.venv/installed-test: pyproject.toml .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@

.venv/installed-bench: pyproject.toml .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	@touch $@

clean:
	rm -rf .venv build
