# What a developer does here. `make demo` and `make test` need only git, make, a C++20 compiler and
# python3 >= 3.10 with venv and headers; all else goes into .venv.
#
#   make demo         train the example network, with statistics synchronized over several ranks
#   make test         everything that needs no GPU, each stage under a time budget
#   make lint         formatting, lint and types, without changing a file
#   make format       format all sources
#   make cpp-test     the C++ tests, optimized build
#   make asan         the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   make tsan         the C++ tests that use threads, under ThreadSanitizer
#   make fuzz         the C ABI under libFuzzer, by clang, for FUZZ_SECONDS
#   make simt         the CUDA sources run on the CPU: C++ and Python tests, optimized build
#   make simt-asan    the same C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   make simt-tsan    the same C++ tests under ThreadSanitizer
#   make python-test  the Python tests, against the installed package
#   make gpu-pack     build the CUDA backend and its tests for a machine with a GPU: gpu-pack/
#   make gpu-check    on a machine with a GPU: tests and benchmarks of the CUDA backend
#   make cuda-archs   compile the CUDA sources for every supported architecture
#   make cuda-report  check the machine code of every CUDA kernel in .venv: tools/cuda_resources
#   make test-recipes the recipes of docs/recipes.md with the real tools, in .venv-recipes
#   make exhaustive   the Python tests with the full product of their matrices (long)
#   make soak         30,000 training steps on 4 ranks: no growth, the result of one process
#   make bench        speed, beside PyTorch's own batch norm
#   make stubs        accept the binding's present signatures as python/syncnorm/_core.pyi
#   make abi          accept the present ABI of syncnorm.h as tests/python/house/abi.txt
#   make faults       bring docs/faults.md up to date with the table of tests/python/faults
#   make excerpts     bring the excerpts of sources in docs/embedding.md up to date
#   make clean        remove everything that was made, .venv and .venv-recipes included
#
# Settings, given as `make test NAME=value`:
#   PYTHON        the Python to make .venv from (else the first of python3.11 and python3 that fits)
#   PIP_ARGS      more arguments of `pip install`. For PyTorch without CUDA, gigabytes smaller:
#                 PIP_ARGS="--extra-index-url <PyTorch's index of CPU wheels>"
#   CUDA, CUDA_ARCHS, WERROR   how the package in .venv is built, as SYNCNORM_CUDA (AUTO; `make test`
#                 gets nvcc from PyPI where there is none), CMAKE_CUDA_ARCHITECTURES (the GPUs of
#                 this machine, else 90), SYNCNORM_WERROR. `make setup` and `make test` build it anew
#                 if they differ
#   CONSTRAINTS   a file of pinned versions to use instead of constraints.txt
#   PYTEST_ARGS   more arguments of pytest, such as "-k layers"
#   DEMO_ARGS, BENCH_ARGS   arguments of the demo and of the benchmark
#   CUDA_REPORT_ARGS   arguments of tools/cuda_resources, such as --listing
#   FUZZ_SECONDS  how long `make fuzz` runs its targets, side by side (600)
#   CLANG         the clang++ of `make fuzz` (else the first that is found)
#   SOAK_ARGS     arguments of the soak, such as "--kind threads"
#   BUDGET_SCALE  multiplies the time budgets, for slow machines

PYTHON ?=
PIP_ARGS ?=
CONSTRAINTS ?= constraints.txt
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
SOAK_ARGS ?=
WERROR ?= OFF
CUDA ?= AUTO
GPU := $(shell nvidia-smi -L 2> /dev/null)
CUDA_ARCHS ?= $(if $(GPU),native,90)
CUDA_REPORT_ARGS ?=
FUZZ_SECONDS ?= 600
CLANG ?= $(firstword $(shell command -v clang++ clang++-{20,19,18,17,16,15,14}))
export BUDGET_SCALE ?= 1

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# The tools of .venv first, and its Python for CMake.
IN_VENV := VIRTUAL_ENV="$(CURDIR)/.venv" PATH="$(CURDIR)/.venv/bin:$$PATH"
PIP_INSTALL := $(IN_VENV) .venv/bin/python -m pip install --quiet --disable-pip-version-check \
               -c $(CONSTRAINTS) $(PIP_ARGS)
# Where there is none, it comes from PyPI.
SYSTEM_NVCC := $(shell command -v "$${CUDACXX:-nvcc}" /usr/local/cuda/bin/nvcc | head -1)
PYPI_NVCC := $(if $(SYSTEM_NVCC)$(filter OFF,$(CUDA)),,.venv/.nvcc)
SOURCES := $(shell find core bindings cmake python -type f -not -name '*.pyc') \
           CMakeLists.txt $(wildcard README.md) LICENSE
