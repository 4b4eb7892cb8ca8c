# Each target sets up what it needs, in environments of its own below this folder, and asks for nothing by hand.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
MADE   := $(VENV)/made-from-constraints

.PHONY: help demo test test-vllm test-trainers check bench bench-serving torture soak clean

help:  ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

demo: $(MADE)  ## Real dialogues with the embedded model, a transcript, an export: the whole way, once
	$(BIN)/tutelage generate examples/demo.yaml
	$(BIN)/tutelage show demo
	$(BIN)/tutelage show demo latest
	$(BIN)/tutelage stats demo
	$(BIN)/tutelage export demo --format sft --out runs/demo/exports/sft --force
	# A model this small judges by chance: in some runs it sends no draft back, and there are no pairs to export (2).
	$(BIN)/tutelage export demo --format dpo --out runs/demo/exports/dpo --force || test $$? -eq 2
	$(BIN)/tutelage report demo --out runs/demo/report.html

test: $(MADE)  ## The tests: no GPU, no endpoint, no network but the package index
	$(BIN)/python -P -m pytest -q -n auto --maxprocesses 4 --dist loadfile

test-vllm: $(MADE)  ## A whole run against a real vLLM server on the CPU, in an environment of its own (2.4 GB)
	tests/real/environment.sh vllm
	$(BIN)/python -P -m pytest -q tests/real -m vllm

test-trainers: $(MADE)  ## TRL's trainers take a step on our exports, a loss falls, other tools' loaders read them (2.3 GB)
	tests/real/environment.sh trainers
	$(BIN)/python -P -m pytest -q tests/real -m trainers
	tests/real/environment.sh loaders
	$(BIN)/python -P -m pytest -q tests/real -m loaders

check: $(MADE)  ## Lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(MADE)  ## CPU per call beside a bare loop and the usual stack; what checkpoints take; exports beside orjson; duplicates
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.orchestration
	$(BIN)/python -m benchmarks.checkpoint_bytes
	$(BIN)/python -m benchmarks.exports
	$(BIN)/python -m benchmarks.deduplication

bench-serving: $(MADE)  ## How full a run keeps vLLM, what it finds in the prefix cache, the loss of a replica (about 30 min)
	tests/real/environment.sh vllm
	$(BIN)/python -m benchmarks.saturation
	$(BIN)/python -m benchmarks.cached_share --real
	$(BIN)/python -m benchmarks.replica_loss

torture: $(MADE)  ## Kill a run a hundred times, and show that nothing is lost, doubled or made again without need (about 5 min)
	$(BIN)/python -m benchmarks.torture

soak: $(MADE)  ## 200,000 dialogues through one process, with the curve of what it takes: soak.png (about 15 min)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.soak --picture soak.png

clean:  ## Remove what the other targets made
	rm -rf $(VENV) .venv-vllm .venv-trainers .venv-loaders build *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(MADE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@
