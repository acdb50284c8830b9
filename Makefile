SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test slow parity tpu exports export-check web-test web-runtime thorough chaos bench lint format hooks clean

PYTHON ?= python3
VENV ?= .venv
# Two processes, each with whole files: they share nothing but two cores.
PYTEST ?= $(VENV)/bin/python -m pytest -n 2 --dist loadfile

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  PYTHON=python3.12 make demo   uses another Python for $(VENV)"

demo: $(VENV)/.installed ## train, evaluate and predict on two CPU cores, in minutes
	$(VENV)/bin/flaxmobile train fashion_mnist_mini --run-dir runs/demo --overwrite
	$(VENV)/bin/flaxmobile evaluate runs/demo
	$(VENV)/bin/flaxmobile predict runs/demo examples/fashion_mnist
	@echo; echo "The report with its pictures: $(CURDIR)/runs/demo/report.md"

test: $(VENV)/.installed-test ## the tests (under five minutes)
	$(PYTEST)

slow: $(VENV)/.installed-test ## the tests marked slow
	$(PYTEST) -m 'slow and not thorough'

parity: $(VENV)/.installed-parity ## the same weights in torch, torchvision, timm and Keras (installs them), and Core ML packages by torch
	$(PYTEST) -m 'parity and not thorough'

tpu: ## compile training steps for a TPU that is not there, in an environment with libtpu
	$(MAKE) --no-print-directory VENV=$(VENV)-tpu $(VENV)-tpu/.installed-test $(VENV)-tpu/.installed-tpu
	$(VENV)-tpu/bin/python -m pytest -m 'tpu and not thorough'

exports: ## write files of models, and run them in LiteRT, ONNX Runtime and OpenVINO (an environment of their own)
	$(MAKE) --no-print-directory VENV=$(VENV)-export $(VENV)-export/.installed-export-test
	$(VENV)-export/bin/python -m pytest -n 2 --dist loadfile -m 'export and not thorough' tests/export

export-check: ## every registered network as a file of each format; what has no result yet (hours), and the table in docs/exports.md
	$(MAKE) --no-print-directory VENV=$(VENV)-export $(VENV)-export/.installed-export-test
	$(VENV)-export/bin/python -m benchmarks.exports

web-test: ## the page in Chromium, beside JAX (apt install chromium chromium-driver; the environment of the exports)
	$(MAKE) --no-print-directory VENV=$(VENV)-export $(VENV)-export/.installed-export-test $(VENV)-export/.installed-web-test
	$(VENV)-export/bin/python -m pytest -m web tests/export

web-runtime: $(VENV)/.installed ## pack LiteRT.js, which runs the page's network, from npm into the package
	$(VENV)/bin/python scripts/make_web_runtime.py

thorough: $(VENV)/.installed-parity ## before a release: whole networks that repeat what a block or a sibling shows (an hour)
	$(PYTEST) -m 'thorough and not tpu'
	$(MAKE) --no-print-directory VENV=$(VENV)-tpu $(VENV)-tpu/.installed-test $(VENV)-tpu/.installed-tpu
	$(VENV)-tpu/bin/python -m pytest tests/training -m 'thorough and tpu'

chaos: $(VENV)/.installed-test ## kill runs at 50 random moments: each has to end bit-identical (6 minutes)
	$(VENV)/bin/python tests/chaos/chaos.py --kills 50

bench: $(VENV)/.installed-benchmarks ## time against plain Flax, Keras, torch, ONNX Runtime and LiteRT (hours, on an idle machine)
	status=0; for name in inference training transformations compile; do $(VENV)/bin/python -m benchmarks.$$name || status=1; done; exit $$status

lint: $(VENV)/.installed-lint ## ruff and mypy
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

format: $(VENV)/.installed-lint ## let ruff rewrite what it can
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

hooks: $(VENV)/.installed-lint ## check every commit with pre-commit
	$(VENV)/bin/pre-commit install

clean: ## remove what was built (runs/ stays)
	rm -rf "$(VENV)" build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last, so that an install that broke off is taken up again.
$(VENV)/.python:
	@command -v "$(PYTHON)" > /dev/null || { \
	  echo "flaxmobile: no $(PYTHON) on this machine. Install Python 3.11 or newer, or name one: PYTHON=/path/to/python3.11 make ..."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "flaxmobile: needs Python 3.11 or newer, and $(PYTHON) is $$("$(PYTHON)" --version 2>&1). Name another: PYTHON=python3.12 make ..."; exit 1; }
	@"$(VENV)/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || \
	  "$(PYTHON)" -m venv --clear "$(VENV)" || { \
	  echo "flaxmobile: $(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.python
	$(VENV)/bin/python -m pip install --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-%: pyproject.toml $(VENV)/.python
	$(VENV)/bin/python -m pip install --disable-pip-version-check --editable '.[$*]'
	@touch $@
