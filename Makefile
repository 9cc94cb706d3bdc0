# Everything goes through .venv, which is made on first use. PYTHON=python3.12 make ... chooses another Python.
PYTHON ?= python3
BIN := .venv/bin

# Container images set it; every process would compile anew what it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test lab notebooks bench soak lint lock clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 18

run: .venv/installed  ## the notebooks in order, headless, on the sample data, into outputs/sample
	$(BIN)/mlkit run

test: .venv/installed lint  ## every test
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile

lab: .venv/installed  ## open JupyterLab
	$(BIN)/jupyter lab --notebook-dir=. notebooks

notebooks: .venv/installed  ## execute the committed notebooks again on the sample data, in place, and clean them
	MLKIT_PROGRESS=off $(BIN)/jupyter nbconvert --log-level WARN --to notebook --inplace --execute notebooks/*.ipynb
	$(BIN)/nbstripout --keep-output --keep-count --keep-id --extra-keys \
	  "metadata.widgets metadata.papermill cell.metadata.papermill cell.metadata.execution" notebooks/*.ipynb

bench: .venv/installed  ## measure the speed here, beside a plain loop and the machine's limit; about three minutes
	$(BIN)/mlkit bench

soak: .venv/installed  ## kill commands, let writes fail, damage files, and see that nothing is lost
	$(BIN)/python tests/soak.py

lint: .venv/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: .venv/installed  ## requirements.lock again, from pyproject.toml: what is installed, with hashes
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes \
	  --no-emit-index-url --no-annotate --extra test pyproject.toml --output-file requirements.lock

clean:  ## remove the environment; data and outputs stay
	rm -rf .venv

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	UV_HTTP_TIMEOUT=300 VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes --requirement requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@
