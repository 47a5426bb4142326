PYTHON ?= python3
DEMO_OUTPUT ?= demo_output

BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup lint test soak demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything in it; a quick no-op when it is up to date

lint: setup ## ruff, its formatter and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## every check and every test
	$(BIN)/pytest

soak: setup ## 2000 changed compressed files and 20 killed runs: nothing is misread, nothing is lost
	TITOK_MRI_SOAK=2000 $(BIN)/pytest tests/unit/data/bitstream/test_mutations.py
	TITOK_MRI_KILLS=20 $(BIN)/pytest tests/end_to_end/test_interruptions.py -k killed_at_random

demo: setup ## synthetic patients, three stages and a report on two CPU cores; into DEMO_OUTPUT=demo_output
	PATH="$(CURDIR)/$(BIN):$$PATH" DEMO_OUTPUT="$(DEMO_OUTPUT)" bash scripts/demo.sh

clean: ## remove caches and demo_output, but not .venv
	rm -rf demo_output .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

$(STAMP): requirements.txt pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -r requirements.txt --group dev
	touch $@
