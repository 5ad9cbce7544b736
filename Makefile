# Every target makes its own environment in .venv; nothing outside this folder is touched.
PYTHON ?= python3
TORCH ?= 2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq
# Linux without an NVIDIA GPU: the +cpu build, so that no CUDA package is ever downloaded.
CPU_ONLY := $(shell [ "$$(uname -s)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1 && echo yes)
CPU_INDEX := --retries 1 --timeout 60 --extra-index-url https://download.pytorch.org/whl/cpu
OUTPUT ?= output

.PHONY: demo test lint format bench clean

demo: $(VENV)/.headless
	$(BIN)/patchbay run example_workflows/api/demo.json --output $(OUTPUT)

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/attention.py

$(VENV)/.torch: Makefile
	@echo "Setting up $(VENV) with torch $(TORCH)$(if $(CPU_ONLY), (CPU build)) ..."
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(if $(CPU_ONLY),$(PIP) $(CPU_INDEX) "torch==$(TORCH)+cpu",$(PIP) "torch==$(TORCH)")
	@touch $@

$(VENV)/.headless: $(VENV)/.torch pyproject.toml
	$(PIP) -e ".[headless]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@echo "Installing the development tools ..."
	$(PIP) -e ".[dev]"
	@touch $(VENV)/.headless $@

clean:
	rm -rf $(VENV) build *.egg-info
