# The commands of this project; `make help` lists them.
PYTHON ?= python3
CORES ?= all
PORT ?= 5000
STORE ?= results/mlflow/mlflow.db
JOBS ?= 2
# Further options of Snakemake or pytest: make reproduce ARGS="-n"
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Programs that Snakemake and the tests start are the environment's.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test faults bench ui lint format docs lock clean

help:  ## List the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

setup: $(INSTALLED)  ## Create .venv with the locked dependencies and this package

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 is needed (a later one may need another lock); name it with: make setup PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

reproduce: setup  ## Train, evaluate and redraw everything with the default configuration
	$(BIN)/snakemake --cores $(CORES) $(ARGS)

test: setup  ## Run the tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

faults: setup  ## Kill, damage, fill and outlast runs, some minutes each
	$(BIN)/python -m pytest tests/faults -m "faults or not faults" $(ARGS)

bench: setup  ## Measure speed and memory against peers at the laptop's sizes, one thread each
	@for script in benchmarks/*.py; do echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done

ui: setup  ## Serve MLflow on what the run recorded, at http://127.0.0.1:PORT
	@test -f $(STORE) || { echo "$(STORE): nothing is recorded yet; make reproduce, or STORE=FILE" >&2; exit 1; }
	@echo "open http://127.0.0.1:$(PORT)/#/experiments?workflowType=machine_learning"
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --workers 1 --backend-store-uri sqlite:///$(STORE) --host 127.0.0.1 --port $(PORT)

lint: setup  ## Check style, types and the workflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

format: setup  ## Format Python and the workflow
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

docs: setup  ## Export the configuration's JSON schema and config/README.md
	$(BIN)/python -m aent.config.document

lock: setup  ## Rewrite requirements.lock with the versions that .venv holds
	{ grep '^#' requirements.lock; \
	  $(BIN)/python -m pip freeze --all --exclude aent --exclude pip | sed 's/+cpu$$//'; } > $(VENV)/lock
	mv $(VENV)/lock requirements.lock

clean:  ## Remove .venv and caches; results/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
