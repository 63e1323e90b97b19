# `make` lists the targets. All but help and clean set up .venv first; that takes minutes once, and no time afterwards.

PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: help setup lab test notebooks slides site prefetch links zoo-evaluate bench lint format constraints clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## /  make \1	/p' Makefile | expand -t 24

setup:  ## only install the packages into .venv; another Python than python3: PYTHON=python3.12
	@command -v "$(PYTHON)" > /dev/null || { echo "There is no $(PYTHON): install Python 3.10 to 3.14, or name it: make lab PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" tools/setup_env.py

lab: setup  ## open JupyterLab in notebooks/; options: ARGS="--port 9000"
	@# JupyterLab shows the diagrams in stored outputs of trusted notebooks only: those of the course, not a stranger's.
	@-git ls-files -z 'notebooks/[0-9][0-9]_*.ipynb' 2> /dev/null | xargs -0 $(RUN) -m nbformat.sign > /dev/null 2>&1
	@$(RUN) -m jupyterlab --notebook-dir=notebooks --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

test: setup  ## test the code and re-execute all notebooks, comparing outputs; options: ARGS="-k data"
	@$(RUN) -m pytest -n auto $(ARGS)

notebooks: setup  ## re-execute notebooks and store their outputs; not all: NOTEBOOKS="01 04"
	@$(RUN) tools/run_notebooks.py $(NOTEBOOKS)

slides: setup  ## make a presentation of each notebook in build/slides; not all: NOTEBOOKS="01 04"
	@$(RUN) tools/slides.py $(NOTEBOOKS)

site: setup  ## make a website of all lectures in build/site
	@$(RUN) tools/website.py

prefetch: setup  ## download photographs and full-size networks, to teach without a network; not all: NOTEBOOKS="01 12"
	@$(RUN) -m utils.prefetch $(NOTEBOOKS)

links: setup  ## change the course's address in all notebooks: REPO=owner/name REV=tag
	@$(RUN) tools/links.py --repo "$(REPO)" --rev "$(REV)"

zoo-evaluate: setup  ## measure the shipped micro networks: DATA=tiny-imagenet-200.zip
	@$(RUN) -m zoo.evaluate --data "$(DATA)"

bench: setup  ## measure time and memory of every notebook on this machine, and write BENCHMARKS.md
	@$(RUN) tools/bench.py

lint: setup  ## check the style of code and notebooks
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check

format: setup  ## bring code and notebooks into that style
	@$(RUN) -m ruff check --fix
	@$(RUN) -m ruff format

constraints: setup  ## pin new entries of requirements.txt; move all pins to the newest versions: ARGS=--upgrade
	@$(RUN) -m pip install --quiet uv
	@$(RUN) -m uv pip compile --quiet --universal --python-version 3.10 --no-annotate \
		--custom-compile-command "make constraints" $(ARGS) \
		--output-file constraints.txt requirements.txt requirements-train.txt > /dev/null

clean:  ## remove what tools leave behind, but neither .venv nor data/cache
	@rm -rf build .pytest_cache .ruff_cache
	@find . -path ./.venv -prune -o -path ./data/cache -prune -o \
		-type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
