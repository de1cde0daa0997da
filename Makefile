PYTHON ?= python3
VENV ?= .venv
BASE ?= .venv-base
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo peers check docs format lint types test test-all lines wheel bench evaluate report train clean

help:  ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@

setup: $(VENV)/.installed  ## Make a virtual environment with everything in it

$(BASE)/.installed: pyproject.toml
	$(PYTHON) -m venv $(BASE)
	$(BASE)/bin/pip install --quiet -e .
	@touch $@

demo: $(BASE)/.installed  ## Compress and restore the example speech, by an install without PyTorch
	@mkdir -p build
	$(BASE)/bin/bittern compress -f examples/speech.flac build/speech.btn --bitrate 6
	$(BASE)/bin/bittern decompress -f build/speech.btn build/speech.wav
	$(BASE)/bin/bittern info build/speech.btn
	@ls -l examples/speech.flac build/speech.btn build/speech.wav

peers:  ## Install the codecs and the browser that some tests use (Debian, as root)
	apt-get update -qq
	apt-get install -y -qq opus-tools lame ffmpeg codec2 nodejs npm chromium chromium-driver
	npm install --silent -g ogg-opus-decoder

format: setup  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup  ## Style and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: setup  ## Check the types
	$(BIN)/basedpyright --pythonpath $(BIN)/python

test: setup  ## Run the default tests, under 4 minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

test-all: setup  ## Run all tests, the slow ones too
	$(BIN)/pytest -m 'slow or not slow'

lines:  ## Lines of Python by folder
	@find src/bittern scripts tools tests -name '*.py' -exec wc -l {} + | awk '$$2 != "total" \
	  { split($$2, part, "/"); room = part[1] == "src" ? "bittern" (part[4] ? "/" part[3] : "") : part[1]; \
	    lines[room] += $$1; if (part[1] == "src") package += $$1 } \
	  END { for (room in lines) printf "%7d  %s\n", lines[room], room; printf "%7d  the package\n", package }' | sort -k2

check: lint types test lines  ## What has to pass before a commit lands

wheel: setup  ## Build wheel and sdist, install each in a clean environment, run a round trip
	$(BIN)/pytest -m slow tests/test_wheel.py

bench: setup  ## Speed against EnCodec on one thread, and of the training loop against bare steps
	$(BIN)/bittern bench --stages 12
	$(BIN)/python tools/bench.py

docs: setup  ## Write the API reference to build/site
	$(BIN)/python tools/reference.py build/site

evaluate: setup  ## Score the default codec beside Opus and others: make evaluate DATA=FOLDER
	$(BIN)/bittern evaluate $(DATA) --out build/report
	$(BIN)/bittern evaluate --nasty --out build/report

report: setup  ## The figures of README, page and card from one evaluation: make report DATA=FOLDER LYRA=FOLDER
	$(BIN)/pip install --quiet ai-edge-litert
	$(BIN)/python tools/report.py $(DATA) $(if $(LYRA),--lyra $(LYRA))

train: setup  ## Train the default codec: make train DATA=FOLDER
	$(BIN)/bittern train data.root=$(DATA)

clean:  ## Remove the environment and caches
	rm -rf $(VENV) $(BASE) .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
