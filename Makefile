# Every target does the set-up that it needs, in .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
LONG := tests/planning/test_traced_families.py tests/planning/test_measured.py tests/test_gpu_check.py
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-slow test-long test-all engines fuzz fuzz-runs kill-test gpu-check check catalog figures tree mutation recipes clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/condenser demo --output_dir demo

# Every promise once, in minutes. Which tests are slow says tests/slow.py.
test: $(READY)
	$(PYTEST) -m 'not slow'

# The rest: the same promises for every family, method and option.
test-slow: $(READY)
	$(PYTEST) -m slow $(LONG:%=--ignore=%)

# What takes minutes by itself: plans against torch's memory tracker, and of every family; the GPU day on a CPU.
test-long: $(READY)
	$(PYTEST) -m slow $(LONG)

test-all: test test-slow test-long

# Every engine against one process, DeepSpeed among them, and the table of docs/engines.md: about half an hour.
engines: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[engines]'
	DS_ACCELERATOR=cpu $(BIN)/python -m pytest tests/engines/all_engines.py
	$(BIN)/python -m tests.engines.table

# Every reader of the package on N files that are almost right; every pattern over answers on 100 kB of hostile text.
fuzz: N = 10000
fuzz: $(READY)
	FUZZ=$(N) $(BIN)/python -m pytest -q tests/fuzz tests/security/test_linear.py

# A run's folder, started, killed, resumed, overwritten, damaged and moved in 200 random orders; 20 in `make test`.
fuzz-runs: $(READY)
	FUZZ_SEQUENCES=200 $(BIN)/python -m pytest tests/test_run_folder_machine.py

# Short runs of one process, of two and of studies, killed N times at random and resumed; 10 in `make test-slow`.
N ?= 200
kill-test: $(READY)
	KILLS=$(N) $(BIN)/python -m pytest -q tests/test_kills.py

# What only a GPU can show, under 8 minutes on one H100; the report goes to gpu-check/.
gpu-check: $(READY)
	$(BIN)/python -m tests.gpu_check

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

# Changes functional/ in over a thousand ways, one at a time; docs/mutation.md lists those that no test notices.
mutation: $(READY)
	$(BIN)/mutmut run
	$(BIN)/mutmut results

# The file tree of CONTRIBUTING.md.
tree: $(READY)
	$(BIN)/python -m tests.tree

# What `condenser methods` and `condenser families` print.
catalog: $(READY)
	$(BIN)/python -m expert_condenser.cli.catalog

# Every figure of `condenser analyze`; USAGE is a folder of usage records of another model, if there is one.
figures: $(READY)
	$(BIN)/python results/figures/make.py $(if $(USAGE),--usage $(USAGE))

recipes: $(READY)
	$(BIN)/python recipes/make.py

clean:
	rm -rf .venv demo mutants .pytest_cache .hypothesis .mypy_cache .ruff_cache
