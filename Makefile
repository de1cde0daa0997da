PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo peers check format lint types test test-all bench evaluate train clean

help:  ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@

setup: $(VENV)/.installed  ## Make a virtual environment with everything in it

demo: setup  ## Compress and restore the example speech with the shipped codec
	@mkdir -p build
	$(BIN)/bittern compress -f examples/speech.flac build/speech.btn --bitrate 6
	$(BIN)/bittern decompress -f build/speech.btn build/speech.wav
	$(BIN)/bittern info build/speech.btn
	@ls -l examples/speech.flac build/speech.btn build/speech.wav

peers:  ## Install the codecs and the browser that some tests use (Debian, as root)
	apt-get update -qq
	apt-get install -y -qq opus-tools lame ffmpeg codec2 chromium chromium-driver

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
	$(BIN)/pytest

test-all: setup  ## Run all tests, the slow ones too
	$(BIN)/pytest -m 'slow or not slow'

check: lint types test  ## What has to pass before a commit lands

bench: setup  ## Speed against EnCodec on one thread, and of the training loop against bare steps
	$(BIN)/python scripts/bench.py
	$(BIN)/python scripts/bench_training.py threads=1

evaluate: setup  ## Score the default codec beside Opus and others: make evaluate DATA=FOLDER
	$(BIN)/bittern evaluate $(DATA) --out build/report
	$(BIN)/bittern evaluate --nasty --out build/report

train: setup  ## Train the default codec: make train DATA=FOLDER
	$(BIN)/python scripts/train.py data.root=$(DATA)

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
