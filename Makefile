# The same few commands for people and for CI. Everything lives in .venv; nothing else is touched.

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# TensorFlow has wheels for these; the first one found is taken. Override with `make PYTHON=...`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: help setup demo test test-search test-processes test-toolchain test-breaks test-torture test-shrinking test-rest test-runtime check bench-toolchain bench-runtime bench-fleet torture format lock clean

help:
	@echo "make demo     run the whole loop on this machine, figures in build/demo.json"
	@echo "make test     run the test suite"
	@echo "make check    formatting, lint, types, layers"
	@echo "make bench-toolchain   the toolchain's figures beside its peers', in build/bench-toolchain.json (about an hour)"
	@echo "make bench-runtime     the runtime's figures beside its peers', in build/bench-runtime.json (half an hour)"
	@echo "make torture  break things on purpose, in build/torture.json (up to an hour); ONLY=cuts, MINUTES=10"
	@echo "make bench-fleet       what one cloud carries, in build/bench-fleet.json (half an hour)"
	@echo "make setup    make .venv (the others do it by themselves)"
	@echo "make format   let ruff format the code"
	@echo "make lock     renew constraints.txt from .venv"
	@echo "make clean    remove .venv and build/"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "edgeloop needs Python 3.11, 3.12 or 3.13 on the PATH; install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version); this fetches about 1.5 GB once"
	@$(PYTHON) -m venv $(VENV) || { echo "python's venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/edgeloop demo --report build/demo.json

# Eight processes, three at a time, the longest first: tests wait for processes and timers, and with TensorFlow, PyTorch,
# OpenVINO and all the rest in a single process the suite has died of a segmentation fault. Each prints when it has
# ended. What tests write lies in memory where there is room and programs may run from it: they sync to disk thousands
# of times, and no test can tell, since those of power cuts bring their own disk.
MEMORY = $(shell awk '$$2 == "/dev/shm" && $$4 !~ /noexec/' /proc/mounts 2>/dev/null | grep -q . \
	&& df -Pk /dev/shm | awk 'NR == 2 && $$4 > 4 * 1024 * 1024 { print "/dev/shm" }')
test: $(STAMP)
	@folder=$$(mktemp -d "$(or $(MEMORY),$${TMPDIR:-/tmp})/edgeloop-test-XXXXXX") && chmod 711 "$$folder" || exit 1; \
		trap 'rm -rf "$$folder"' EXIT; trap 'exit 130' INT TERM; \
		TMPDIR=$$folder $(MAKE) --no-print-directory --keep-going --jobs=3 --output-sync=target \
		test-search test-toolchain test-rest test-processes test-breaks test-shrinking test-runtime test-torture

# The suite starts hundreds of processes, which are not to compile the same sources each time.
test-%: export PYTHONDONTWRITEBYTECODE =

SEARCHES := tests/process/test_search_killed.py tests/process/test_search_kinds.py
TORTURE := tests/process/test_torture.py
BREAKS := $(patsubst %,tests/process/test_%.py,\
	sender_killed cloud_killed bad_models replicas cloud_restored trust_attacked malformed_requests simulate)
SHRINKING := $(addprefix tests/unit/toolchain/,compress prune quantize)

test-search: $(STAMP)
	@$(BIN)/python -m pytest $(SEARCHES)

test-shrinking: $(STAMP)
	@$(BIN)/python -m pytest $(SHRINKING)

test-toolchain: $(STAMP)
	@$(BIN)/python -m pytest tests/unit/toolchain $(SHRINKING:%=--ignore=%)

test-processes: $(STAMP)
	@$(BIN)/python -m pytest tests/process tests/flow $(SEARCHES:%=--ignore=%) $(BREAKS:%=--ignore=%) $(TORTURE:%=--ignore=%)

# What is killed, cut, attacked and overloaded on purpose.
test-breaks: $(STAMP)
	@$(BIN)/python -m pytest $(BREAKS)

test-torture: $(STAMP)
	@$(BIN)/python -m pytest $(TORTURE)

RUNTIME := tests/contract tests/unit/runtime tests/unit/serve
test-runtime: $(STAMP)
	@$(BIN)/python -m pytest $(RUNTIME)

test-rest: $(STAMP)
	@$(BIN)/python -m pytest --ignore=tests/process --ignore=tests/flow --ignore=tests/unit/toolchain $(RUNTIME:%=--ignore=%)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench-toolchain: $(STAMP)
	@$(BIN)/python -m benchmarks.toolchain $(ARGS)

bench-runtime: $(STAMP)
	@$(BIN)/python -m benchmarks.runtime $(ARGS)

bench-fleet: $(STAMP)
	@$(BIN)/python -m benchmarks.fleet $(ARGS)

torture: $(STAMP)
	@$(BIN)/python -m torture $(addprefix --only ,$(ONLY)) $(addprefix --minutes ,$(MINUTES)) $(ARGS)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP)
	@(head -n 1 constraints.txt; $(BIN)/pip freeze --exclude-editable | grep -v -i -E '^(pip|setuptools|wheel)==' | sed 's/+cpu$$//') > constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build
