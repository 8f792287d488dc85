# The frequent commands. `make` without a target lists them.

CARGO ?= cargo
LOADTEST = target/release/loadtest
PGVANE = target/release/pgvane
ROUNDS ?= 3
SECONDS ?= 60
SESSIONS ?= 1000
MINUTES ?= 10
SEED ?= 1
VARIANT ?=
BESIDE ?= 0

# After an installation with Debian's rustup, a new shell does not have it in the path yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

.DEFAULT_GOAL := help
.PHONY: help setup lab build demo test test-long package test-package release failover carry chaos soak bench fuzz clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 21

setup: ## install what building and testing need (Debian; fast if everything is installed)
	@scripts/setup

# The same, without the packages that only the tests need.
lab:
	@scripts/setup --no-clients

build: ## the release binary, target/release/pgvane
	$(CARGO) build --release --locked

# With job control the demo owns the terminal, so that Ctrl-C ends the demo and not make, and make ends with success.
# If make is ended in another way, the demo ends too.
demo: lab ## a Patroni cluster with pgvane in front of it, until Ctrl-C
	$(CARGO) build --release --locked --workspace
	@bash -mc 'setpriv --pdeathsig TERM $(LOADTEST) demo --pgvane $(PGVANE); exit $$?'

test: setup ## what continuous integration runs
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --workspace --locked
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items --workspace --locked

test-long: setup package ## what is slow and rarely breaks: silent peers, slow readers, long faults, the package
	$(CARGO) test --workspace --locked -- --ignored

package: ## the packages for Debian and for RPM systems, target/package/*.deb and *.rpm
	@scripts/package

test-package: setup package ## the Debian package on a machine with systemd, from installation to purge
	@scripts/test-package

release: setup ## the checklist of a release: everything that must hold, and the files to publish
	@scripts/release

failover: lab ## switchovers and a crash, by pgvane, HAProxy and libpq's own list of hosts (ROUNDS=3)
	$(CARGO) build --release --locked --workspace
	$(LOADTEST) failover --pgvane $(PGVANE) --haproxy --libpq --rounds $(ROUNDS) --kill

carry: ## sessions with state of their own through switchovers, beside HAProxy and lists of hosts (SESSIONS=1000 ROUNDS=3)
	@scripts/setup
	$(CARGO) build --release --locked --workspace
	$(LOADTEST) carry --pgvane $(PGVANE) --sessions $(SESSIONS) --rounds $(ROUNDS)

# The seed also chooses versions, TLS and pooler; VARIANT forces them, such as VARIANT="--postgres 18 --tls terminate".
chaos: ## random faults on a cluster with pgvane under load (MINUTES=10 SEED=1); fails if clients saw what they must not
	@scripts/setup --chaos
	$(CARGO) build --release --locked --workspace
	$(LOADTEST) chaos --pgvane $(PGVANE) --minutes $(MINUTES) --seed $(SEED) $(VARIANT)

# With further faults, clients of every kind, and pgvane on a host of its own: a network namespace, so it needs root.
soak: ## the same for hours, with reloads, upgrades, partitions, name server outages, COPY, cancels (MINUTES=60 SEED=1)
	@scripts/setup --chaos
	$(CARGO) build --release --locked --workspace
	$(LOADTEST) soak --pgvane $(PGVANE) --minutes $(MINUTES) --seed $(SEED) $(VARIANT)

# BESIDE is a number of processes that use all CPU time they get meanwhile.
bench: ## what pgvane, HAProxy and PgBouncer cost, side by side (ROUNDS=3 BESIDE=0): target/bench.json and .svg
	@scripts/setup --bench
	$(CARGO) build --release --locked --workspace
	$(LOADTEST) bench --pgvane $(PGVANE) --rounds $(ROUNDS) --beside $(BESIDE) \
		--json target/bench.json --plot target/bench.svg

# With the versions of Cargo.lock, so that the fuzzer tests the code that is released.
fuzz: ## look for bytes that break a rule of fuzz/rules.rs, for each of its targets (SECONDS=60); needs nightly Rust
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install cargo-fuzz --locked
	cp Cargo.lock fuzz/
	@cd fuzz && for target in $$($(CARGO) fuzz list --fuzz-dir .); do \
		mkdir -p corpus/$$target && \
		$(CARGO) +nightly fuzz run --fuzz-dir . $$target corpus/$$target seeds/$$target -- \
			-max_total_time=$(SECONDS) -max_len=12000 -print_final_stats=1 || exit 1; \
	done

clean: ## remove everything that was built
	$(CARGO) clean
