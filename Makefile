# One environment, .venv, made by what a target needs. Stamp files keep a second run quick.
#
#   make demo    install without torch, run the study `ocr`, export its best model   (about 10 minutes on 2 cores)
#   make test    install everything, all checks and tests                            (about 30 minutes on 2 cores)
#   make tools   the system's programs that some tests need: sshd, adb, an emulator, shells (by apt, as root in a container)
#   make lint    the checks without the tests
#   make env     the environment of `make test`
#   make clean   remove the environment, caches and build output; never recorded studies

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RUNS := autotune-runs
TORCH := torch==2.13.0
SOURCES := autotune hwprofiles dashboards studies benchmarks tests

# Debian packages that tests of remote and mobile targets need, and a program of each.
TOOLS := openssh-client:ssh openssh-server:sshd adb:adb qemu-user-static:qemu-aarch64-static \
  iproute2:ip tcsh:tcsh zsh:zsh fish:fish mksh:mksh toybox:toybox

# What must be installed again when it changes.
DECLARED := pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help env demo test tools lint clean

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "make: $(PYTHON) is not there; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python" >&2; \
	  exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "make: $(PYTHON) cannot make environments; install its venv package (Debian: python3.11-venv)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

# Enough to run studies on ONNX models: no torch.
$(VENV)/.run: $(VENV)/.made $(DECLARED)
	$(BIN)/python -m pip install --quiet --editable '.[studies]'
	@touch $@

# Torch first and by itself, so that nothing else decides which one.
$(VENV)/.torch: $(VENV)/.made
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	@touch $@

$(VENV)/.all: $(VENV)/.torch $(VENV)/.run $(DECLARED)
	$(BIN)/python -m pip install --quiet --editable '.[torch,studies,dev]'
	@touch $@

env: $(VENV)/.all

demo: $(VENV)/.run
	$(BIN)/autotune run ocr --store $(RUNS)/ocr/store.db
	$(BIN)/autotune export ocr best $(RUNS)/ocr/bundle --store $(RUNS)/ocr/store.db
	$(BIN)/python $(RUNS)/ocr/bundle/infer.py

lint: $(VENV)/.all
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests that miss one of these say so and are skipped; with CI set they fail. On a machine with services of its own
# nothing is installed unasked: Debian's package of sshd would start it.
tools:
	@missing=; for each in $(TOOLS); do \
	  PATH="$$PATH:/usr/sbin:/sbin" command -v "$${each#*:}" >/dev/null 2>&1 || missing="$$missing $${each%%:*}"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 && { [ -n "$$CI" ] || [ ! -d /run/systemd/system ]; }; then \
	  echo "make: installing$$missing"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends $$missing \
	    >/dev/null && exit 0; \
	  if [ -n "$$CI" ]; then echo "make: apt-get could not install$$missing" >&2; exit 69; fi; \
	fi; \
	echo "make: some tests will be skipped; to run them: apt-get install$$missing" >&2

# A worker per core; the tests that time something hold no absolute times.
test: lint tools
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
