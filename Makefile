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
ROOMS := headless ldm_patched nodes tools

.PHONY: demo test test-web lint lint-web format bench clean

demo: $(VENV)/.headless
	$(BIN)/patchbay run example_workflows/api/demo.json --output $(OUTPUT)

# A process for each core; more threads than cores would make small operations many times slower.
test: $(VENV)/.dev test-web
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# The pure modules of the page; a machine without node leaves them out.
test-web:
	@if command -v node >/dev/null; then node --test tests/web/; else echo "node is not installed: tests/web was not run"; fi

# Under the package's own name, whatever this folder is called: else mypy takes what one room imports of another for Any.
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p $(VENV)/types && ln -sfn ../.. $(VENV)/types/attention_patchbay
	MYPYPATH=$(VENV)/types $(BIN)/mypy $(addprefix -p attention_patchbay.,$(ROOMS))

# The types in the page's comments; needs npm's registry.
lint-web:
	npx --yes --package typescript@5 tsc --project jsconfig.json

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/token_methods.py
	$(BIN)/python benchmarks/unet_step.py

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
