# Each target does its own set-up into .venv. PYTHON picks the interpreter; otherwise .ci/find-python looks for one
# that OpenFHE's wheels can import on, and takes any CPython from 3.10 to 3.13 if there is none.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo demo-console test lint check gpu clean model bench

setup: $(STAMP)

$(STAMP): pyproject.toml .ci/find-python
	@python="$${PYTHON:-$$(.ci/find-python)}" && test -n "$$python" && echo "set-up with $$python: $$("$$python" -VV)" && \
	"$$python" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@$(BIN)/python -c 'from pets import openfhe_keys; reason = openfhe_keys.available(); print("OpenFHE: " + (f"not available, its tests will be skipped ({reason})" if reason else "available"))'
	@touch $@

demo: setup
	$(BIN)/lineup demo

demo-console: setup  ## four nodes with their consoles, sample people and cases, on loopback
	$(BIN)/lineup console demo

LARGER_RING := n8192_q60_t20

# Tests over sockets and processes have time limits, which a busy machine can miss: what fails is run once more, alone.
define run_tests
env -u OPENBLAS_CORETYPE $(1) $(BIN)/python -m pytest || \
	{ echo "once more, only what failed:"; env -u OPENBLAS_CORETYPE $(1) $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }
endef

# What depends on the ring runs a second time, on the larger one (tests/conftest.py).
test: setup
	$(call run_tests,)
	$(call run_tests,LINEUP_TEST_PRESET=$(LARGER_RING))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

bench: setup  ## the latency table and the comparison: all figures of the README
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	$(BIN)/python -m benchmarks.search --json benchmarks/results/search.json
	$(BIN)/python -m benchmarks.network --json benchmarks/results/network.json
	$(BIN)/python -m benchmarks.network --delay-ms 15 --runs 5 --json benchmarks/results/network-30ms.json
	$(BIN)/python -m benchmarks.compare

model: setup  ## check the model of the message flow; needs maude (apt-get install maude)
	$(BIN)/python threat_model/model/check.py

gpu: setup  ## swap onnxruntime for onnxruntime-gpu of the same version; insightface asks for the former by name
	version=$$($(BIN)/python -c 'import onnxruntime; print(onnxruntime.__version__)') && \
	$(BIN)/python -m pip uninstall --yes onnxruntime onnxruntime-gpu && \
	$(BIN)/python -m pip install "onnxruntime-gpu[cuda,cudnn]==$$version"

clean:
	rm -rf $(VENV) build *.egg-info
