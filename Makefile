# Each target does its own set-up into .venv. PYTHON picks the interpreter; otherwise .ci/find-python looks for one
# that OpenFHE's wheels can import on, and takes any CPython from 3.10 to 3.13 if there is none.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.demo

# Whoever sets it has every process compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo demo-console lock test test-fast lint check gpu clean model bench bench-check bench-scale bench-soak

setup: $(STAMP)

# What is installed is what the lock names, with its hashes; `make lock` writes it.
$(STAMP): pyproject.toml requirements.lock .ci/find-python
	$(call make_venv,requirements.lock)
	@$(BIN)/python -c 'from pets import openfhe_keys; reason = openfhe_keys.available(); print("OpenFHE: " + (f"not available, its tests will be skipped ({reason})" if reason else "available"))'
	@touch $@ $(DEMO_STAMP)

# The demo needs no test tools. It does not make the environment anew where `make setup` has.
$(DEMO_STAMP): pyproject.toml nodes/requirements.lock .ci/find-python
	$(call make_venv,nodes/requirements.lock)
	@touch $@

define make_venv
@python="$${PYTHON:-$$(.ci/find-python)}" && test -n "$$python" && echo "set-up with $$python: $$("$$python" -VV)" && \
"$$python" -m venv --clear $(VENV)
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes --requirement $(1)
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endef

demo: $(DEMO_STAMP)
	$(BIN)/lineup demo

demo-console: setup  ## four nodes with their consoles, sample people and cases, on loopback
	$(BIN)/lineup console demo

# Versions and hashes for every supported Python and platform. Each takes what it needs from one resolution.
define lock
echo "setuptools>=77" | $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	--custom-compile-command "make lock" --default-index https://pypi.org/simple $(2) pyproject.toml - --output-file $(1)
endef

lock: setup  ## resolve anew what pyproject.toml asks for; commit both files
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(call lock,requirements.lock,--extra all --extra dev --upgrade)
	$(call lock,nodes/requirements.lock,--extra node --extra faces --constraint requirements.lock)

LARGER_RING := n8192_q60_t20

# A worker more than processors, at most four, since many tests wait (`tests/conftest.py` spreads those). A file's tests
# share fixtures, so one worker runs them all, in the order of collection: by number of tests the longest, which stand
# alone in a file, would come last. Tests over sockets and processes have time limits, which a busy machine can miss: what
# fails is run once more, alone. They write and sync thousands of small files: in memory, where it has 4 GB to spare.
IN_MEMORY := $(shell df --output=avail /dev/shm 2>/dev/null | awk 'NR == 2 && $$1 > 4000000 { print "TMPDIR=/dev/shm" }')
PYTEST := env -u OPENBLAS_CORETYPE $(IN_MEMORY) $(BIN)/python -m pytest
WORKERS := $(shell count=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); echo $$((count < 4 ? count + 1 : 4)))
PARALLEL := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
define run_tests
$(PYTEST) $(PARALLEL) --durations 25 $(1) || \
	{ echo "once more, only what failed:"; $(PYTEST) $(1) --last-failed --last-failed-no-failures none; }
endef

# What depends on the ring runs a second time, on the larger one.
test: setup
	$(call run_tests)
	export LINEUP_TEST_PRESET=$(LARGER_RING); $(call run_tests,-m ring)

test-fast: setup  ## for daily work: without what is marked slow
	$(PYTEST) $(PARALLEL) -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# At first tests are compiled for by one process, at the end few are left: mypy has a processor meanwhile.
check: setup
	$(MAKE) --no-print-directory --jobs 2 lint test

bench: setup  ## the latency table, the network, the comparison and the roofline: all figures of the README
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	$(BIN)/python -m benchmarks.search --json benchmarks/results/search.json
	$(BIN)/python -m benchmarks.network --json benchmarks/results/network.json
	$(BIN)/python -m benchmarks.network --delay-ms 15 --runs 5 --json benchmarks/results/network-30ms.json
	$(BIN)/python -m benchmarks.network --union 1000 --runs 3 --json benchmarks/results/network-union.json
	$(BIN)/lineup bench --literature benchmarks/literature.csv --sweep 65536,1000000 \
		--json benchmarks/results/bench.json --report benchmarks/results/bench.html
	$(BIN)/python -m benchmarks.pages
	$(BIN)/python -m benchmarks.roofline --json benchmarks/results/roofline.json --page benchmarks/roofline.md

bench-check: setup  ## has ours become slower beside numpy? BENCH=--smoke for what CI runs: bytes and messages
	$(BIN)/python -m benchmarks.check $(BENCH)

# One size at a time; 30000000 needs 20 GB of memory and 17 GB in SCALE_FOLDER. CI runs SCALE_ROWS=20000.
SCALE_ROWS := 100000 1000000 10000000 30000000
SCALE_FOLDER := $(or $(TMPDIR),/tmp)

bench-scale: setup  ## preparation and search from 10^5 to 3·10^7 rows
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	$(BIN)/python -m benchmarks.scale --rows $(SCALE_ROWS) --folder $(SCALE_FOLDER) --json benchmarks/results/scale.json
	$(BIN)/python -m benchmarks.scale_chart

bench-soak: setup  ## an hour of enrolling, forgetting, preparing and searching
	$(BIN)/python -m benchmarks.soak --json benchmarks/results/soak.json

model: setup  ## check the model of the message flow; needs maude (apt-get install maude)
	$(BIN)/python threat_model/model/check.py

gpu: setup  ## swap onnxruntime for onnxruntime-gpu of the same version; insightface asks for the former by name
	version=$$($(BIN)/python -c 'import onnxruntime; print(onnxruntime.__version__)') && \
	$(BIN)/python -m pip uninstall --yes onnxruntime onnxruntime-gpu && \
	$(BIN)/python -m pip install "onnxruntime-gpu[cuda,cudnn]==$$version"

clean:
	rm -rf $(VENV) build *.egg-info
