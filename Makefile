# `make demo` and `make test` are all that a newcomer needs; the rest is for those who change things.
# PIP_ARGS goes to pip; e.g. on Linux without a GPU, to save gigabytes:
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PYTHON_LOWEST ?= python3.11
PYTHON_NEWEST ?= python3.14
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --disable-pip-version-check --quiet $(PIP_ARGS)
INSTALL := $(BIN)/python $(PIP_INSTALL) --constraint constraints.txt
PYTEST := -m pytest --numprocesses 2 --dist worksteal
# Tests start many processes, none of which need compile our modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-narrow test-ascii test-haswell test-without-numba test-lowest test-newest \
  test-examples test-triton page lint types format docs dist clean

demo: $(VENV)/installed
	$(BIN)/forwardly teacher-student

test: $(VENV)/installed-dev
	$(BIN)/python $(PYTEST)

# On other machines than this one. Each runs the tests that such a machine can break, not all: of
# terminals those that print as wide as it is, or whose files and processes have its encoding.
NARROW := $(addprefix tests/test_,bench defaults ending hostile_names terminals)
OF_PAGES := $(addprefix --deselect tests/test_hostile_names.py::test_,figures in_a_browser)
STOPPED := tests/test_cli.py::test_ctrl_c_keeps_what_was_done \
  tests/test_train_command.py::test_stopping_keeps_what_was_done
ASCII := $(addprefix tests/test_,cli data defaults docs hostile_names malformed_files own_data \
  plugins records report terminals)
COMPILED := $(addprefix tests/test_,compiled descent devices find local_sgd noise products shallow threads)
READABLE := $(addprefix tests/test_,cli defaults import local_sgd noise products train_command)
VERSIONED := $(addprefix tests/test_,bench cli compiled data defaults descent devices import \
  local_sgd noise optimizers plots report seeds shallow sklearn terminals transforms)
files = $(addsuffix .py,$(1))

test-narrow: $(VENV)/installed-dev
	COLUMNS=40 $(BIN)/python $(PYTEST) $(call files,$(NARROW)) $(STOPPED) $(OF_PAGES)

test-ascii: $(VENV)/installed-dev
	LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 \
	  $(BIN)/python $(PYTEST) $(call files,$(ASCII)) $(lastword $(STOPPED))

# A processor without AVX-512: numba compiles for it, and torch takes no newer instructions.
HASWELL := NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma \
  ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
test-haswell: $(VENV)/installed-dev
	@test $$(uname -m) = x86_64 || echo "Haswell is pretended on its own kind of machine only."
	test $$(uname -m) != x86_64 || { \
	  $(HASWELL) $(BIN)/python -c \
	    'from forwardly.fast.cpu_step.tiles import has_avx512; assert not has_avx512()' && \
	  $(HASWELL) $(BIN)/python $(PYTEST) $(call files,$(COMPILED)); }

test-without-numba: $(VENV)/installed-dev
	PYTHONPATH=$(CURDIR)/tests/without_numba \
	  $(BIN)/python $(PYTEST) $(call files,$(READABLE))

# The lowest versions of what pyproject.toml names, and the newest of all. What other packages say
# of each other's deprecations is no fault of ours.
test-lowest: $(VENV)-lowest/installed
	NUMBA_CACHE_DIR=$(abspath $(VENV))-lowest/numba \
	  $(VENV)-lowest/bin/python $(PYTEST) -W ignore::DeprecationWarning $(call files,$(VERSIONED))

test-newest:
	@$(PYTHON_NEWEST) --version >/dev/null 2>&1 || echo "There is no $(PYTHON_NEWEST): not tested."
	! $(PYTHON_NEWEST) --version >/dev/null 2>&1 || { \
	  $(MAKE) $(VENV)-newest/installed && \
	  NUMBA_CACHE_DIR=$(abspath $(VENV))-newest/numba \
	  $(VENV)-newest/bin/python $(PYTEST) -W ignore::DeprecationWarning $(call files,$(VERSIONED)); }

# The kernel for GPUs, interpreted on the processor. A torch for processors comes without Triton, which
# is large, and for Linux; without it nothing is tested, which pytest tells by 5.
test-triton: $(VENV)-examples/installed-examples
	$(VENV)-examples/bin/python $(PIP_INSTALL) --no-deps triton==3.9.0 || echo "There is no Triton."
	TRITON_INTERPRET=1 $(VENV)-examples/bin/python $(PYTEST) tests/test_triton.py || test $$? = 5

# What examples/ are about, in an environment of its own, with versions that have been looked at.
test-examples: $(VENV)-examples/installed-examples
	NUMBA_CACHE_DIR=$(abspath $(VENV)-examples)/numba \
	  $(VENV)-examples/bin/python $(PYTEST) $(call files,$(addprefix tests/test_,cluster examples export export_executorch export_javascript learn_page loggers optimizers own_data tune))

# The page on which exported steps learn: build/page/learn.html, and a folder for a server. What runs
# in it, onnxruntime-web, comes from where FORWARDLY_ONNXRUNTIME_WEB says, or is downloaded once.
page: $(VENV)-examples/installed-examples
	rm -rf build/page
	$(VENV)-examples/bin/forwardly export --page --out build/page

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/installed
	$(BIN)/python docs/generate.py

# What goes to PyPI: built, looked into, and installed by itself into an empty environment, where
# its demo runs away from the checkout.
dist: $(VENV)/installed-dev
	rm -rf dist $(VENV)-dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tests/built.py dist
	$(PYTHON) -m venv $(VENV)-dist
	$(VENV)-dist/bin/python $(PIP_INSTALL) --no-compile --constraint constraints.txt dist/*.whl
	cd $(VENV)-dist && env -u PYTHONPATH bin/forwardly teacher-student

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest $(VENV)-examples $(VENV)-dist dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "forwardly needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	    "Name another: make demo PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps make a second run quick; they are out of date when what is to be installed has changed.
$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)-lowest/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON_LOWEST) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python $(PIP_INSTALL) --no-compile --constraint constraints-lowest.txt \
	  --editable '.[dev]'
	@touch $@

$(VENV)-newest/installed: pyproject.toml
	$(PYTHON_NEWEST) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python $(PIP_INSTALL) --no-compile --editable '.[dev]'
	@touch $@

$(VENV)-examples/installed-examples: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-examples
	$(VENV)-examples/bin/python $(PIP_INSTALL) --constraint constraints.txt \
	  --editable '.[dev,examples]'
	@touch $@
