# Targets for people: demo, test, check. `make setup` prepares .venv once and again when the pins change.
# On a machine without a GPU, `make demo TORCH_BACKEND=cpu` leaves the CUDA libraries out.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= python3
TORCH_BACKEND ?=
KILLS ?= 15
TESTERS ?= 2
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
UV_PIN := uv==0.13.9
PREFIX ?= /opt/transfergrid
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: setup demo test test-slow test-grids test-durable chaos check lock digests clean bench bench-augmentation bench-sasa bench-tuning bench-looks
.PHONY: test-cluster test-cluster-faults image-dependencies image-package image secrets bench-nodes

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(UV) >/dev/null || { $(PYTHON) -m venv .uv && .uv/bin/python -m pip install -q $(UV_PIN); }
	@test -x $(PY) || $(UV) venv -q --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
	$(UV) pip install -q --compile-bytecode -p $(PY) -c constraints.txt \
	  $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND)) -e '.[dev,peers,cluster]'
	@touch $@

demo: setup
	$(PY) -m orchestrator.run_grid smoke --store runs/demo
	$(PY) -m orchestrator.collect smoke --store runs/demo --out results
	@echo
	@echo "The table:       results/smoke/table.md (also .csv, .tex; every cell in cells.csv)"
	@echo "MLflow database: runs/demo/mlflow.db"
	@echo "Open the UI:     $(VENV)/bin/mlflow ui --backend-store-uri sqlite:///runs/demo/mlflow.db"

# Two processes, each on one core; a test file stays in one of them.
test: export OMP_NUM_THREADS := 1
test: setup
	$(PY) -m pytest -n $(TESTERS) --dist loadfile -m 'not slow and not durable and not cluster and not grids'

test-slow: export OMP_NUM_THREADS := 1
test-slow: setup ## compilations and whole runs, half a minute each
	$(PY) -m pytest -n $(TESTERS) --dist load -m slow

test-grids: setup ## every built-in grid with --profile smoke, through Ray
	$(PY) -m pytest -m grids -s tests/grids

test-durable: export OMP_NUM_THREADS := 1
test-durable: setup ## whole runs that are killed, starved of memory and disk, or cut off from MLflow
	$(PY) -m pytest -n $(TESTERS) --dist loadfile -m durable

chaos: setup ## seeded kill -9 of driver, workers, raylet and MLflow server
	$(PY) -m tests.chaos --kills $(KILLS)

test-cluster: setup ## `ray up docker/onprem.yaml` on hosts made of namespaces; skipped without root and the packages
	$(PY) -m pytest -m cluster -rs tests/cluster

test-cluster-faults: setup ## in that cluster: hosts, driver, MLflow, PostgreSQL lost one after the other, with times
	$(PY) -m tests.cluster.faults

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# Each writes tests/benchmarks/results/NAME.txt; on a machine that does nothing else, all of them in 21 minutes.
BENCHES := startup data_startup training_step fusion whole_grid growth
bench: setup ## training steps, fused cells, whole grid, data, start-up beside peers and limits; growth of costs; on the CPU
	for name in $(BENCHES); do $(PY) -m tests.benchmarks.$$name --out tests/benchmarks/results/$$name.txt; done

bench-augmentation: setup
	$(PY) -m tests.benchmarks.augmentation

bench-looks: setup ## error rates of the tests of claims, and what looks save; ten minutes
	$(PY) -m tests.benchmarks.looks

bench-sasa: setup
	$(PY) -m tests.benchmarks.sasa

bench-tuning: setup ## DATA=folder with camvid/
	$(PY) -m tests.benchmarks.tuning --data-root $(DATA)

bench-nodes: setup ## ten Ray nodes on this machine against one
	$(PY) -m tests.benchmarks.nodes

# docker/Dockerfile is made of these two; they need make, python3-venv and a place to write at PREFIX.
image-dependencies: ## what constraints.txt pins, into the environment PREFIX/venv
	@command -v $(UV) >/dev/null || { $(PYTHON) -m venv .uv && .uv/bin/python -m pip install -q $(UV_PIN); }
	$(UV) venv -q --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(PREFIX)/venv
	$(UV) pip install -q --compile-bytecode -p $(PREFIX)/venv/bin/python -c constraints.txt \
	  $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND)) -r pyproject.toml --extra cluster

image-package: ## the product itself, into PREFIX/package
	$(UV) pip install -q --compile-bytecode --no-deps -p $(PREFIX)/venv/bin/python --target $(PREFIX)/package .

image: ## docker image `transfergrid`; TORCH_BACKEND=cpu leaves the CUDA libraries out
	docker build -f docker/Dockerfile -t transfergrid$(if $(TORCH_BACKEND),:$(TORCH_BACKEND)) \
	  --build-arg TORCH_BACKEND=$(TORCH_BACKEND) .

secrets: ## random secrets for docker/compose.yaml, where there are none yet
	docker/make-secrets.sh docker/secrets

lock: ## write constraints.txt from the present environment
	$(UV) pip freeze -p $(PY) --exclude-editable | LC_ALL=C sort > constraints.txt

clean:
	rm -rf $(VENV) .uv runs results .mypy_cache .ruff_cache

digests: setup ## after a change of code that cannot change results
	$(PY) -m tests.trainables.stage_digests --write
