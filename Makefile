# The two commands: make demo, make test. Each sets a fresh machine up by itself.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
# The first of these that runs, is 3.11 to 3.13 and can make environments; PYTHON=... takes another.
PYTHONS := python3.11 python3.12 python3.13 python3 python
PYTHON ?= $(shell for each in $(PYTHONS); do "$$each" -c 'import ensurepip, sys, venv; \
  sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo "$$each" && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off
# Of what pip says, each package as it comes, with its size: some take minutes.
TOLD := | awk '/(build|backend) dependencies/ { next } \
  /^ *(Obtaining|Collecting|Downloading|Building|Installing)/ { print "  " $$0; fflush() }'
PLUGINS := $(sort $(wildcard plugins/*/pyproject.toml))
CLIENT := clients/python
EDITABLE := -e $(CLIENT) $(foreach plugin,$(PLUGINS),-e $(patsubst %/pyproject.toml,%,$(plugin)))
DEFAULTS := -e $(CLIENT) -e ".[heic]" -e plugins/console -e plugins/oip -e plugins/openai -e plugins/opencv -e plugins/ocr
BINARY := cameras console oip openai opencv ocr onnx
SOURCES := pyproject.toml constraints.txt requirements-dev.txt $(CLIENT)/pyproject.toml $(PLUGINS)
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: help demo demo-fleet serve setup compile test test-again test-long test-engines test-clients test-airflow test-fleet test-api test-plain test-ray test-binary fuzz soak soak-server binary lock release audit check vendored shape bench bench-console clean

help:            ## this list
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+:  +##' Makefile | sed 's/:.*##/\t/'

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo 'No Python 3.11, 3.12 or 3.13 that can make environments was found' \
	  'on PATH (tried: $(PYTHONS)). Install one, on Debian and Ubuntu: apt install python3-venv;' \
	  'or name it: make PYTHON=/path/to/python3.12 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(SOURCES) | $(BIN)/python
	@echo "installing the core and the embedded default into $(VENV): some 200 MB, a minute or a few"
	@$(PIP) $(DEFAULTS) $(TOLD)
	@touch $@

$(VENV)/.setup: $(SOURCES) | $(BIN)/python
	@echo "installing the core, every plugin and the development tools into $(VENV): some gigabytes"
	@$(PIP) "torch==2.13.0" $(TOLD)
	@$(PIP) -e ".[grpc,camera,heic,ray]" $(EDITABLE) -r requirements-dev.txt $(TOLD)
	@# The tracker brings the OpenCV that needs a screen's libraries; the last one installed wins.
	@$(PIP) --force-reinstall --no-deps "opencv-python-headless<5" $(TOLD)
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## real OCR and detection over REST and WebSocket, from nothing
	$(BIN)/python examples/demo.py

serve: $(VENV)/.demo  ## the server with config.yaml
	$(BIN)/mataserver serve --config config.yaml

setup: $(VENV)/.setup  ## .venv with the core, every plugin and the development tools

compile: $(VENV)/.setup  ## what is installed as bytecode, for which pip takes one core and this all of them
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # a few files are templates, or of other Pythons

# Its workers wait for servers, browsers and children: one more than there are cores.
WORKERS ?= $(shell $(BIN)/python -c 'import os; print(len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else os.cpu_count() + 1)')

test: $(VENV)/.setup  ## the tests, but for those of test-long, test-engines, test-fleet and so on
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not long"

test-long: $(VENV)/.setup  ## the slowest files: a twelfth of the tests, which take longer than all others together
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m long

test-again: $(VENV)/.setup  ## the tests that failed the last time, one after the other
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

test-engines: $(VENV)/.setup  ## easyocr, paddleocr and tesserocr, each in an environment of its own
	$(BIN)/python plugins/ocr/tests/engines/run.py $(ENGINES)

test-clients: $(VENV)/.setup  ## KServe's client, also through the gateway, in an environment of its own
	$(BIN)/python plugins/oip/tests/clients/run.py

test-airflow: $(VENV)/.setup  ## retraining over a real Airflow, which is in an environment of its own
	$(BIN)/python plugins/reconstruct/tests/real/run_airflow.py

demo-fleet: $(VENV)/.setup  ## two real Tritons as one fleet: a thousand requests while one is killed
	$(BIN)/python plugins/fleet/tests/real/demo.py

test-fleet: $(VENV)/.setup  ## the fleet over real Tritons, which are in an environment of their own
	$(BIN)/python plugins/fleet/tests/real/run.py

test-api: $(VENV)/.setup  ## the OpenAPI document with every guest's routes, against a server
	$(BIN)/python -m pytest -p no:cacheprovider tests/guest_cases.py

test-plain: $(VENV)/.setup  ## the tests of HTTP with every request by aiohttp's way, as with `short_way: false`
	PYTHONPATH=tests $(BIN)/python -m pytest -p no:cacheprovider -p without_known_heads -n $(WORKERS) --dist loadfile $(or $(TESTS),tests)

test-ray: $(VENV)/.setup  ## models on a real Ray cluster of this machine, whose nodes are killed; KILLS=10 for more
	RAY_KILLS=$(or $(KILLS),1) $(BIN)/python -m pytest -p no:cacheprovider -s plugins/ray/tests/ray_*cases.py

test-binary: binary $(VENV)/.setup  ## the one-file build and the steps of the Dockerfile, in empty folders
	$(BIN)/python -m pytest -p no:cacheprovider --timeout 600 tests/packaging/binary_cases.py tests/packaging/image_cases.py

fuzz: $(VENV)/.setup  ## every parser of strangers' bytes, some minutes; FUZZ_EXAMPLES=1000000 for hours
	FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),20000) $(BIN)/python -m pytest -p no:cacheprovider --timeout 0 tests/test_foreign_bytes.py tests/test_foreign_plugins.py tests/test_foreign_networks.py

soak: $(VENV)/.setup  ## queues of jobs whose server is killed ten times each: some minutes
	$(BIN)/python plugins/jobs/tests/soak.py
	$(BIN)/python plugins/reconstruct/tests/soak.py
	PHOTOGRAPHS=49 $(BIN)/python -m pytest -q plugins/reconstruct/tests/test_large_uploads.py  # 490 MB

soak-server: $(VENV)/.setup  ## half an hour of everything at once on one server: nothing may grow; SOAK_SECONDS=120 for less
	$(BIN)/python bench/soak.py $(or $(SOAK_SECONDS),1800)

lock: $(VENV)/.setup  ## packaging/requirements.txt: what a release takes of others, with hashes
	$(BIN)/python packaging/release.py lock

release: $(BIN)/python  ## build/release: the wheels, built twice and compared, and what they are made of (SBOM)
	$(BIN)/python packaging/release.py build

audit: $(BIN)/python  ## known faults of the packages of a release, as the index's advisory service tells
	$(BIN)/python packaging/release.py audit

binary: $(BIN)/python  ## build/mataserver: one executable file that needs nothing but this Python
	@$(PIP) "pex>=2.100" $(TOLD)
	rm -rf build/wheels
	$(BIN)/python -m pip wheel --quiet --wheel-dir build/wheels ./$(CLIENT) '.[camera,heic]' $(addprefix ./plugins/,$(BINARY))
	$(BIN)/pex --no-pypi --find-links build/wheels 'mataserver[camera,heic]' $(addprefix mataserver-,$(BINARY)) \
	  --interpreter-constraint "$$($(BIN)/python -c 'import sys; print("CPython==%d.%d.*" % sys.version_info[:2])')" \
	  --script mataserver --venv --sh-boot --no-pre-install-wheels --output-file build/mataserver

# Types and faults of the console's modules; what npm installs stands in a lock file with hashes.
TYPES := plugins/console/node_modules/.bin/tsc

$(TYPES): plugins/console/package-lock.json
	@command -v npm >/dev/null || { echo "the checks of the console's modules need npm; on Debian: apt install nodejs npm" >&2; exit 1; }
	npm ci --prefix plugins/console --silent --no-audit --no-fund
	@touch $@

check: $(VENV)/.setup $(TYPES)  ## format, lint, layers, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --no-cache .  # an import's group depends on which files exist, which the cache does not know
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/mypy $(wildcard plugins/*/mataserver_*) $(wildcard templates/*/mataserver_*.py)
	$(BIN)/mypy $(wildcard bench/*.py)
	$(BIN)/mypy $(wildcard bench/gpu/*.py)  # apart: two programs are called run
	$(TYPES) -p plugins/console
	cd plugins/console && node_modules/.bin/oxlint mataserver_console/web

vendored: $(BIN)/python  ## the console's vendored libraries are those of their npm packages; needs npm
	$(BIN)/python plugins/console/vendor.py

shape: $(VENV)/.setup  ## the shape of the code in figures, beside their goals
	$(BIN)/python tests/house_shape.py

bench: $(VENV)/.setup  ## the benchmarks beside the peers; QUICK=1 for fewer of them
	$(BIN)/python bench/run.py $(if $(QUICK),--quick)

bench-console: $(VENV)/.setup  ## what Lighthouse says of the console's pages; needs npm
	$(BIN)/python bench/lighthouse.py

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build demo-output .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
