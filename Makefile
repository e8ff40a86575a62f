# Everything is set up in .venv; nothing has to be installed by hand before.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs reproduce clean

demo: $(VENV)/.demo
	$(BIN)/hyperasr demo

test: $(VENV)/.test lint docs
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.test
	$(BIN)/mkdocs build --strict --quiet

# Every table and figure of the README; OPTIONS=--list shows the steps and how long they take.
reproduce: $(VENV)/.test
	$(BIN)/python -m eval.reproduce $(OPTIONS)

# torch first: the constraint keeps pip from trading a CPU build for another one.
$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -r constraints.txt
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
