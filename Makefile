# Debian 12, a Rust toolchain, root. `make demo` and `make test` are all that a fresh clone needs.

.PHONY: setup build demo demo-down test check bench generate

# Installs what is missing; does nothing when nothing is.
setup:
	@scripts/setup

# One profile for demo, tests and benchmarks, and the static CNI plugin.
build: setup
	@scripts/build

# A cluster of three nodes on this machine, with the pods of examples/.
demo: build
	@scripts/demo

demo-down:
	@if [ -x target/debug/ferrovia ]; then target/debug/ferrovia lab down --name demo; fi

test:
	@scripts/test

# Format, lints, dependencies, documentation, generated files.
check: setup
	@scripts/check

bench: build
	@scripts/bench

# Writes crates/ovsdb-types/src/{nb,sb,vswitch}.rs from the installed schemas.
generate: setup
	@scripts/generate
