# Everything a fresh machine needs is behind two words: `make gate` and `make test`.
# Needs make, bash and a Python of 3.11 to 3.14; what can be set from outside:
#   PYTHON=/path/to/python3.12     the Python that the environment is made from
#   PIP_FIND_LINKS, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL     as pip takes them; handed on to uv
#   WORKERS=4                      processes that run the tests, 2 where nothing is said
#   UV_TORCH_BACKEND=auto          torch's build; cpu where nothing is said
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# Written last: a .venv without it is half made and is thrown away.
READY := $(VENV)/.ready

# DVC runs the stages with what it finds on PATH.
export PATH := $(BIN):$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export DVC_NO_ANALYTICS := 1
# Every stage is a process of its own: uncompiled libraries would cost each of them seconds.
unexport PYTHONDONTWRITEBYTECODE

# A Python that was upgraded or removed under the environment leaves links to nowhere.
ifneq ($(wildcard $(READY)),)
ifneq ($(shell $(BIN)/python -c 'print(1)' 2>/dev/null),1)
$(shell rm -f $(READY))
endif
endif

.PHONY: help environment data gate examples test selftest hot-paths forge-demo lint clean

help: ## Say what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' Makefile

environment: $(READY) ## Make .venv, or leave it as it is when nothing changed.

data: $(READY) ## Find or fetch Fashion-MNIST and check it.
	@$(BIN)/python -m compression_gate.tasks.fashion_mnist_files --to data/fashion-mnist

gate: data ## Environment, data, the whole pipeline, the verdict.
	$(BIN)/compression-gate run

# Each is a suite of its own. All are run, whatever the first ones end with; the last code that is not 0 is told.
EXAMPLES := speech vision-mobile detection pretrained
examples: data ## The four suites in examples/, one after the other.
	$(BIN)/python examples/speech/spoken_digits.py
	$(BIN)/python examples/pretrained/train_elsewhere.py
	@code=0; for example in $(EXAMPLES); do \
	  $(BIN)/compression-gate run -C examples/$$example || code=$$?; done; exit $$code

# A file's tests stay in one process, which shares what is dear to make; one thread each, as everywhere.
WORKERS ?= 2
test: data lint ## Environment, the data the tests need, the linters, all tests, on WORKERS processes.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

selftest: $(READY) ## Hold the gate and the timing to their own numbers, on this machine.
	$(BIN)/compression-gate selftest --gate --timing

hot-paths: $(READY) ## How fast the package's own hot paths are, stored in .benchmarks by pytest-benchmark.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest benchmarks/hot_paths.py --benchmark-autosave

forge-demo: $(READY) ## act, pipeline, gate, comment: pull requests on a fake forge, on this machine.
	@$(BIN)/python tests/support/forge_demo.py

lint: $(READY) ## Linters of code, types and workflows.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/actionlint .github/workflows/*.yml templates/github/*.yml
	$(BIN)/zizmor --offline --quiet --config .github/zizmor.yml .github action.yml post/action.yml templates/github/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml templates/github/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci templates/gitlab/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-actions action.yml post/action.yml

clean: ## Remove the environment and caches; data, models and reports stay.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks build dist
	find compression_gate tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python fit to make the environment from: PYTHON where it is set, else the first that will do.
define find_python
for python in $${PYTHON:-python3 python3.13 python3.12 python3.14 python3.11}; do
  if "$$python" -c 'import ensurepip, venv, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
    echo "$$python"; exit 0
  fi
done
echo "make: expected a Python of 3.11 to 3.14 with the modules venv and ensurepip, got $${PYTHON:-python3: $$(python3 -V 2>&1 || true)}:" >&2
echo "make: install one (Debian and Ubuntu: apt-get install python3-venv), or name it: make PYTHON=/path/to/python3.12" >&2
exit 2
endef
export find_python

# uv is several times faster than pip but reads none of pip's settings: these are handed on. Without a folder of wheels
# to take it from, torch's CPU build is asked for by name: the one that Linux gets otherwise brings the GPU libraries.
define install
constraints="$$PWD/constraints.txt"
setting() { "$(BIN)/python" -m pip config get "global.$$1" 2>/dev/null || true; }
words() { tr -s '[:space:]' "$$1" | sed "s/^$$1//; s/$$1\$$//"; }
links="$$(printf '%s' "$${PIP_FIND_LINKS:-$$(setting find-links)}" | words ,)"
index="$${PIP_INDEX_URL:-$$(setting index-url)}"
more="$$(printf '%s' "$${PIP_EXTRA_INDEX_URL:-$$(setting extra-index-url)}" | words ' ')"
if [ -n "$$links" ]; then export UV_FIND_LINKS="$${UV_FIND_LINKS:-$$links}"; fi
if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; fi
if [ -n "$$more" ]; then
  export UV_INDEX="$${UV_INDEX:-$$more}" UV_INDEX_STRATEGY="$${UV_INDEX_STRATEGY:-unsafe-best-match}"  # as pip treats them
fi
if [ -z "$$links" ]; then export UV_TORCH_BACKEND="$${UV_TORCH_BACKEND:-cpu}"; fi
export UV_BUILD_CONSTRAINT="$$constraints" PIP_CONSTRAINT="$$constraints" PIP_BUILD_CONSTRAINT="$$constraints"
export PIP_DISABLE_PIP_VERSION_CHECK=1
if "$(BIN)/python" -m pip install --quiet uv &&
   "$(BIN)/uv" pip install --quiet --python "$(BIN)/python" -c "$$constraints" -e '.[dev]'; then exit 0; fi
echo "make: uv could not install; trying pip, which takes a few minutes" >&2
if [ -n "$${UV_TORCH_BACKEND:-}" ]; then
  echo "make: on Linux pip takes torch with its GPU libraries, several gigabytes; PIP_FIND_LINKS may name a folder with another build" >&2
fi
"$(BIN)/python" -m pip install --quiet -c "$$constraints" -e '.[dev]'
endef
export install

$(READY): pyproject.toml constraints.txt Makefile
	@[ -e $@ ] || rm -rf $(VENV)
	@rm -f $@
	@if [ ! -e $(VENV) ]; then \
	  python="$$(bash -eu -c "$$find_python")"; echo "make: environment from $$python"; "$$python" -m venv $(VENV); fi
	@bash -eu -o pipefail -c "$$install"
	@touch $@
