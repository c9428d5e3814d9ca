# Everything is set up inside this directory: .venv (packages), .cache (downloads, test runs), .demo (the demo's data).
# Needs Python 3.11 or newer. PYTHON, PORT and ARGS may be given: make demo PORT=8080, make test ARGS="-k sweep".

PYTHON ?= python3
PORT ?= 8000
ARGS ?=
BIN := .venv/bin
BANDIT := --quiet --configfile pyproject.toml --recursive -ll -ii connections portal clients/python/src manage.py

export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TMPDIR := $(CURDIR)/.cache/tmp

.PHONY: help demo run test test-fast lint licenses format migrations bench bench-audit bench-rotation bench-token bench-growth soak screenshots release clean

help:
	@echo "make demo    start the portal with a sandbox in place of Microsoft, on http://localhost:$(PORT)"
	@echo "make run     the same, for developers"
	@echo "make test    run all tests, each on SQLite or PostgreSQL; ARGS=--both: on both"
	@echo "make test-fast   run the quick tests, on SQLite, without a browser"
	@echo "make lint    check style, imports, types, templates, migrations and what bandit finds"
	@echo "make licenses  list the licence of every package that the portal needs"
	@echo "make format  format the Python code and sort its imports"
	@echo "make migrations  write the migrations that changed models need"
	@echo "make bench   measure the sweep beside a limit and usual ways, and the idle memory; ARGS=--storm: many due at once"
	@echo "make bench-audit   measure sealing, verifying and exporting a million events"
	@echo "make bench-rotation   change the encryption key of a portal at work"
	@echo "make bench-token   measure the token call beside its floor"
	@echo "make soak    play rounds of faults with real processes, about half an hour"
	@echo "make bench-growth   measure every page and API route in a large organisation"
	@echo "make screenshots   take the pictures of the documentation again, with Chromium"
	@echo "make release   check the version and make the files of a release in dist/"
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
	$(BIN)/bandit $(BANDIT)
	$(BIN)/python -m tests.with_temp_settings $(BIN)/mypy
	$(BIN)/djlint --lint --quiet templates
	$(BIN)/python -m tests.with_temp_settings $(BIN)/python manage.py makemigrations --check --dry-run

licenses: .venv/installed-dev
	@exec $(BIN)/python -m tests.licenses

bench: .venv/installed-dev
	@exec $(BIN)/python -m benchmarks.sweep $(ARGS)

bench-audit: .venv/installed-dev
	@exec $(BIN)/python -m benchmarks.audit $(ARGS)

bench-rotation: .venv/installed-dev
	@exec $(BIN)/python -m benchmarks.key_rotation $(ARGS)

bench-token: .venv/installed-dev
	@exec $(BIN)/python -m benchmarks.token $(ARGS)

soak: .venv/installed-dev
	@exec $(BIN)/python -m tests.faults.soak $(ARGS)

bench-growth: .venv/installed-dev
	@exec $(BIN)/python -m benchmarks.growth $(ARGS)

screenshots: .venv/installed-dev
	@exec $(BIN)/python -m tests.screenshots $(ARGS)

release: .venv/installed-dev .cache/release/installed
	@exec $(BIN)/python deploy/release.py --sbom-tool .cache/release/bin/cyclonedx-py $(ARGS)

clean:
	rm -rf .venv .cache .demo .mypy_cache .ruff_cache .pytest_cache .coverage* static dist

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@mkdir -p $(TMPDIR)
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt requirements-demo.txt | .venv/bin/python
	@mkdir -p $(TMPDIR)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements-demo.txt
	@touch $@

.venv/installed-dev: requirements.txt requirements-demo.txt requirements-tracing.txt requirements-dev.txt | .venv/bin/python
	@mkdir -p $(TMPDIR)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements-dev.txt
	@touch .venv/installed $@

.cache/release/installed: requirements-release.txt | .venv/bin/python
	@mkdir -p $(TMPDIR)
	$(PYTHON) -m venv .cache/release
	.cache/release/bin/python -m pip install --quiet --require-hashes --requirement requirements-release.txt
	@touch $@
