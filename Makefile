# What a machine needs beforehand: make, and Python 3.11, 3.12 or 3.13. Everything else goes into .venv.
# `make PYTHON=/path/to/python3` chooses the Python of a new .venv.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
PYTHON ?= python3.11 python3.12 python3.13 python3 python
MILLRACE := $(BIN)/python -m cli.main
# A lock is complete: nothing is resolved, so nothing but what it names with its hash is installed.
FROM_LOCK := --require-hashes --no-deps

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install up demo test check format lock upgrade clean bench-drift bench-rounds bench-replay bench-ingestion bench-serving bench-swap bench-start bench-batch bench-training bench-books

help: ## Say what there is.
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

up: $(INSTALLED) ## Start the whole platform here; Ctrl-C stops it, the data stay.
	@exec $(MILLRACE) up

demo: $(INSTALLED) ## Run the whole loop once and prove each step; DATA=path.csv takes your own prices.
	@exec $(MILLRACE) demo $(if $(DATA),--data "$(DATA)")

bench-batch: $(INSTALLED) ## Measure batch scoring against bare ONNX Runtime.
	$(BIN)/python -m benchmarks.batch $(ARGS)

# Without a choice two files at a time, and then the journeys, which share one platform.
test: $(INSTALLED) ## Run the tests; ARGS="-k gate" chooses some.
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	@status=0; \
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/journeys || status=1; \
	$(BIN)/python -m pytest tests/journeys || status=1; \
	exit $$status
endif

bench-serving: $(INSTALLED) ## Measure requests a second and latency, beside FastAPI, MLflow and MLServer.
	$(BIN)/python -m benchmarks.serving

bench-swap: $(INSTALLED) ## Measure 200 transitions under load.
	$(BIN)/python -m benchmarks.swap

bench-start: $(INSTALLED) ## Measure how fast serving starts and how much memory it takes.
	$(BIN)/python -m benchmarks.start

check: $(INSTALLED) ## Check format, style, types, the import rule and that the locks answer to pyproject.toml.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q --noconftest tests/packaging/test_locks.py

bench-drift: $(INSTALLED) ## Measure false alarms and power of drift checks, beside Evidently's defaults.
	$(BIN)/python -m benchmarks.drift $(ARGS)

bench-rounds: $(INSTALLED) ## Measure one round of checks over a thousand models, from the database.
	$(BIN)/python -m benchmarks.rounds $(ARGS)

bench-replay: $(INSTALLED) ## Replay a machine's labelled readings; ARGS="--readings FILE.csv --windows FILE.json" names them.
	$(BIN)/python -m benchmarks.replay $(ARGS)

bench-ingestion: $(INSTALLED) ## Measure how fast rows come in; ARGS="--rows 10000000" for more of them; needs Mosquitto.
	$(BIN)/python -m benchmarks.ingestion $(ARGS)

bench-training: $(INSTALLED) ## Measure what the platform adds to a bare fit, beside MLflow's autologging.
	$(BIN)/python -m benchmarks.training $(ARGS)

bench-books: $(INSTALLED) ## Measure recommendations on real ratings, beside popularity and the ALS of implicit.
	@test -x $(VENV)/als/bin/python || $(BIN)/python -m venv $(VENV)/als
	@$(VENV)/als/bin/python -m pip install --quiet --disable-pip-version-check "implicit>=0.7,<0.8"
	$(BIN)/python -m benchmarks.books --als-python $(VENV)/als/bin/python $(ARGS)

format: $(INSTALLED) ## Format the code and mend what ruff can.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(INSTALLED) ## Write the locks and conda.yaml anew from pyproject.toml, keeping versions that still fit.
	$(BIN)/python -m deploy.lock

upgrade: $(INSTALLED) ## The same with the newest versions that pyproject.toml allows.
	$(BIN)/python -m deploy.lock --upgrade

install: $(INSTALLED) ## Install into .venv; the others do it where needed.

clean: ## Remove what the tools leave behind; the data (.millrace, mlruns) and .venv stay.
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# uv comes out of the lock first because it installs the rest several times as fast as pip. Where uv cannot reach the
# package index (it does not read pip's settings), pip does it.
$(INSTALLED): requirements.lock pyproject.toml
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  for name in $(PYTHON); do \
	    if $$name -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	    then found=$$name; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Millrace needs Python 3.11, 3.12 or 3.13 with its venv module; tried: $(PYTHON)." >&2; \
	    echo "Install one (Debian, Ubuntu: python3 and python3-venv), or name it: make PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$($$found --version)"; \
	  $$found -m venv --clear $(VENV); \
	fi
	@echo "Installing what requirements.lock names into $(VENV); the first time this takes some minutes"
	@awk '/^[a-z]/ {keep = /^uv==/} keep' requirements.lock > $(VENV)/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(FROM_LOCK) -r $(VENV)/uv.lock
	@$(BIN)/python -m uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(FROM_LOCK) -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
