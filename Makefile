# Two commands do everything on a fresh machine with Python 3.11, make and a C++ compiler: make demo, and make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INTEROP := .venv-interop

.PHONY: setup demo test faults interop check format bench rooms constraints clean

setup: $(READY)  ## everything for development, in .venv

demo: setup  ## the main job once through: raw text in, served model out
	$(BIN)/python -m danlu demo

test: setup  ## all tests; TESTS="tests/base -k storage" for some
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(TESTS)

faults: setup  ## crashes, bad disks, kills and rot, whole: 15 minutes; needs strace (Debian: apt-get install strace)
	for script in crash_sweep bad_disk full_disk resume rot mutants; do echo $$script; $(BIN)/python -m tests.faults.$$script || exit 1; done

interop: setup $(INTEROP)/.ready  ## does llama.cpp read what Danlu writes; its first run builds llama.cpp, in a place of its own
	$(BIN)/python -m tests.interop $(INTEROP)/bin/python

check: setup  ## style, types, floors, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell $$(git ls-files)
	$(BIN)/clang-format --dry-run -Werror native/*.h native/*.cpp

format: setup  ## mend style where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i native/*.h native/*.cpp

bench: setup  ## the figures in the README, beside their peers'
	$(BIN)/python -m bench

rooms: setup  ## bring the map in ARCHITECTURE.md up to date with the disk
	$(BIN)/python -m tests.house.rooms

constraints: setup  ## pin what is installed now
	$(BIN)/python -m tests.house.pins > $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt

clean:  ## forget .venv, .venv-interop and tools' caches; runs and fetched files stay
	rm -rf $(VENV) $(INTEROP) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# torch first and alone: a range, here or in a dependency, could otherwise pull a build for accelerators, gigabytes large.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Danlu needs Python 3.11 or later: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "install venv for Python first (Debian: apt-get install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(INTEROP)/.ready: Makefile
	@test -x $(INTEROP)/bin/python || $(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet llama-cpp-python==0.3.36
	@touch $@
