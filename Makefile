# Needs make and Python 3.11 or newer; `make PYTHON=python3.12 test` takes another one than python3.
# Everything else is installed into .venv, which is made anew when requirements.txt or pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin/python
# one more than there are cores: tests wait for their processes for nearly half of the time
WORKERS := $(shell echo $$(( $$(nproc) + 1 )))

.DEFAULT_GOAL := help
.PHONY: help demo test lint chaos fuzz bench examples pictures clients node docs reference venv lock clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

demo: $(STAMP) ## put a million notifications through a service of its own, and account for every delivery
	$(RUN) -m dispatcher simulate $(ARGS)

# files in their order, unit tests last: by the number of tests the long ones would be, and leave workers idle
test: $(STAMP) ## run the tests; those that are left out are listed at the end, with the reason
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP) ## check style, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m mypy --disable-error-code=import-untyped examples/python

chaos: $(STAMP) ## simulate thousands of seeds of faults, then kill processes at random under load
	$(RUN) -m tests.simulation.simulator --seeds 3000
	$(RUN) -m tests.chaos --kills 300 $(ARGS)

fuzz: $(STAMP) ## send nearly right messages to a running service, and account for every one; a minute, or ARGS="--seconds 600"
	$(RUN) -m tests.fuzz $(ARGS)

bench: $(STAMP) ## run the benchmarks, each beside its floor
	$(RUN) -m bench.all $(ARGS)

examples: $(STAMP) ## run the programs in examples/python, a line for each
	$(RUN) -m tests.support.examples

pictures: $(STAMP) ## draw the terminals of README.md anew, from the real programs; on a quiet machine
	$(RUN) -m tools.pictures $(ARGS)

clients: $(STAMP) ## try the example clients in all languages; those that this machine cannot run are listed, with what is missing
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory node; fi
	CLIENTS=all $(RUN) -m pytest tests/integration/test_clients.py $(ARGS)

node: ## install what the client in TypeScript needs
	cd examples/clients/node && npm install --no-audit --no-fund --no-package-lock --loglevel=error

docs: $(STAMP) ## build the documentation into site/; a link that leads nowhere is an error
	$(RUN) -m zensical build --strict --clean

reference: $(STAMP) ## write the pages of docs/ that are generated from the settings and the commands
	$(RUN) -m tools.reference

venv: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1 || true);" \
	    "name another one, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments; on Debian: apt-get install" \
	    "python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

lock: ## write requirements.txt anew from pyproject.toml (needs uv)
	{ echo "# Locked for Python 3.11 and newer, by \`make lock\`: what the dispatcher, its tests and its linters need."; \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --no-emit-find-links --all-extras pyproject.toml; } > requirements.txt.new
	mv requirements.txt.new requirements.txt

clean: ## remove what was installed and generated
	rm -rf $(VENV) build dist site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf examples/clients/node/node_modules examples/clients/node/client.js examples/clients/java/*.class
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path '*/node_modules/*' -exec rm -rf {} +
