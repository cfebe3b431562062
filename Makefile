# `make demo` trains on handwritten digits; `make test` runs the tests. Both make .venv first.
# `make test-all` runs the slow tests, too, of optimised programs and in random order.
# `make test-tpu` compiles the demo's train step for a TPU; none is needed.
# `make test-python PYTHON=python3.13` runs the tests with the newest versions of everything, in an
# environment of its own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Huge pages for what malloc gets (docs/performance.md); the C library of Linux alone reads it.
GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
PYTEST := $(BIN)/python -m pytest -n logical --dist loadfile
# XLA's compiler for TPUs, as jax 0.10.2 names it. Beside the environment, not in it: JAX looks for
# a TPU wherever it finds libtpu.
LIBTPU := libtpu==0.0.42.1
# XLA's default, which `make test` goes without (tests/compiler.py).
OPTIMISED := --xla_backend_optimization_level=3

.PHONY: demo environment test test-all test-tpu test-python lint clean

demo: $(VENV)/.installed
	GLIBC_TUNABLES=$(GLIBC_TUNABLES) $(BIN)/python main.py --config=configs/digits.py --workdir=runs/digits

environment: $(VENV)/.installed-dev

test: environment
	$(PYTEST) -p no:randomly -m "not slow"

test-all: environment
	XLA_FLAGS="$(OPTIMISED) $(XLA_FLAGS)" $(PYTEST)

test-tpu: $(VENV)/libtpu
	PYTHONPATH=$< $(BIN)/python -m pytest -p no:randomly tests/benchmarks/test_compile_tpu.py

test-python:
	$(MAKE) test NEWEST=yes VENV=.venv-$(notdir $(PYTHON))

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path=$(BIN)/python

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -r requirements.txt
	touch $@

$(VENV)/libtpu: Makefile | environment
	$(BIN)/python -m pip install --no-deps --upgrade --target $@ $(LIBTPU)
	touch $@

ifdef NEWEST
$(VENV)/.installed-dev: pyproject.toml constraints-newest.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -e '.[dev]' -c constraints-newest.txt
	touch $@
else
$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install -r requirements-dev.txt
	touch $@
endif

clean:
	rm -rf $(VENV) .venv-* .jax_cache
