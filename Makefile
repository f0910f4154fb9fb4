# `make check` before every commit; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help check test format bench lock install clean

PY := .venv/bin/python
SOURCES := ai_infra tests scripts
UV_VERSION := 0.13.8
LOCK := build/lock/bin/uv pip compile -q --no-config --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url $(if $(UPGRADE),--upgrade)

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-10s %s\n", $$1, $$2}'

check: $(PY)  ## format, lint, types, shell scripts, unit tests; half a minute at most
	$(PY) -m ruff format --check $(SOURCES)
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m mypy
	@if command -v shellcheck >/dev/null; then shellcheck install.sh scripts/*.sh .ci/run; fi
	$(PY) -m pytest -q tests/unit

test:  ## all tests, with what they need installed first
	./install.sh --test

format: $(PY)  ## lay out and tidy the Python sources
	$(PY) -m ruff check --fix-only $(SOURCES)
	$(PY) -m ruff format $(SOURCES)

bench: $(PY)  ## every benchmark, one after another
	@for bench in scripts/bench_*.py; do echo "== $$bench"; $(PY) "$$bench"; done

# uv resolves for every Python and platform at once, so the result does not depend on the machine.
lock:  ## the locks anew from pyproject.toml; pins stay where they can (UPGRADE=1: the newest of all)
	[[ -x build/lock/bin/uv ]] || python3 -m venv build/lock
	build/lock/bin/pip install -q uv==$(UV_VERSION)
	$(LOCK) pyproject.toml --group build -o requirements.lock
	$(LOCK) --group dev -c requirements.lock -o tests/requirements.lock

install:  ## ./install.sh
	./install.sh

clean:  ## what tools left in the checkout, .venv excepted
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(PY):
	./install.sh --test --collect-only -q >/dev/null
