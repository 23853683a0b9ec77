# Each target does its own set-up into .venv. PYTHON picks the interpreter; otherwise .ci/find-python does.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.demo

# Whoever sets it has every process compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

DEPS := pyproject.toml .ci/uv.lock .ci/find-python

.PHONY: setup demo demo-console lock test test-fast test-here test-openfhe lint check gpu clean model bench bench-check bench-scale bench-soak

setup: $(STAMP)

# What is installed is what the lock names, with its hashes; `make lock` writes it.
$(STAMP): $(DEPS) requirements.lock
	$(call make_venv,requirements.lock)
	@touch $@ $(DEMO_STAMP)

# The demo needs no test tools. It does not make the environment anew where `make setup` has.
$(DEMO_STAMP): $(DEPS) nodes/requirements.lock
	$(call make_venv,nodes/requirements.lock)
	@touch $@

define make_venv
@python="$${PYTHON:-$$(.ci/find-python)}" && test -n "$$python" && echo "set-up with $$python: $$("$$python" -VV)" && \
"$$python" -m venv --clear $(VENV)
$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes --requirement .ci/uv.lock
$(call install,$(BIN)/python,$(1))
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endef

# uv takes a quarter of pip's time. pip is asked where uv fails: a package index may be named for pip alone. Wheels only:
# to build from a source takes tools that no lock names.
install = { $(BIN)/uv pip install --quiet --python $(1) --no-deps --only-binary :all: --require-hashes --requirement $(2) || \
	$(1) -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --only-binary :all: --require-hashes --requirement $(2); }

demo: $(DEMO_STAMP)
	$(BIN)/lineup demo

demo-console: setup  ## four nodes with their consoles, sample people and cases, on loopback
	$(BIN)/lineup console demo

# Versions and hashes for every supported Python and platform. Each takes what it needs from one resolution.
define lock
echo "$(3)" | $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	--custom-compile-command "make lock" --default-index https://pypi.org/simple $(2) - --output-file $(1)
endef

lock: setup  ## resolve anew what pyproject.toml asks for; commit the four files
	$(call lock,.ci/uv.lock,--upgrade,uv)
	$(call lock,requirements.lock,pyproject.toml --extra all --extra dev --upgrade,setuptools>=77)
	$(call lock,nodes/requirements.lock,pyproject.toml --extra node --extra faces --constraint requirements.lock,setuptools>=77)
	$(call lock,tests/openfhe.lock,pyproject.toml --extra node --extra openfhe --constraint requirements.lock,pytest)

LARGER_RING := n8192_q60_t20

# A worker more than processors, at most four, since many tests wait (`tests/conftest.py` spreads those). A file's tests
# share fixtures, so one worker runs them all, in the order of collection: by number of tests the longest, which stand
# alone in a file, would come last. Tests over sockets and processes have time limits, which a busy machine can miss: what
# fails is run once more, alone. They write and sync thousands of small files: in memory, where it has 4 GB to spare.
# Threads of OpenBLAS would only wait, which they do by spinning: the workers have all processors.
IN_MEMORY := $(shell df --output=avail /dev/shm 2>/dev/null | awk 'NR == 2 && $$1 > 4000000 { print "TMPDIR=/dev/shm" }')
PYTEST := env -u OPENBLAS_CORETYPE OPENBLAS_NUM_THREADS=1 $(IN_MEMORY) $(BIN)/python -m pytest
WORKERS := $(shell count=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); echo $$((count < 4 ? count + 1 : 4)))
PARALLEL := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
define run_tests
$(PYTEST) $(PARALLEL) --durations 25 $(1) || \
	{ echo "once more, only what failed:"; $(PYTEST) $(1) --last-failed --last-failed-no-failures none; }
endef

# At first tests are compiled for by one process: those of OpenFHE have a processor meanwhile.
test: setup
	$(MAKE) --no-print-directory --jobs 2 test-openfhe test-here

# What depends on the ring runs a second time, on the larger one.
test-here: setup
	$(call run_tests)
	export LINEUP_TEST_PRESET=$(LARGER_RING); $(call run_tests,-m ring)

# OpenFHE's wheels import on few Pythons. Where that of .venv is none of them, its tests run on another.
OPENFHE := $(VENV)/openfhe
test-openfhe: setup
	@if $(BIN)/python -c 'import sys; from pets.openfhe_keys import available; sys.exit(available() is not None)'; then \
		echo "OpenFHE imports here: its tests are among the others"; \
	elif python="$$(.ci/find-python openfhe)"; then \
		echo "tests of OpenFHE with $$python" && \
		"$$python" -m venv --clear $(OPENFHE) && \
		$(call install,$(OPENFHE)/bin/python,tests/openfhe.lock) && \
		$(subst $(BIN),$(OPENFHE)/bin,$(PYTEST)) -p no:cacheprovider \
			tests/pets/test_openfhe.py tests/cli/test_bench.py -k openfhe; \
	else echo "no Python on which OpenFHE imports: its tests are skipped"; fi

test-fast: setup  ## for daily work: without what is marked slow
	$(PYTEST) $(PARALLEL) -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: setup
	$(MAKE) --no-print-directory --jobs 3 lint test-openfhe test-here

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
