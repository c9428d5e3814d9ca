# Everything is set up inside this directory: .venv (packages), .cache (downloads, test runs), .demo (the demo's data).
# Needs Python 3.11 or newer. PYTHON, PORT and ARGS may be given: make demo PORT=8080, make test ARGS="-k sweep".

PYTHON ?= python3
PORT ?= 8000
ARGS ?=
BIN := .venv/bin

export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TMPDIR := $(CURDIR)/.cache/tmp

.PHONY: help demo run test test-fast lint format migrations bench bench-audit bench-token clean

help:
	@echo "make demo    start the portal with a sandbox in place of Microsoft, on http://localhost:$(PORT)"
	@echo "make run     the same, for developers"
	@echo "make test    run all tests, on SQLite and on PostgreSQL"
	@echo "make test-fast   run the quick tests, on SQLite, without a browser"
	@echo "make lint    check style, imports, types, templates and migrations"
	@echo "make format  format the Python code and sort its imports"
	@echo "make migrations  write the migrations that changed models need"
	@echo "make bench   measure the sweep and the idle memory"
	@echo "make bench-audit   measure sealing, verifying and exporting a million events"
	@echo "make bench-token   measure the token call beside its floor"
	@echo "make clean   remove everything the above made"

demo run: .venv/installed
	@exec $(BIN)/python -m portal.demo --port $(PORT)

test: .venv/installed-dev
	@exec $(BIN)/python -m tests $(ARGS)

test-fast: .venv/installed-dev
	@exec $(BIN)/python -m tests --fast $(ARGS)

format: .venv/installed-dev
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

migrations: .venv/installed-dev
	$(BIN)/python -m tests.with_temp_settings $(BIN)/python manage.py makemigrations $(ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m tests.with_temp_settings $(BIN)/mypy
	$(BIN)/djlint --lint --quiet templates
	$(BIN)/python -m tests.with_temp_settings $(BIN)/python manage.py makemigrations --check --dry-run

bench: .venv/installed-dev
	@exec $(BIN)/python -m benchmarks.sweep $(ARGS)

bench-audit: .venv/installed-dev
	@exec $(BIN)/python -m benchmarks.audit $(ARGS)

bench-token: .venv/installed-dev
	@exec $(BIN)/python -m benchmarks.token $(ARGS)

clean:
	rm -rf .venv .cache .demo .mypy_cache .ruff_cache .pytest_cache .coverage* static

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@mkdir -p $(TMPDIR)
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	@mkdir -p $(TMPDIR)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@

.venv/installed-dev: requirements.txt requirements-dev.txt | .venv/bin/python
	@mkdir -p $(TMPDIR)
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	@touch .venv/installed $@
