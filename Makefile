# Two commands for a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
LATEST_VENV ?= .venv-latest
BIN = $(VENV)/bin
LATEST = $(LATEST_VENV)/bin
WORKERS ?= 2

.PHONY: quickstart test test-thorough test-latest lint clean

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable . --constraint constraints.txt
	touch $@

$(BIN)/.installed-test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,torch]' --constraint constraints.txt
	touch $@

quickstart: $(BIN)/.installed
	$(BIN)/python run.py

test: $(BIN)/.installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# All sweeps, and ten times as many examples of hypothesis.
test-thorough: $(BIN)/.installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --thorough

# The JAX side on a newer Python, where one is found, with the newest versions of everything.
# LATEST_PYTHON names one; else python3.13 or python3.12 on the path, or pyenv's newest of them.
test-latest:
	@for python in "$(LATEST_PYTHON)" python3.13 python3.12 \
	    $$(ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.1[23]*/bin/python 2>/dev/null | sort -rV); do \
	  if [ -n "$$python" ] && "$$python" -c '' 2>/dev/null; then \
	    echo "testing on $$("$$python" --version)"; exec "$$python" -m venv $(LATEST_VENV); \
	  fi; \
	done; echo "no newer Python found; set LATEST_PYTHON" >&2; exit 1
	$(LATEST)/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[test]'
	$(LATEST)/python -m pytest -n $(WORKERS) --dist worksteal

lint:
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

clean:
	rm -rf $(VENV) $(LATEST_VENV) build dist *.egg-info .cache