CXX_SOURCES = $(shell find core bindings tests examples benchmarks -type f \
                -name '*.h' -o -name '*.hpp' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
PYTHON_SOURCES := $(wildcard python tests tools examples benchmarks)

.PHONY: help demo test lint format cpp-test asan tsan fuzz fuzz-probe simt simt-asan simt-tsan python-test
.PHONY: exhaustive bench gpu-check gpu-pack cuda-archs cuda-report stubs abi faults excerpts clean preflight setup
.PHONY: FORCE

help:
	@sed -n '/^#   make/s/^#   //p' Makefile

# --------------------------------------------------------------------------------- preparation

preflight:
	@tools/preflight $(PYTHON) > /dev/null

# A make of its own for the package, which sees the nvcc that may just have come.
setup: $(PYPI_NVCC) .venv/.developer
	@$(MAKE) .venv/.installed REFRESH=FORCE

.venv/.tools: constraints.txt pyproject.toml $(CONSTRAINTS) | preflight
	@echo "preparing .venv"
	@"$$(tools/preflight $(PYTHON))" -m venv .venv
	@$(PIP_INSTALL) --upgrade pip
	@$(PIP_INSTALL) --group build
	@touch $@

.venv/.nvcc: .venv/.tools
	@echo "installing nvcc into .venv"
	@$(PIP_INSTALL) --group cuda
	@touch $@

# How the package is built: written by the first who needs it, and by setup if it differs.
REFRESH :=
.venv/.settings: $(REFRESH) | .venv/.tools
	@printf -- '-C cmake.define.%s\n' SYNCNORM_WERROR=$(WERROR) SYNCNORM_CUDA=$(CUDA) \
	  'CMAKE_CUDA_ARCHITECTURES=$(CUDA_ARCHS)' > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

.venv/.installed: .venv/.tools .venv/.settings $(wildcard .venv/.nvcc) $(SOURCES)
	@echo "building and installing syncnorm into .venv (the first time PyTorch comes with it)"
	@$(PIP_INSTALL) --no-build-isolation $$(cat .venv/.settings) '.[demo]'
	@touch $@

.venv/.developer: .venv/.tools
	@echo "installing the developer's tools into .venv"
	@$(PIP_INSTALL) --group dev
	@touch $@

# ----------------------------------------------------------------------------------------- use

# Without a GPU the demo does not wait for CUDA to be compiled.
demo: CUDA := $(if $(GPU),$(CUDA),OFF)
demo: .venv/.installed
	@.venv/bin/python -m syncnorm demo $(DEMO_ARGS)

bench: .venv/.installed
	@.venv/bin/python -m syncnorm bench $(BENCH_ARGS)

# --------------------------------------------------------------------------------------- tests

# The budgets add up to 38 minutes, on two cores and from an empty .venv.
STAGE = .venv/bin/python tools/stage
test: preflight
	@"$$(tools/preflight $(PYTHON))" tools/stage "set up" 330 $(MAKE) setup WERROR=ON
	@$(STAGE) "lint" 35 $(MAKE) lint
	@$(STAGE) "C++ tests" 100 $(MAKE) cpp-test
	@$(STAGE) "C++ tests, address and undefined behaviour sanitizers" 165 $(MAKE) asan
	@$(STAGE) "C++ tests, thread sanitizer" 95 $(MAKE) tsan
	@$(STAGE) "CUDA sources on the CPU" 260 $(MAKE) simt
	@$(STAGE) "CUDA sources, address and undefined behaviour sanitizers" 360 $(MAKE) simt-asan
	@$(STAGE) "CUDA sources, thread sanitizer" 260 $(MAKE) simt-tsan
	@$(STAGE) --last "Python tests" 680 $(MAKE) python-test

lint: .venv/.developer .venv/.installed
	@.venv/bin/ruff check --quiet $(PYTHON_SOURCES)
	@.venv/bin/ruff format --quiet --check $(PYTHON_SOURCES)
	@.venv/bin/clang-format --dry-run -Werror $(CXX_SOURCES)
	@.venv/bin/mypy --no-error-summary

format: .venv/.developer
	@.venv/bin/ruff check --quiet --fix-only $(PYTHON_SOURCES)
	@.venv/bin/ruff format --quiet $(PYTHON_SOURCES)
	@.venv/bin/clang-format -i $(CXX_SOURCES)

# $(call ctest,<preset>)
define ctest
	@mkdir -p build
	@$(IN_VENV) cmake --preset $(1) > build/$(1).log || { cat build/$(1).log; exit 1; }
	@$(IN_VENV) cmake --build --preset $(1) > build/$(1).log || { cat build/$(1).log; exit 1; }
	@$(IN_VENV) ctest --preset $(1)
endef

cpp-test: .venv/.tools
	$(call ctest,release)

asan: .venv/.tools
	$(call ctest,asan)

tsan: .venv/.tools
	$(call ctest,tsan)

fuzz-probe:
	@tests/fuzz/probe $(CLANG)

fuzz: fuzz-probe .venv/.tools
	@mkdir -p build
	@$(IN_VENV) cmake --preset fuzz -DCMAKE_CXX_COMPILER=$(CLANG) \
	  -DCMAKE_C_COMPILER=$(subst ++,,$(CLANG)) > build/fuzz.log || { cat build/fuzz.log; exit 1; }
	@$(IN_VENV) cmake --build --preset fuzz > build/fuzz.log || { cat build/fuzz.log; exit 1; }
	@tests/fuzz/run build/fuzz $(FUZZ_SECONDS)

simt: $(PYPI_NVCC) .venv/.developer
	$(call ctest,simt)
	@$(IN_VENV) PYTHONPATH=build/simt/python .venv/bin/python -m pytest tests/python/simt

simt-asan: $(PYPI_NVCC) .venv/.tools
	$(call ctest,simt-asan)

simt-tsan: $(PYPI_NVCC) .venv/.tools
	$(call ctest,simt-tsan)

# Two files at a time: ranks that are processes wait for each other, and leave the cores to others then.
python-test: .venv/.developer .venv/.installed
	@$(IN_VENV) .venv/bin/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

.PHONY: test-recipes
test-recipes: .venv/.developer .venv/.installed
	@$(STAGE) "set up the recipes" 240 $(MAKE) .venv-recipes/.installed
	@$(STAGE) --last "recipes" 240 .venv-recipes/bin/python -m pytest -W default \
	  tests/python/recipes $(PYTEST_ARGS)

# The packages of .venv are seen, not copied: PyTorch is large, and pip must not choose another one.
.venv-recipes/.installed: constraints.txt pyproject.toml $(CONSTRAINTS) .venv/.developer
	@.venv/bin/python -m venv --clear .venv-recipes
	@printf '%s\n' "$$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  "$(CURDIR)/tests/python/recipes/stand_ins" "import torchvision_operators" \
	  > "$$(echo .venv-recipes/lib/python*/site-packages)/recipes.pth"
	@.venv-recipes/bin/python -m pip install --quiet --disable-pip-version-check --upgrade \
	  -c $(CONSTRAINTS) $(PIP_ARGS) 'pip>=25.1'
	@.venv-recipes/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c $(CONSTRAINTS) $(PIP_ARGS) --group recipes
	@touch $@

exhaustive: .venv/.developer .venv/.installed
	@$(IN_VENV) .venv/bin/python -m pytest --exhaustive --timeout 0 $(PYTEST_ARGS)

.PHONY: soak
soak: .venv/.developer .venv/.installed
	@.venv/bin/python -m tests.soak $(SOAK_ARGS)

# ---------------------------------------------------------------------------------------- CUDA

gpu-pack:
	@tools/gpu_pack

gpu-check:
	@tools/gpu_check.sh

cuda-archs: $(PYPI_NVCC) .venv/.tools
	@mkdir -p build
	@$(IN_VENV) cmake --preset cuda
	@$(IN_VENV) cmake --build --preset cuda --target syncnorm_cuda

cuda-report: setup
	@$(IN_VENV) .venv/bin/python tools/cuda_resources $(CUDA_REPORT_ARGS) \
	  "$$(.venv/bin/python -c 'import syncnorm; print(syncnorm.capabilities()["library"])')"

# --------------------------------------------------------------------------------- maintenance

stubs: .venv/.installed
	@cp "$$(.venv/bin/python -c 'import syncnorm, pathlib; print(pathlib.Path(syncnorm.__file__).parent)')/_core.pyi" \
	  python/syncnorm/_core.pyi

abi: preflight
	@"$$(tools/preflight $(PYTHON))" tools/abi > tests/python/house/abi.txt.new
	@mv tests/python/house/abi.txt.new tests/python/house/abi.txt

faults: .venv/.developer .venv/.installed
	@PYTHONPATH=tests/python .venv/bin/python -m faults.page

excerpts: preflight
	@"$$(tools/preflight $(PYTHON))" tools/excerpts docs/embedding.md

clean:
	@rm -rf .venv .venv-recipes build dist demo-results bench-results gpu-check-results gpu-pack
	@find . -name __pycache__ -prune -exec rm -rf {} +
	@rm -rf .mypy_cache .pytest_cache .ruff_cache
