//! Discovery: which groups, versions and resources there are.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::server::Server;

/// The version that the server claims to be.
const VERSION: (&str, &str) = ("1", "34");

/// Answers the discovery paths.
pub fn answer(server: &Server, path: &str) -> Option<Value> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["version"] => Some(version()),
        ["api"] => Some(json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })),
        ["apis"] => Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups(server) })),
        ["apis", group] => groups(server).into_iter().find(|g| g["name"] == json!(group)).map(|mut g| {
            g["kind"] = json!("APIGroup");
            g["apiVersion"] = json!("v1");
            g
        }),
        ["api", version] => resources(server, "", version),
        ["apis", group, version] => resources(server, group, version),
        _ => None,
    }
}

fn version() -> Value {
    let (major, minor) = VERSION;
    json!({
        "major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.0"), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}

fn groups(server: &Server) -> Vec<Value> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for kind in server.kinds().iter().filter(|kind| !kind.group.is_empty()) {
        let versions = groups.entry(kind.group.clone()).or_default();
        if !versions.contains(&kind.version) {
            versions.push(kind.version.clone());
        }
    }
    let describe = |(group, versions): (String, Vec<String>)| {
        let versions: Vec<_> = versions.iter().map(|v| json!({ "groupVersion": format!("{group}/{v}"), "version": v })).collect();
        json!({ "name": group, "preferredVersion": versions[0], "versions": versions })
    };
    groups.into_iter().map(describe).collect()
}

fn resources(server: &Server, group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<_> = server.kinds().into_iter().filter(|kind| kind.group == group && kind.version == version).collect();
    let first = kinds.first()?;
    let resources: Vec<_> = kinds.iter().flat_map(|kind| describe(kind)).collect();
    Some(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.api_version(), "resources": resources }))
}

fn describe(kind: &Kind) -> Vec<Value> {
    let entry = |name: String, verbs: &[&str]| json!({ "name": name, "singularName": "", "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs });
    let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let mut main = entry(kind.plural.clone(), &verbs);
    main["singularName"] = json!(kind.singular);
    main["shortNames"] = json!(kind.short);
    let mut found = vec![main];
    if kind.status {
        found.push(entry(format!("{}/status", kind.plural), &["get", "patch", "update"]));
    }
    if kind.is_pod() {
        let mut binding = entry("pods/binding".to_owned(), &["create"]);
        binding["kind"] = json!("Binding");
        found.push(binding);
    }
    found
}
