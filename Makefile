# Everything a newcomer needs: `make demo` shows the main job, `make test` checks everything.
# Each target first creates .venv and installs into it; a second call installs nothing.

# The first Python on the PATH that is new enough; `make PYTHON=/path/to/python3.12 ...` overrides it.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
EXTRAS ?= litert,lowrank,tensorrt-rtx,peers,timm,demo,dev
# A package index with CPU builds of torch: on Linux, PyPI's own builds bring gigabytes of CUDA libraries.
TORCH_INDEX ?=

comma := ,
VENV := .venv
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))
BIN := $(VENV)/bin

.PHONY: setup demo test lint format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "edgeprune needs Python 3.11 or newer; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
ifneq ($(TORCH_INDEX),)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --index-url $(TORCH_INDEX) \
		--constraint constraints.txt torch torchvision
endif
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

demo: setup
	$(BIN)/edgeprune demo

# All checks report, whichever fails first.
test: setup
	@failed=0; $(MAKE) --no-print-directory lint || failed=1; $(BIN)/python -m pytest || failed=1; exit $$failed

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
