# The one list of commands, the same for people and for CI.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# ARGS are for the target that was asked for, and not for those that its recipe makes.
MAKEOVERRIDES :=
unexport ARGS

CLUSTER_SH := deploy/local/cluster
# clippy and cargo test give way to what the environment says.
CARGO ?= cargo
# Where the benchmarks of the whole system leave what they measured.
FIGURES = $${CARGO_TARGET_DIR:-target}/figures

.PHONY: help demo demo-down build test test-cluster image sim soak soak-sim soak-race lint fmt gen chart bench bench-decide bench-claim bench-life bench-restart acceptance ci cluster cluster-down

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## From nothing to a claimed agent; CLUSTER=current: on the cluster of the current context
	@deploy/local/demo up

demo-down: ## Removes everything that demo started
	@deploy/local/demo down

build: ## Both binaries, and Kubernetes for tests (four minutes, once)
	$(CARGO) build --bins
	$(CLUSTER_SH) build

test: ## Every test, those on a real API server included
	@tests/run $(ARGS)

test-cluster: ## The image in real pods on a real node, installed by helm; root on Linux, or CLUSTER=current
	@tests/cluster/run $(ARGS)

image: ## The image as an OCI archive in target/image
	@deploy/image/build $(ARGS)

sim: ## The whole simulation, optimized: every crash point, every answer, 1,000 pool-hours
	AGENTPOOL_SIM_STRIDE=1 AGENTPOOL_SIM_SEEDS=$${AGENTPOOL_SIM_SEEDS:-56} $(CARGO) test --profile sim --test sim -- --nocapture $(ARGS)

soak: soak-sim soak-race ## Long runs by seed, of the simulation and of real processes; hours

soak-sim: ## 10,000 worlds with an hour of trouble each: AGENTPOOL_SIM_SEEDS from AGENTPOOL_SIM_FIRST, _HOURS
	AGENTPOOL_SIM_SEEDS=$${AGENTPOOL_SIM_SEEDS:-10000} AGENTPOOL_SIM_HOURS=$${AGENTPOOL_SIM_HOURS:-1} $(CARGO) test --profile sim --test sim long_runs -- --nocapture

soak-race: ## 5 rounds of 1,000 claims while real processes are killed and paused: AGENTPOOL_RACE_ROUNDS, _CLAIMS, _SEED
	$(CLUSTER_SH) build
	$(CARGO) test --profile sim --no-run --test k8s
	$(CLUSTER_SH) run -- bash -c 'export AGENTPOOL_TEST_KUBECONFIG=$$KUBECONFIG AGENTPOOL_RACE_PAUSE_SECONDS=$${AGENTPOOL_RACE_PAUSE_SECONDS:-20} \
	  AGENTPOOL_RACE_ROUNDS=$${AGENTPOOL_RACE_ROUNDS:-5} AGENTPOOL_RACE_CLAIMS=$${AGENTPOOL_RACE_CLAIMS:-1000}; \
	  $(CARGO) test --profile sim --test k8s race::claims_while -- --nocapture'

lint: ## Formatting and clippy; warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --all-features -- -D warnings

fmt: ## Formats the Rust code
	$(CARGO) fmt

gen: ## Regenerates what is made from the code and the chart: crds/, deploy/kubernetes, docs/values.md
	@mkdir -p crds
	$(call crd,AgentPool,agentpools)
	$(call crd,AgentInstance,agentinstances)
	$(call crd,AgentClaim,agentclaims)
	@$(MAKE) chart

chart: ## Renders the chart: deploy/kubernetes, docs/values.md and the snapshots of tests/chart
	charts/render

# By way of a temporary file: a failure must not empty what is there.
define crd
$(CARGO) run -q --bin agentpool -- crds --kind $(1) >crds/$(2).yaml.tmp && test -s crds/$(2).yaml.tmp && mv crds/$(2).yaml.tmp crds/$(2).yaml
endef

bench: bench-decide bench-claim bench-life bench-restart ## All benchmarks, one after the other; nothing else should run beside them

bench-decide: ## What a decision costs, for one instance and for a pool of 10,000
	$(CARGO) bench --no-default-features --bench decide

bench-claim: ## What a claim costs on a real API server: 1 to 256 callers, 1 to 3 replicas; SHORT=1 for a part of it
	$(call whole-system,claim)

bench-life: ## What a life costs at Railway, and how fast a pool fills
	$(call whole-system,life)

bench-restart: ## A restart with 10,000 claimed instances: time, memory, and what rest costs
	$(call whole-system,restart)

# Built first: what is measured shares its cores with nothing. What they say is kept beside, so that nobody has to look.
define whole-system
$(CLUSTER_SH) build
$(CARGO) bench --no-run --bench $(1)
@mkdir -p $(FIGURES)
@echo "$(1), $$(date -u +%FT%TZ), commit $$(git rev-parse --short HEAD 2>/dev/null || echo unknown), $$(nproc) cores, load $$(cut -d' ' -f1 /proc/loadavg)" | tee -a $(FIGURES)/$(1).txt
$(CLUSTER_SH) run -- bash -c 'AGENTPOOL_BENCH_SHORT=$(SHORT) AGENTPOOL_TEST_KUBECONFIG=$$KUBECONFIG $(CARGO) bench --bench $(1)' 2>&1 | tee -a $(FIGURES)/$(1).txt
@echo "kept in $(FIGURES)/$(1).txt"
endef

acceptance: ## What the last `make test` showed, row by row of docs/acceptance.md
	@tests/acceptance.sh $(ARGS)

ci: ## What CI runs
	@.ci/run

cluster: ## A control plane for development; prints how to use it
	@$(CLUSTER_SH) up
	@$(CLUSTER_SH) env

cluster-down: ## Stops it
	@$(CLUSTER_SH) down
