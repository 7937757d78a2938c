# naru: everything a newcomer needs. Each target does its own set-up.

export CARGO_TARGET_DIR ?= $(CURDIR)/target
export NARU_TOOLS ?= $(HOME)/.cache/naru/tools
SAMPLES := $(CURDIR)/build/samples
NARU := $(CARGO_TARGET_DIR)/debug/naru

.PHONY: help demo build samples setup tools clients test unit e2e schemathesis bench lint fmt deny clean

help: ## this list
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

setup: ## what the build needs from the system (protoc)
	@tools/setup.sh build

build: setup ## the naru binary, for development
	cargo build --locked --workspace --bins

samples: ## the sample services, as WebAssembly
	@samples/build-all.sh $(SAMPLES)

tools: ## kubectl (two versions) and helm, for demo and tests
	@tools/kubectl.sh $(NARU_TOOLS)

clients: ## the Python and the JavaScript client, for tests
	@tools/setup.sh test
	@tools/clients.sh $(NARU_TOOLS)

demo: build samples tools ## a cluster, the samples in it, and their answers
	@tools/demo.sh $(NARU) $(SAMPLES) $(NARU_TOOLS)

test: lint unit e2e ## all that CI runs

unit: setup ## unit tests
	@tools/setup.sh test
	cargo nextest run --locked --workspace --exclude naru-tests
	cargo test --locked --workspace --doc --quiet

e2e: build samples tools clients ## end-to-end tests: the real binary, driven by real clients
	NARU_BIN=$(NARU) NARU_SAMPLES=$(SAMPLES) cargo nextest run --locked -p naru-tests -p naru
	@tools/schemathesis.sh $(NARU) $(NARU_TOOLS) 40

schemathesis: build ## what the OpenAPI documents allow and forbid, sent for five minutes: no 500
	@tools/schemathesis.sh $(NARU) $(NARU_TOOLS) 300

bench: samples tools ## benchmarks beside their peers; rewrites the tables of docs/PERFORMANCE.md
	@tools/setup.sh bench
	tools/bench.sh

lint: setup ## formatting and clippy, without a warning
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

fmt: ## formats the code
	cargo fmt --all

deny: ## licences, sources and duplicate bans of all dependencies
	@tools/setup.sh deny
	$(NARU_TOOLS)/cargo-deny/bin/cargo-deny check licenses bans sources

clean: ## removes what was built
	cargo clean
	rm -rf build
