# Two commands that set up what they need: `make demo` asks the model about an image, `make test` runs the tests.
# The environment is .venv; it is made once and made again only when setup.py or pyproject.toml change.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
OUT := demo/out

.PHONY: help demo browser test lint format docs clean

help:
	@echo "make demo   all tasks of the embedded model on the example images, drawn into $(OUT)"
	@echo "make test   run the tests"
	@echo "make lint   ruff and mypy"
	@echo "make docs   the documentation, built into build/docs"
	@echo "make clean  remove the environment and what the demo wrote"

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch comes first and alone, so that its build (CPU, CUDA) can be chosen: make demo TORCH="torch==2.13.0 --index-url ..."
$(VENV)/.package: setup.py pyproject.toml | $(VENV)/.venv
	@echo "Installing PyTorch and the package into $(VENV); this takes some minutes, once."
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.package
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

demo: $(VENV)/.package
	@mkdir -p $(OUT)
	$(BIN)/pixelllm caption demo/examples/skier.jpg demo/examples/motorcycle.jpg demo/examples/gull.jpg demo/examples/cat.jpg demo/examples/coffee.jpg --draw $(OUT) --json $(OUT)/captions.jsonl
	$(BIN)/python demo/all_tasks.py --out $(OUT)/all_tasks.png

# Debian's Chromium for the browser tests, if it may be installed; else they are skipped by name.
browser:
	@if ! command -v chromium >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		echo "Installing Chromium for the browser tests."; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			chromium fonts-dejavu-core >/dev/null; } || echo "It cannot be installed; the browser tests are skipped."; \
	fi

# The page first and alone: a browser that waits for its share of a processor loses clicks. Then the rest in several
# processes, of which each needs some 2 GB; a file's tests stay together, since they share what is slow to make.
test: $(VENV)/.dev browser
	@failed=0; \
	$(BIN)/python -m pytest tests/space || failed=1; \
	$(BIN)/python -m pytest --ignore tests/space -n auto --maxprocesses 4 --dist loadfile || failed=1; \
	exit $$failed

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) demo/out
