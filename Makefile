# Everything a person or a pipeline runs. `make help` lists it.
SHELL := /bin/bash
export CARGO_TERM_COLOR ?= auto
CACHE := $(or $(EVENKEEL_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/evenkeel)

.PHONY: help demo demo-cluster test unit lint generate bless check-generated chart bench chaos chaos-cluster chaos-table evidence soak soak-hosts fuzz tools packages test-packages clean bench-planner

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: packages ## three real hosts, six guests: drain one host by manifest, no cluster
	tests/scripts/demo.sh

demo-cluster: packages tools ## the same by kubectl, under a real Kubernetes
	tests/scripts/demo-cluster.sh

test: test-packages tools ## everything: unit tests, real hosts, a real API server
	tests/scripts/test.sh

unit: ## only what needs neither root nor hosts
	cargo test --workspace --lib --bins

lint: ## format, clippy with warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

generate: ## write the CRDs from the types
	EVENKEEL_WRITE_CRDS=1 cargo test -q -p evenkeel-crds --lib checked_in
	mkdir -p charts/evenkeel/crds && cp crds/manifests/*.yaml charts/evenkeel/crds/

bless: ## write the golden files of plan and simulate from what they print now
	EVENKEEL_BLESS=1 cargo test -q -p evenkeel --bin evenkeel -- snapshot simulate picture

check-generated: ## fail where generated files are not what the types say
	cargo test -q -p evenkeel-crds --lib checked_in
	diff -r crds/manifests charts/evenkeel/crds

chart: tools ## lint the chart
	"$(CACHE)"/helm-*/bin/helm lint --strict charts/evenkeel

bench: packages ## paired against a shell loop over virsh migrate
	tests/scripts/bench.sh

bench-planner: ## plans: how long, how many bytes, how close to what is possible; EVENKEEL_BENCH_DATA=DIR, LONG=1 for more
	@command -v hbal > /dev/null || tests/scripts/packages.sh ganeti-htools || echo "without hbal nothing is compared with it"
	@for bench in plan full htools ordering clusters placement; do \
		cargo bench --quiet -p evenkeel-planner --bench $$bench || exit 1; done

chaos: packages ## moves among faults on real hosts; ROUNDS=100 or MOVES=1000, SEED=7 to say how many and which
	cargo build --quiet -p evenkeel -p evenkeel-tests --bins
	"$${CARGO_TARGET_DIR:-target}"/debug/chaos $(if $(MOVES),--moves $(MOVES),--rounds $(or $(ROUNDS),50)) $(if $(SEED),--seed $(SEED))

chaos-cluster: packages tools ## the same with a controller in a cluster
	cargo build --quiet -p evenkeel -p evenkeel-tests --bins
	"$${CARGO_TARGET_DIR:-target}"/debug/chaos --cluster --rounds $(or $(ROUNDS),50) $(if $(SEED),--seed $(SEED))

chaos-table: packages ## every fault, at each end, at every moment of a move
	cargo build --quiet -p evenkeel -p evenkeel-tests --bins
	"$${CARGO_TARGET_DIR:-target}"/debug/chaos --table --guests 1 $(if $(SEED),--seed $(SEED))

evidence: packages tools ## what takes minutes on real hosts, fault by fault
	cargo build --quiet -p evenkeel -p evenkeel-tests --bins
	cargo test -p evenkeel-tests -- --ignored --test-threads 1

soak: ## the whole loop among faults on virtual time; MOVES=1000000 SEED=7 to say how many and which
	cargo test --release --quiet -p evenkeel-soak --features mutations --test mutations -- --include-ignored --nocapture
	cargo run --release --quiet -p evenkeel-soak -- --moves $(or $(MOVES),1000000) $(if $(SEED),--seed $(SEED))

soak-hosts: packages ## the libvirt side alone on real hosts: many moves there and back, and whether anything leaks; MOVES=200 to say how many
	EVENKEEL_TEST_MOVES=$(or $(MOVES),40) tests/scripts/hosts.sh many_moves nothing_leaks --nocapture

fuzz: ## what tests/corpus keeps, then definitions, capabilities, URIs, manifests, journals, marks and claims damaged at random; CASES=1000000 to say how many
	PROPTEST_CASES=$(or $(CASES),100000) cargo test --release --quiet -p evenkeel-hypervisor --lib -- libvirt::others damaged
	PROPTEST_CASES=$(or $(CASES),100000) cargo test --release --quiet -p evenkeel --bin evenkeel damaged
	PROPTEST_CASES=$(or $(CASES),100000) cargo test --release --quiet -p evenkeel-hypervisor --test engine_journals

packages:
	@tests/scripts/install.sh

test-packages:
	@tests/scripts/install.sh tests

tools:
	@tests/scripts/build-cluster.sh

clean: ## what a build leaves in this folder
	cargo clean
