# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The daily commands. Each sets up what it needs by itself, from Python >= 3.11, make and git,
# and uses again what an earlier run installed. What the sessions do: noxfile.py.
PYTHON ?= python3
BIN := .venv/bin
export NO_COLOR = 1

LINT := formatters codeqa yamllint typing antsibull-nox-config docs-check license-check \
        extra-checks build-import-check roles-readme return-docs ansible-lint actionlint
# What each command runs, in this order.
lint          := $(LINT)
test          := $(LINT) collection docs unit browser eda sanity integration molecule
unit          := collection unit
browser       := collection browser
eda           := collection eda
collection    := collection
docs          := collection docs
demo          := collection demo
bench         := collection bench
test-matrix   := collection worker pairs suite by-module core-async sanity-core runners
test-edges    := $(test-matrix)
test-faults   := collection faults
test-crash    := collection crash
test-machines := collection machines
test-async    := collection core-async

.PHONY: help test demo collection test-matrix test-edges test-async test-faults test-crash test-machines bench lint unit browser eda docs format clean
.SECONDARY:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
test: .nox/ready-test ## every check in order, stopping at the first failure
demo: .nox/ready-demo ## two real checks in the background of this machine, polled and reported
collection: .nox/ready-collection ## build the tarball into dist/
test-matrix: .nox/ready-test-matrix ## every ansible-core and every Python that this machine has, into docs/compatibility.md
test-edges: .nox/ready-test-edges ## of that, the oldest and the newest, as CI does
test-faults: .nox/ready-test-faults ## what happens when processes, disks and machines die
test-crash: .nox/ready-test-crash ## all that a crash can leave on a disk, judged by the real code; as root
test-machines: .nox/ready-test-machines ## real machines: systemd, reboots, sudo, cut connections; as root
test-async: .nox/ready-test-async ## ansible-core's own tests of async, fetched, on durable jobs
bench: .nox/ready-bench ## measure against the builtin async, into docs/benchmarks.md
docs: .nox/ready-docs ## the site of the collection, into docs/build/html
lint: .nox/ready-lint ## only the linters
unit: .nox/ready-unit ## only the unit tests
eda: .nox/ready-eda ## only the event source, in the real ansible-rulebook
browser: .nox/ready-browser ## only the pages, in a headless chromium

# The formatters only check where CI is true. --no-install: see below. With ARGS, arguments reach
# the tool: make unit ARGS="tests/unit -k names", make bench ARGS=--quick.
NOX = $(BIN)/nox --no-color --reuse-existing-virtualenvs
test demo collection test-faults test-crash test-machines test-async bench lint unit browser eda docs:
	@CI=true $(NOX) --no-install --stop-on-first-error --session $($@) $(if $(ARGS),-- $(ARGS))
test-edges: export DURABLE_JOBS_MATRIX = edges
test-matrix test-edges:
	@CI=true $(NOX) --no-install --session $($@) grid
format: .nox/ready-lint ## let the formatters change the files, write the roles' README files and the modules' RETURN blocks
	@CI=false $(NOX) --no-install --session formatters
	@$(NOX) --no-install --session roles-readme return-docs -- generate
clean: ## remove everything that the checks made in this folder
	rm -rf .nox .venv dist docs/build tests/output .ansible

# Environments are made once, and again when their requirements change. The checks themselves
# then install nothing, so they are quick and work offline.
.nox/ready-%: $(BIN)/nox noxfile.py antsibull-nox.toml
	@echo "Setting up for 'make $*'. This is done once and takes some minutes."
	@CI=true $(NOX) --install-only --session $($*)
	@touch $@

$(BIN)/nox: Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/it"; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "$(PYTHON) cannot make environments. On Debian: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet 'nox>=2026.4.10,<2027' 'antsibull-nox>=1.10,<2'
	@touch $@
