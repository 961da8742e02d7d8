# The daily commands. Each sets up what it needs by itself, from Python >= 3.11, make and git,
# and uses again what an earlier run installed. What the checks are: noxfile.py.
PYTHON ?= python3
BIN := .venv/bin
# Check mode for the formatters; `make format` is the one that changes files.
NOX = CI=true $(BIN)/nox --no-color --reuse-existing-virtualenvs --no-install

LINT := formatters codeqa yamllint typing antsibull-nox-config docs-check extra-checks ansible-lint
SESSIONS_lint := $(LINT)
SESSIONS_test := $(LINT) collection unit sanity integration molecule
SESSIONS_test-matrix := collection worker compat
SESSIONS_demo := collection demo
SESSIONS_collection := collection
SESSIONS_unit := collection unit
SESSIONS_bench := collection bench
SESSIONS_test-faults := collection faults

.PHONY: help test lint unit demo collection test-matrix test-faults bench format clean
.DEFAULT_GOAL := help
.SECONDARY:

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|'

test: .nox/ready-test ## every check, in order, stopping at the first failure
	@$(NOX) --stop-on-first-error --session $(SESSIONS_test)

lint: .nox/ready-lint ## only the linters
	@$(NOX) --stop-on-first-error --session $(LINT)

unit: .nox/ready-unit ## only the unit tests, against the built tarball
	@$(NOX) --session unit

demo: .nox/ready-demo ## two real checks in the background of this machine, polled and reported
	@$(NOX) --session demo

collection: .nox/ready-collection ## build the tarball into dist/
	@$(NOX) --session collection

test-matrix: .nox/ready-test-matrix ## every ansible-core and Python that this machine has
	@$(NOX) --session collection worker compat grid

test-faults: .nox/ready-test-faults ## what happens when processes, disks and machines die
	@$(NOX) --session faults

bench: .nox/ready-bench ## measure against the builtin async, into docs/benchmarks.md
	@$(NOX) --session bench

format: .nox/ready-lint ## let the formatters change the files
	@CI=false $(BIN)/nox --no-color -R --session formatters

clean: ## remove everything that the checks made in this folder
	rm -rf .nox .venv dist tests/output .ansible

# Environments are made once, and again when their requirements change; the checks themselves
# then install nothing, so they are quick and work offline.
.nox/ready-%: $(BIN)/nox noxfile.py antsibull-nox.toml
	@echo "Setting up for 'make $*' (once; takes some minutes)"
	@CI=true $(BIN)/nox --no-color -r --install-only --session $(SESSIONS_$*)
	@touch $@

$(BIN)/nox:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/it"; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "This Python cannot make environments: on Debian, install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet 'nox>=2026.4.10,<2027' 'antsibull-nox>=1.10,<2'
