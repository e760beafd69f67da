# `make repro` and `make test` set everything up themselves; `make help` lists the rest.

PYTHON ?= python3
TORCH  := torch==2.13.0
PYTEST := pytest --numprocesses 2
BIN    := .venv/bin
STAMP  := .venv/.ready

export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-all lint format lock licences benchmark ui paper small clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

# torch first and by itself, so that no other package chooses its build
$(STAMP): .ci/requirements.txt pyproject.toml
	@git rev-parse -q --verify HEAD >/dev/null 2>&1 || \
		{ echo "error: this folder is no clone by Git, which DVC needs: use \`git clone\`, no zip" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11: make PYTHON=python3.12 setup" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps --require-hashes \
		--requirement .ci/requirements.txt
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps \
		--no-build-isolation --editable .
	@touch $@

setup: $(STAMP)  ## make the virtual environment .venv

repro: $(STAMP)  ## run the pipeline: whatever changed since the last run
	python -m pipeline.lock
	dvc repro

test: $(STAMP)  ## run the tests (minutes)
	$(PYTEST) -m "not slow"

test-all: $(STAMP)  ## run the slow tests too
	HDED_FUZZ=300 $(PYTEST)

lint: $(STAMP)  ## check style and types
	ruff check .
	ruff format --check .
	pyright
	python .ci/check_lock.py

format: $(STAMP)  ## rewrite the code in the house style
	ruff check --fix .
	ruff format .

# torch brings the CUDA packages that its own build needs; pinned here, every CPU would get them.
# pip-compile drops the marker of triton, which exists for Linux alone.
lock: $(STAMP)  ## pin the newest versions that pyproject.toml allows
	$(BIN)/python -m pip install --quiet pip-tools
	echo "$(TORCH)" > .venv/torch.txt
	pip-compile --quiet --upgrade --all-extras --constraint .venv/torch.txt --generate-hashes \
		--unsafe-package torch --strip-extras --no-annotate --no-header --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --output-file .venv/lock.txt pyproject.toml
	{ grep '^#' .ci/requirements.txt; \
		awk '/^[a-z]/ { cuda = /^(nvidia|cuda)-/ } /^triton==/ { $$1 = $$1 " ; sys_platform == \"linux\"" } \
			NF && !/^#/ && !cuda' .venv/lock.txt; } > .venv/new.txt
	mv .venv/new.txt .ci/requirements.txt

licences: $(STAMP)  ## list every dependency's licence in .ci/licences.md
	$(BIN)/python -m pip install --quiet pip-licenses
	pip-licenses --with-system --format=markdown --output-file .ci/licences.md \
		--ignore-packages hded pip pip-licenses pip-tools

benchmark: $(STAMP)  ## measure speed and memory into reports/benchmark.json, after `make repro`
	python -m pipeline.benchmark.__main__

ui: $(STAMP)  ## open MLflow on the project's runs, at http://127.0.0.1:5000
	mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///mlflow.db

paper: $(STAMP)  ## set params.yaml to the paper's configuration on the official files
	python -m pipeline.preset paper

small: $(STAMP)  ## set params.yaml to a small pretrained network on the official files
	python -m pipeline.preset small

clean:  ## remove what the pipeline made; downloads and MLflow runs stay
	rm -rf data/inputs data/sample data/raw/*.json data/raw/.*.json data/frames data/defocused data/renderings data/trained data/evaluated data/checkpoints data/unfinished
	rm -rf reports/tables reports/metrics reports/curves reports/errors reports/defocus reports/index.html
