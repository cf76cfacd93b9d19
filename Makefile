# Everything that a developer runs, and .ci/run after them. `make help` lists it.
# A bare Debian or Ubuntu needs: apt-get install python3 python3-venv g++ make git
# The rest (cmake, ninja, numpy, pytest, ...) comes from the Python package index into .venv.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
VERSION := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null)
FRESH := $(VENV)/python-$(VERSION)
CSOURCES := '*.cpp' '*.hpp' '*.ipp' '*.c' '*.h'
# Folders are listed too: theirs is the time stamp that a removed file changes.
SOURCES := CMakeLists.txt pyproject.toml README.md LICENSE \
  $(shell find csrc src -not -name '__pycache__' -not -name '*.pyc')

.PHONY: help install test demo lint format types stubs cpp-test asan tsan bench aarch64 clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo      the demonstration, on the NPU if there is one, else simulated'
	@echo 'make test      build, install into $(VENV), run the tests       (ARGS="-k name")'
	@echo 'make lint      ruff and clang-format, checked        make format   the same, applied'
	@echo 'make types     mypy --strict                         make stubs    write _core.pyi anew'
	@echo 'make cpp-test  the C++ tests under AddressSanitizer with UBSan, and ThreadSanitizer'
	@echo 'make bench     the benchmarks                                   (ARGS="-k name")'
	@echo 'make aarch64   cross-compile, and test under qemu'
	@echo 'make clean     remove build/ and $(VENV)'
	@echo 'PYTHON=python3.12 selects the interpreter. All of it at once: .ci/run'

install: $(VENV)/npublas

test: $(VENV)/npublas $(VENV)/tools-test $(VENV)/tools-demo
	$(BIN)/python -m pytest $(ARGS)

demo: $(VENV)/npublas $(VENV)/tools-demo
	$(BIN)/npublas demo $(ARGS)

lint: $(VENV)/tools-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	git ls-files $(CSOURCES) | xargs $(BIN)/clang-format --dry-run -Werror

format: $(VENV)/tools-lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	git ls-files $(CSOURCES) | xargs $(BIN)/clang-format -i

types: $(VENV)/npublas $(VENV)/tools-lint $(VENV)/tools-demo
	$(BIN)/mypy --strict

stubs: $(VENV)/npublas $(VENV)/tools-test
	$(BIN)/python .ci/stubs.py

cpp-test: asan tsan

asan: $(VENV)/tools-build
	.ci/cpp-test $(BIN) address,undefined $(ARGS)

tsan: $(VENV)/tools-build
	.ci/cpp-test $(BIN) thread $(ARGS)

bench: $(VENV)/npublas $(VENV)/tools-test
	$(BIN)/python -m pytest benchmarks $(ARGS)

aarch64:
	.ci/aarch64 $(ARGS)

clean:
	rm -rf build $(VENV)

# A virtual environment of another Python is made anew.
$(FRESH):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo 'npublas needs Python 3.10 or newer: make PYTHON=python3.x ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo '$(PYTHON) cannot make virtual environments: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'  # the first that knows --group
	@touch $@

$(VENV)/tools-build $(VENV)/tools-test $(VENV)/tools-lint: $(VENV)/tools-%: $(FRESH) pyproject.toml
	$(PIP) install --quiet --group $*
	@touch $@

$(VENV)/npublas: $(VENV)/tools-build $(SOURCES)
	.ci/install $(BIN)/python
	@touch $@

# Only the extra's own requirements: npublas is there, and is not looked for elsewhere.
$(VENV)/tools-demo: pyproject.toml | $(VENV)/npublas
	$(PIP) install --quiet 'npublas[demo]'
	@touch $@
