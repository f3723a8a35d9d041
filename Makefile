# make demo: install and run one cell to its report.  make test: the tests, JOBS=2 files at a time.  Both set up .venv
# first.
PYTHON ?= python3
VENV := .venv
JOBS ?= 2
BIN := $(VENV)/bin

.PHONY: setup demo test test-slow check docs format bench sample-report clean

setup: $(VENV)/.ready

$(VENV)/.ready: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,docs]"
	touch $@

demo: setup
	$(BIN)/bench run --task dialogsum --rm seq2seq-token

test: setup
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-slow: setup
	$(BIN)/python -m pytest -m slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site into site/, offline; `make test` builds it as well.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# make bench TRL=/path/to/python with trl==1.12.0, BEFORE=commit SUITE=folder POLICY=pretrained model: minutes on two quiet cores; docs/performance.md
bench: setup
	$(BIN)/python benchmarks/performance.py $(if $(TRL),--trl $(TRL)) $(if $(BEFORE),--before $(BEFORE)) $(if $(SUITE),--suite $(SUITE)) $(if $(POLICY),--policy $(POLICY))

# make sample-report REPORT=runs/experiments/whitebox: docs/sample-report, with its report.json
sample-report: setup
	$(BIN)/python benchmarks/sample_report.py "$(REPORT)"

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
