//! Which crate may depend on which: the house of docs/architecture.md, checked on the manifests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Libraries from the top of the table down: each may depend on those before it, for its tests too.
const LIBRARIES: [&str; 13] = [
    "api",
    "ipam",
    "engine",
    "ovsdb-types",
    "topology",
    "ovsdb",
    "openflow",
    "linux",
    "apiserver",
    "controller",
    "agent",
    "central",
    "lab",
];
/// Binaries: nothing depends on them.
const BINARIES: [&str; 2] = ["cni", "ferrovia"];
/// Libraries whose integration tests are a crate of their own, with this at the end of its name.
const TESTED_APART: [&str; 3] = ["apiserver", "controller", "topology"];
const APART: &str = "-tests";
/// How many libraries, from the top, do no I/O.
const PURE: usize = 5;
/// What does I/O, by the name in Rust; none is under a pure crate. (`kube` without its client is types and a derive macro.)
const IMPURE: [&str; 11] =
    ["async_std", "futures_util", "hyper", "kube_client", "kube_runtime", "mio", "netlink_sys", "nix", "rustix", "socket2", "tokio"];

/// One crate of the workspace, as its manifest has it.
struct Manifest {
    name: String,
    /// Our crates that it depends on, for tests too.
    ours: Vec<String>,
    /// Everything that it depends on, other than for tests.
    normal: Vec<String>,
    /// Whether another crate could depend on it.
    library: bool,
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn manifests() -> Vec<Manifest> {
    let text = cargo(&["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&text).unwrap();
    let list = |value: &Value, key: &str| value[key].as_array().unwrap_or_else(|| panic!("cargo metadata has no {key}")).clone();
    let word = |value: &Value| value.as_str().expect("a string").to_owned();
    let manifest = |package: &Value| {
        let dependencies = list(package, "dependencies");
        let names = |chosen: fn(&Value) -> bool| dependencies.iter().filter(|d| chosen(d)).map(|d| word(&d["name"])).collect();
        Manifest {
            name: word(&package["name"]),
            ours: names(|dependency| dependency["path"].is_string()),
            normal: names(|dependency| dependency["kind"] != "dev"),
            library: list(package, "targets").iter().any(|target| target["kind"] == serde_json::json!(["lib"])),
        }
    };
    list(&metadata, "packages").iter().map(manifest).collect()
}

/// The row of a crate, or of the one that it tests.
fn row(name: &str) -> usize {
    let name = name.strip_suffix(APART).unwrap_or(name);
    let mut rows = LIBRARIES.iter().chain(&BINARIES);
    rows.position(|room| *room == name).unwrap_or_else(|| panic!("crate {name} has no row in docs/architecture.md"))
}

#[test]
fn every_crate_has_a_row_and_every_row_a_crate() {
    let found: BTreeSet<String> = manifests().into_iter().map(|manifest| manifest.name).collect();
    let tests = TESTED_APART.iter().map(|name| format!("{name}{APART}"));
    let expected: BTreeSet<String> = LIBRARIES.iter().chain(&BINARIES).map(|name| (*name).to_owned()).chain(tests).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_crate_depends_only_on_crates_in_rows_above_its_own() {
    for manifest in manifests() {
        for other in &manifest.ours {
            let name = &manifest.name;
            let tested = name.strip_suffix(APART) == Some(other);
            assert!(tested || row(other) < row(name), "{name} must not depend on {other}, whose row is not above its own");
        }
    }
}

#[test]
fn nothing_depends_on_a_binary_or_on_tests() {
    for manifest in manifests() {
        for other in &manifest.ours {
            assert!(LIBRARIES.contains(&other.as_str()), "{} must not depend on {other}, which is no library", manifest.name);
        }
        assert_eq!(manifest.library, LIBRARIES.contains(&manifest.name.as_str()), "{}: a library, or not?", manifest.name);
    }
}

#[test]
fn nothing_under_a_pure_crate_does_input_or_output() {
    for pure in &LIBRARIES[..PURE] {
        let tree =
            cargo(&["tree", "--offline", "--locked", "--package", pure, "--edges", "normal", "--prefix", "none", "--format", "{lib}"]);
        let under: BTreeSet<&str> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
        assert!(under.contains(pure.replace('-', "_").as_str()), "cargo tree does not list {pure} itself: {tree}");
        let found: Vec<_> = IMPURE.iter().filter(|name| under.contains(**name)).collect();
        assert!(found.is_empty(), "{pure} is pure, but under it are {found:?}: see cargo tree --package {pure} --edges normal");
    }
}

#[test]
fn the_cni_plugin_is_std_only() {
    let cni = manifests().into_iter().find(|manifest| manifest.name == "cni").unwrap();
    assert!(cni.normal.is_empty(), "cni depends on {:?}", cni.normal);
}
