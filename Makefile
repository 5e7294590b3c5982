# `make demo` and `make test` do all the set-up themselves; nothing is done twice.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.setup
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Real data and pretrained weights for the tests and benchmarks; set them to where yours are.
export TRIMTAB_DATA ?= $(abspath ../shared/data)
export TRIMTAB_WEIGHTS ?= $(abspath ../shared/weights)

.PHONY: demo test lint bench clean

demo: $(SETUP)-demo
	$(BIN)/trimtab compress digits --drop 0.01 --size 10%

test: $(SETUP)-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist loadgroup

bench: $(SETUP)-dev
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/int8_baseline.py --json benchmarks/results/int8_baseline.json

clean:
	rm -rf .venv runs

$(SETUP)-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[$*]'
	touch $@
