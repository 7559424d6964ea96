//! Discovery: which groups, versions and resources there are.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::reviews::REVIEWS;
use crate::server::Server;

/// The version that the server claims to be: one that `kubectl` from 1.32 to 1.34 takes for its own, give or take one.
const VERSION: (&str, &str) = ("1", "33");

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
    for (group, ..) in REVIEWS {
        groups.insert(group.to_owned(), vec!["v1".to_owned()]);
    }
    let describe = |(group, versions): (String, Vec<String>)| {
        let versions: Vec<_> = versions.iter().map(|v| json!({ "groupVersion": format!("{group}/{v}"), "version": v })).collect();
        json!({ "name": group, "preferredVersion": versions[0], "versions": versions })
    };
    groups.into_iter().map(describe).collect()
}

fn resources(server: &Server, group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<_> = server.kinds().into_iter().filter(|kind| kind.group == group && kind.version == version).collect();
    let mut resources: Vec<_> = kinds.iter().flat_map(|kind| describe(kind)).collect();
    resources.extend(REVIEWS.iter().filter(|(of, ..)| *of == group && version == "v1").map(|(_, kind, plural)| {
        json!({ "name": plural, "singularName": kind.to_lowercase(), "namespaced": false, "kind": kind, "verbs": ["create"] })
    }));
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let list = json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources });
    (!resources.is_empty()).then_some(list)
}

fn describe(kind: &Kind) -> Vec<Value> {
    let entry = |name: String, verbs: &[&str]| json!({ "name": name, "singularName": "", "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs });
    let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let mut main = entry(kind.plural.clone(), &verbs);
    main["singularName"] = json!(kind.singular);
    if !kind.short.is_empty() {
        main["shortNames"] = json!(kind.short);
    }
    if !kind.categories.is_empty() {
        main["categories"] = json!(kind.categories);
    }
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
