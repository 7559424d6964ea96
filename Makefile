# Debian 12, a Rust toolchain, root. `make demo` and `make test` are all that a fresh clone needs.

.PHONY: setup build demo demo-down test kube test-kube ovn-matrix kernel-datapath check bench generate

# Installs what is missing, and makes the image of the lab's virtual machines; does nothing when nothing is.
setup:
	@scripts/setup

# One profile for demo, tests and benchmarks, and the static CNI plugin.
build: setup
	@scripts/build

# A cluster of three nodes on this machine, with the pods and the virtual machine of examples/.
demo: build
	@scripts/demo

demo-down:
	@if [ -x target/debug/ferrovia ]; then target/debug/ferrovia lab down --name demo; fi

test:
	@scripts/test

# A real `kube-apiserver` and `etcd`, built from their Go modules once and kept outside the repository; prints where.
kube:
	@scripts/kube

# What must hold with these as with the embedded API server.
test-kube: setup
	@scripts/test-kube

# The lab with each version of OVN that Debian has: 12's 23.03, 13's 25.03, sid's 26.03.
ovn-matrix: build
	@scripts/ovn-matrix

# The lab on the kernel's datapath, in a guest with Debian's kernel.
kernel-datapath: build
	@scripts/kernel-datapath

# Format, lints, dependencies, documentation, generated files.
check: setup
	@scripts/check

bench: build
	@scripts/bench

# Writes crates/ovsdb-types/src/{nb,sb,vswitch}.rs from the installed schemas, and deploy/crds from the kinds.
generate: setup
	@scripts/generate
