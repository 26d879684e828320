# Every target sets up what it needs from a bare clone: `make` lists them.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
DOCS_READY := .venv/docs-ready
SLOW_READY := .venv/slow-ready
# Gradio needs an older Pillow, so the page has an environment on top of the other one
UI := .venv-ui
UI_READY := $(UI)/ready
# and so have Ray and its hundred dependencies
RAY := .venv-ray
RAY_READY := $(RAY)/ready

# the real datasets, as for the tests
DATA ?= $(or $(PLAINUNET_DATA),../shared/data)

# two workers, each with one thread (tests/conftest.py); an idle one takes over tests of the other
TEST := $(BIN)/pytest -q -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-ui test-ray check format bench results docs dist clean browser

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

demo: $(READY)  ## generate a dataset, train, evaluate, predict (3 minutes)
	$(BIN)/plainunet demo

test: check browser  ## check, then all tests except the slow ones
	$(TEST)

test-slow: $(SLOW_READY) test-ui test-ray  ## only the slow tests
	$(TEST) -m slow

test-ui: $(UI_READY) browser  ## the tests of the page in the browser
	$(UI)/bin/python -m pytest -q -m gradio tests/deployment

test-ray: $(RAY_READY)  ## prediction on a Ray cluster, Parquet and S3
	$(RAY)/bin/python -m pytest -q -m 'ray or arrow' tests/deployment

# tests of reports need a browser; without one they are skipped with a reason
browser:
	@command -v chromium >/dev/null || { \
	  echo "installing chromium for the tests of reports"; \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes chromium; } \
	    >/dev/null 2>&1; \
	} || echo "chromium could not be installed: tests in a browser will skip"

check: $(READY)  ## lint, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)  ## fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(READY)  ## time a training step, side by side
	$(BIN)/python benchmarks/network.py

results: $(READY)  ## train the recipes (hours) and write their scores; NAMES="nuclei roads": only these
	@test -d "$(DATA)" || { \
	  echo "$(DATA) is missing: name the folder of the datasets, as in make results DATA=../data" >&2; \
	  exit 1; }
	$(BIN)/python docs/results.py "$(DATA)" $(NAMES)

docs: $(DOCS_READY)  ## build the documentation into site/, strictly
	$(BIN)/python docs/reference.py
	$(BIN)/zensical build --clean --strict

dist: $(READY)  ## build wheels and sdist into dist/; VERSION=1.2.3: only if that is the version
	@test -z "$(VERSION)" || test "$(VERSION)" = "$$($(BIN)/plainunet --version)" || { \
	  echo "$(VERSION) is not the version in src/plainunet/__init__.py, which is $$($(BIN)/plainunet --version)" >&2; \
	  exit 1; }
	rm -rf dist
	$(BIN)/python -m build --outdir dist/plainunet .
	$(BIN)/python -m build --wheel --outdir dist/plainunet-runtime runtime

clean:  ## remove the environment and everything built
	rm -rf .venv $(UI) $(RAY) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist site

# --clear: a dependency that was removed must not linger
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) was not found: install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "plainunet needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V): name another: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "setting up .venv (a few minutes the first time)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(SLOW_READY): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt schemathesis
	@touch $@

# an environment on top of .venv, with more in it
define ON_TOP
@$(BIN)/python -m venv --clear $(1)
@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
  "$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
@$(1)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(2)
endef

$(UI_READY): $(READY)
	$(call ON_TOP,$(UI),-e '.[ui]')
	@touch $@

$(RAY_READY): $(READY)
	$(call ON_TOP,$(RAY),-e '.[ray]' s3fs 'moto[server]')
	@touch $@

$(DOCS_READY): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@
