PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint docs clean

demo: $(VENV)/.installed
	$(BIN)/nearfar demo

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed
	$(BIN)/python -m pip install -q ".[docs]"
	$(BIN)/python scripts/build_docs.py

$(VENV)/.installed: pyproject.toml
	@PYTHON=$(PYTHON) VENV=$(VENV) sh scripts/install.sh .
	@touch $@

$(VENV)/.installed-test: pyproject.toml
	@PYTHON=$(PYTHON) VENV=$(VENV) sh scripts/install.sh ".[test]"
	@touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build src/*.egg-info
