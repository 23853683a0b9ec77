# Each target does its own set-up into .venv. PYTHON picks the interpreter; otherwise .ci/find-python looks for one
# that OpenFHE's wheels can import on, and takes any CPython from 3.10 to 3.13 if there is none.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test check gpu clean model bench-smoke

setup: $(STAMP)

$(STAMP): pyproject.toml .ci/find-python
	@python="$${PYTHON:-$$(.ci/find-python)}" && test -n "$$python" && echo "set-up with $$python: $$("$$python" -VV)" && \
	"$$python" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@$(BIN)/python -c 'from pets import openfhe_keys; reason = openfhe_keys.available(); print("OpenFHE: " + (f"not available, its tests will be skipped ({reason})" if reason else "available"))'
	@touch $@

demo: setup
	$(BIN)/lineup demo

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

gpu: setup  ## swap onnxruntime for onnxruntime-gpu of the same version; insightface asks for the former by name
	version=$$($(BIN)/python -c 'import onnxruntime; print(onnxruntime.__version__)') && \
	$(BIN)/python -m pip uninstall --yes onnxruntime onnxruntime-gpu && \
	$(BIN)/python -m pip install "onnxruntime-gpu[cuda,cudnn]==$$version"

clean:
	rm -rf $(VENV) build *.egg-info
