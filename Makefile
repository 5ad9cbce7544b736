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
SOME_TESTS := tests/ldm_patched/files/test_checkpoint.py tests/headless/nodes/test_image.py tests/nodes/test_capture.py
PYTHONS := python3.10 python3.11 python3.12 python3.13 python3.14 $(wildcard $(HOME)/.pyenv/versions/3.1?.*/bin/python)
MINOR := import sys; print('3.%d' % sys.version_info[1])

.PHONY: demo test test-web test-lowest test-pythons lint lint-web format bench clean

demo: $(VENV)/.headless
	$(BIN)/patchbay run example_workflows/api/demo.json --output $(OUTPUT)

# A process for each core; more threads than cores would make small operations many times slower. The many commands that
# the tests start find the pack compiled, also where the environment says to keep nothing compiled.
test: $(VENV)/.dev test-web
	env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# The pure modules of the page; a machine without node leaves them out.
test-web:
	@if command -v node >/dev/null; then node --test tests/web/; else echo "node is not installed: tests/web was not run"; fi

# With the oldest versions that pyproject.toml allows laid over the environment; torch stays, which is too large to have twice.
test-lowest: $(VENV)/.lowest
	@if [ -d $(VENV)/lowest ]; then \
		OMP_NUM_THREADS=1 PYTHONPATH=$(VENV)/lowest $(BIN)/python -m pytest -n auto $(SOME_TESTS); \
	else echo "the oldest versions cannot be had for this Python: tests with them were not run"; fi

# Another Python that has torch runs some tests; one that has not still reads every file.
test-pythons: $(VENV)/.dev
	@mine=$$($(BIN)/python -c "$(MINOR)"); others=; \
	for python in $(PYTHONS); do \
		minor=$$($$python -c "$(MINOR)" 2>/dev/null) || continue; \
		if [ $$minor = $$mine ]; then continue; fi; others=yes; \
		PYTHONPYCACHEPREFIX=$(VENV)/compiled $$python -m compileall -q __init__.py api.py client.py $(ROOMS) tests || exit 1; \
		if PYTHONPATH=$(VENV)/types $$python -c "import torch, numpy, safetensors, pytest, hypothesis" 2>/dev/null; then \
			OMP_NUM_THREADS=1 PYTHONPATH=$(VENV)/types $$python -m pytest $(SOME_TESTS) || exit 1; \
		else echo "Python $$minor has no torch here: it has read the files and run no test"; fi; \
	done; [ -n "$$others" ] || echo "there is no Python here but $$mine: no other one was tried"

# Under the package's own name, whatever this folder is called: else mypy takes what one room imports of another for Any.
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p $(VENV)/types && ln -sfn ../.. $(VENV)/types/attention_patchbay
	MYPYPATH=$(VENV)/types $(BIN)/mypy -m attention_patchbay.api $(addprefix -p attention_patchbay.,$(ROOMS))

# The types in the page's comments; needs npm's registry.
lint-web:
	@if npx --yes --package typescript@5 tsc --version >/dev/null 2>&1; then \
		npx --yes --package typescript@5 tsc --project jsconfig.json; \
	else echo "typescript cannot be had: the types of the page were not checked"; fi

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/token_methods.py
	$(BIN)/python benchmarks/unet_step.py

$(VENV)/.torch: Makefile
	@echo "Setting up $(VENV) with torch $(TORCH)$(if $(CPU_ONLY), (CPU build)): some minutes, without a word; warnings of an index that cannot be reached do no harm ..."
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

$(VENV)/.lowest: $(VENV)/.dev pyproject.toml
	rm -rf $(VENV)/lowest
	$(PIP) --no-deps --only-binary :all: --target $(VENV)/lowest $(shell grep -oE '"(numpy|safetensors|pillow|tqdm)>=[0-9.]+"' \
		pyproject.toml | tr -d '"' | sed 's/>=/==/' | sort -u) || rm -rf $(VENV)/lowest
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
