# Commands run from .venv, which `make setup` creates, and which the targets that use it bring up to date first.
# Variables:
#   PYTHON=/path/to/python3.11       the Python that .venv is made from (3.11 or newer)
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                                    take torch's small CPU build from there; without it, Linux gets the CUDA build
#   WORKERS=4                        test processes (default: one per core, at most 4)
#   TESTS="tests/data -k mnist"      what `make test` runs (default: everything)
#   VERSIONS="3.13:2.15.*"           pairs of Python and torch for `make check-versions`
#   SLOWEST=15                       how many of the slowest tests `make test` lists
#   MINUTES=10                       how long `make fuzz` goes on, all targets together
#   TAILCUT_DATA=/data               folders with real data sets, separated by ":"

PYTHON ?= $(shell for candidate in python3.11 python3 python3.12 python3.13; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$candidate && break; done)
TORCH_INDEX ?=
WORKERS ?= auto
TESTS ?=
SLOWEST ?= 15
MINUTES ?= 10
# The lowest and the newest torch that pyproject.toml allows, and all Pythons that it names.
VERSIONS ?= 3.11:2.11.* 3.12:2.15.* 3.13:2.15.*

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
QUICK := $(wildcard tests/test_*.py) $(addprefix tests/,transform structure jpeg models weights format/codecs \
	format/test_round_trip.py format/test_save.py format/test_load.py channels/graph inputs/selection runtime)
# With bytecode, also where the environment says not to write any: the tests start Python some hundred times, and
# pytest's rewriting of all tests takes ten seconds in each of its processes.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
CODE := src tests tools fuzz conformance bench examples conftest.py demo.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test test-fast coverage check check-versions format format-check lint types contracts duplicates bench indices fuzz docs build wasm clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## (.*)/  make \1\t\2/' | expand -t 22
	@echo
	@sed -n '/^# Variables:/,/^$$/s/^# \{0,1\}//p' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv with Tailcut (editable), all its extras and the development tools

# hatchling first: the project is then built with the pinned version, and pip needs no second, isolated environment.
$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
			echo "Tailcut needs Python 3.11 or newer, found: '$(PYTHON)'." \
				"Install one and name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }; \
		"$(PYTHON)" -m venv $(VENV); }
	@$(INSTALL) hatchling editables
	@$(INSTALL) --no-build-isolation --editable '.[all,dev]'
	@touch $@

demo: setup  ## train, pack, load and run a small network, in a few minutes and without a network connection
	@$(BIN)/python demo.py

test: setup  ## run all tests (real data too, where TAILCUT_DATA points to it)
	@$(PYTEST) -n $(WORKERS) --maxprocesses 4 --dist loadfile --durations=$(SLOWEST) $(TESTS)

test-fast: setup  ## run the tests of the core, without those marked slow, in under two minutes on two cores
	@$(PYTEST) -q -n $(WORKERS) --maxprocesses 4 --dist loadfile -m "not slow" $(QUICK)

coverage: setup  ## run all tests and print which lines and branches of src they miss
	@$(PYTEST) -q -n $(WORKERS) --maxprocesses 4 --dist loadfile \
		--cov --cov-report=term --cov-report=html:build/coverage $(TESTS)

# The tests come last, so that the last line is their summary.
check: format-check lint types contracts duplicates indices test  ## everything that must hold before a commit

# Pythons that the machine lacks are skipped with a line. All pairs are tried, then it fails if one did.
check-versions:  ## run the tests on the lowest and the newest torch, and on Python 3.11 to 3.13
	@failed=; set -f; for pair in $(VERSIONS); do \
		WORKERS=$(WORKERS) TORCH_INDEX=$(TORCH_INDEX) tools/check_version.sh "$${pair%%:*}" "$${pair#*:}" $(TESTS) \
			|| failed="$$failed $$pair"; \
	done; test -z "$$failed" || { echo "Failed with$$failed" >&2; exit 1; }

format: setup  ## rewrite the code in the project's format
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix-only --exit-zero $(CODE)

format-check: setup
	@$(BIN)/ruff format --check $(CODE)

lint: setup  ## ruff's rules
	@$(BIN)/ruff check $(CODE)

types: setup  ## mypy, strict
	@$(BIN)/mypy $(CODE)

contracts: setup  ## import-linter: imports point downward only
	@$(BIN)/lint-imports --no-logo

duplicates: setup  ## pylint's search for blocks of code that stand twice
	@$(BIN)/pylint $$(find src -name '*.py')

indices: setup  ## the compiled loops again, with every index checked
	@NUMBA_BOUNDSCHECK=1 $(PYTEST) -q tests/execution/cpu tests/format/quantized tests/format/encoder/test_trellis.py \
		tests/inputs/transform/test_loops.py tests/inputs/transform/test_compiled.py tests/jpeg/test_scans.py

# Atheris has wheels for Linux; without it the mutants are blind.
fuzz: setup  ## try what reads others' files with contents that nobody wrote, for MINUTES in all
	@$(BIN)/python -c "import atheris" 2>/dev/null || $(INSTALL) --no-build-isolation --only-binary atheris --editable ".[fuzz]" || true
	@PYTHONPATH=. $(BIN)/python -m fuzz $(MINUTES)
	@PYTHONPATH=. $(BIN)/python -m fuzz.graphs 300

bench: setup  ## print the benchmark tables
	@$(BIN)/python -m bench

docs: setup  ## build the site into build/docs: all pages with search, the API reference; fails at a dead link
	@$(BIN)/python -m tools.docs.site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "Open build/docs/index.html"

# The files are committed: only who changes the C runner needs clang and lld.
wasm: setup  ## build the C runner for the pages of `tailcut export --to html`, with clang 14 and its wasm-ld
	@$(BIN)/python -m tools.build_wasm

build: setup  ## build the source distribution and the wheel into dist
	@$(BIN)/python -m build --no-isolation --outdir dist

clean:  ## remove what the other commands made, except .venv
	@rm -rf build dist .venvs .coverage demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@rm -rf __pycache__
	@find $(filter-out %.py,$(CODE)) -name __pycache__ -type d -prune -exec rm -rf {} +
