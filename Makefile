# The first that runs: a name may stand for no interpreter, as where pyenv has another version in use.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13; do $$name -c "" 2>/dev/null && echo $$name && exit; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
SCALE ?=
JOBS ?=
WORKERS := $(or $(JOBS),$(shell nproc 2>/dev/null || echo 1))

.PHONY: help install repro test lint api clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## make .venv with everything, CUDA kernels included where there is a GPU

$(VENV)/.installed: pyproject.toml requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): some minutes and 2 GB, more where torch brings CUDA"
	$(BIN)/pip install -q -r requirements.txt
	@if nvidia-smi >/dev/null 2>&1; then \
		$(BIN)/pip install -q --no-build-isolation --no-cache-dir -e '.[cuda]' \
		|| echo "the CUDA kernels did not install; everything runs without them: see 'lmsleep doctor'"; \
	fi
	@touch $@
	@echo "for lmsleep and dvc in this shell: source $(BIN)/activate"

repro: install  ## the figures of params.yaml, or of SCALE=smoke|mini|gpu|paper; FIGURES="fig2b fig3"; JOBS cells at a time
	@PATH="$(CURDIR)/$(BIN):$$PATH" JOBS="$(JOBS)" configs/scale/repro "$(SCALE)" $(FIGURES)

# The programs that tests start read compiled sources, also where images of containers forbid Python to write them.
test: install  ## the test suite
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile

lint: install  ## ruff and pyright
	$(BIN)/ruff check src tests benchmarks examples notebooks
	$(BIN)/ruff format --check src tests benchmarks examples notebooks
	$(BIN)/pyright

api: install  ## pages of the modules in api/, made from their docstrings
	$(BIN)/pdoc -o api --docformat google --math $(addprefix lmsleep.,sleep windows settle memory data metrics model ops \
		tasks training runtime pretrained hf) '!lmsleep.ops.'

clean:  ## remove runs and data, keep results
	rm -rf runs data
