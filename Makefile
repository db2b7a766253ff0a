# Every target sets up what it needs, once: `make demo` and `make test` work on a fresh machine
# that has Python 3.10 to 3.13 and make. Another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
EXTRAS ?= all,test,docs,dev
ARGS ?= -m "not browser"
JOBS ?= 2

BIN := $(VENV)/bin
READY := $(VENV)/ready
PROMPT := Fact: the capital of the state containing Dallas is

.DEFAULT_GOAL := help
.PHONY: help setup demo biology picture tutorial docs test browser lint format clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*##/\t/' | expand -t 12

setup: $(READY)  ## Install the package and its tools into .venv

$(READY): pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -rf *.egg-info  # an old one would hide new entry points
	$(BIN)/python -m pip install --disable-pip-version-check --quiet \
		--constraint $(CONSTRAINTS) --editable ".[$(EXTRAS)]"
	touch $@

demo: $(READY)  ## Trace the Dallas prompt on the bundled model and write its graph to demo/
	HF_HUB_OFFLINE=1 $(BIN)/tl-attribution trace "$(PROMPT)" \
		--out demo/dallas.safetensors --json demo/dallas.json --html demo/dallas.html

biology: $(READY)  ## Run the studies of Atlas and write their pages to docs/biology
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/biology/run.py

picture: $(READY)  ## Draw the graph that README and the documentation open with
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python docs/picture.py

tutorial: $(READY)  ## Run the tutorial and write its page and notebook to docs/
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python docs/site/notebook.py

docs: $(READY)  ## Build the documentation as a site in build/site; needs no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

test: $(READY)  ## Run the tests; ARGS="-m 'not slow'" picks some, JOBS=8 uses more processors
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

browser: $(READY)  ## Run the tests that open pages; needs chromium and chromedriver
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m browser

lint: $(READY)  ## Check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(READY)  ## Put the code into the house's form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove what setup and the demo made
	rm -rf .venv .venv-* demo build *.egg-info
