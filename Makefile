# Two commands do everything: `make lab` opens the course, `make test` validates it.
# `make lecture` shows a lesson as slides; `make run`, `make slides` and `make site` write pages of
# all lessons under build/; `make check` and `make store` are for authors.

PYTHON ?= python3
BIN := .venv/bin
JUPYTER := $(BIN)/jupyter
FIRST := $(firstword $(sort $(wildcard notebooks/*.ipynb)))
# `make lab LESSON=03`, `make store LESSON=03` and so on take that one.
CHOSEN := $(if $(LESSON),$(or $(wildcard notebooks/$(LESSON)_*.ipynb),$(error no lesson "$(LESSON)": write two digits, as in LESSON=03)))
# The versions that were tested, unless NEWEST=1 asks for the newest of everything.
VERSIONS := $(if $(NEWEST),--upgrade --upgrade-strategy eager,--constraint constraints.txt)
PIP := $(BIN)/python -m pip
# In a container one often is root, and Jupyter wants to hear that this is meant.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: lab lecture test check everywhere run slides student instructor site store record bench address constraints clean newest

lab: .venv/installed
	$(JUPYTER) lab --ip=127.0.0.1 --ServerApp.root_dir="$(CURDIR)" $(AS_ROOT) --LabApp.default_url=/lab/tree/$(or $(CHOSEN),$(FIRST))

# Live slides, first one up.
lecture: .venv/installed-lecture
	$(BIN)/python -m course_lib.slideshow $(CHOSEN)

test: .venv/installed-test
	$(BIN)/python -m pytest

# All lessons under the arithmetic of other processors; goes on after an interruption.
everywhere: .venv/installed
	$(BIN)/python -m course_lib.everywhere

# For the minute between two edits; `make test` is what counts.
check: .venv/installed-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest tests course_lib -m "not slow" --ignore=tests/test_answers.py \
	  --ignore=tests/test_browser.py --ignore=tests/test_nbval.py --ignore=tests/test_notebooks.py

run: .venv/installed-pages
	$(BIN)/python -m course_lib.run $(CHOSEN)

slides: .venv/installed-pages
	$(BIN)/python -m course_lib.run --slides $(CHOSEN)

student: .venv/installed
	$(BIN)/python -m course_lib.editions student $(CHOSEN)

instructor: .venv/installed
	$(BIN)/python -m course_lib.editions instructor $(CHOSEN)

site: .venv/installed-site
	$(BIN)/python -m course_lib.site

store: .venv/installed
	$(BIN)/python -m course_lib.run --store $(CHOSEN)

# What COURSE_MODE=lecture replays instead of computing.
record: .venv/installed
	COURSE_RECORD=1 $(BIN)/python -m course_lib.run $(CHOSEN)

# Where the course is published, for badges and for lessons that miss it: make address URL=...
address: .venv/installed
	$(BIN)/python -m course_lib.address $(URL)

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
.venv/installed: pyproject.toml constraints.txt $(if $(NEWEST),newest) | .venv/bin/python
	@echo "Installing the course into .venv; the first time this takes some minutes."
	$(PIP) install $(VERSIONS) --editable .
	$(JUPYTER) labextension disable "@jupyterlab/apputils-extension:announcements"
	@touch $@

# RISE asks for an extension that JupyterLab 4 cannot load and does without; and later versions of
# the widgets do not load in RISE. Hence without dependencies, and apart from everything else.
.venv/installed-lecture: .venv/installed
	rm -rf .venv/lecture
	$(PIP) install --quiet --no-deps --target .venv/lecture jupyterlab-rise==0.43.1 \
	  jupyterlab-widgets==3.0.9
	@touch $@

.venv/installed-pages: .venv/installed
	$(PIP) install --quiet $(VERSIONS) --editable ".[pages]"
	@touch $@

.venv/installed-site: .venv/installed-pages
	$(PIP) install --quiet $(VERSIONS) --editable ".[site]"
	@touch $@

.venv/installed-test: .venv/installed-site .venv/installed-lecture
	$(PIP) install --quiet $(VERSIONS) --editable ".[test]"
	@touch $@

# Only this torchattacks has JSMA; it asks for a `requests` that is too old for JupyterLab.
.venv/installed-bench: .venv/installed-test
	$(PIP) install --quiet $(VERSIONS) --editable ".[bench]"
	$(PIP) install --quiet --no-deps torchattacks==3.5.1
	@touch $@

# Writes down what .venv holds, provided that it fits together: the torchattacks of `make bench`,
# which does not, gives way. `make constraints NEWEST=1` moves on to the newest versions.
constraints: .venv/installed-test
	rm -f .venv/installed-bench
	$(PIP) install --quiet $(VERSIONS) --editable ".[test,bench]"
	$(PIP) check
	$(PIP) freeze --exclude-editable --exclude pip --exclude setuptools > constraints.part
	mv constraints.part constraints.txt

newest:

clean:
	rm -rf .venv build
