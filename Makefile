# `make fuzz` and `make test` are all a newcomer needs: both set everything up in .venv first. A second call installs nothing.
PYTHON ?= python3.11
BUDGET ?= 2m
OUT ?= fuzz-out
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: fuzz test setup lint types format bench clean

fuzz: setup
	@$(BIN)/fuzz run --budget $(BUDGET) --out $(OUT) || test $$? -eq 1  # 1: it found something new, which is what it is for

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned stack into $(VENV) (once; about two minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[ort,tvm,dev]'
	@touch $(STAMP)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tests.imports

types: setup
	$(BIN)/pyright

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/fuzz bench

clean:
	rm -rf $(VENV) build *.egg-info
