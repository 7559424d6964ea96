//! The kinds against the reference: names, columns, documentation, and that a manifest is read without loss.
//! Which manifests are admitted is tested where rules are evaluated: in the tests of `apiserver`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use api::v1;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn schema(crd: &CustomResourceDefinition) -> &JSONSchemaProps {
    crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap()
}

#[test]
fn names_subresources_and_columns_are_those_of_the_reference() {
    let mut shown = String::new();
    for crd in v1::crds() {
        let (names, version) = (&crd.spec.names, &crd.spec.versions[0]);
        assert_eq!((crd.spec.versions.len(), version.name.as_str()), (1, "v1"));
        assert_eq!(crd.metadata.name.as_deref(), Some(format!("{}.kubeovn.io", names.plural).as_str()));
        let short = names.short_names.clone().unwrap_or_default().join(" ");
        let subresources = version.subresources.as_ref();
        let subresources =
            [("scale", subresources.is_some_and(|s| s.scale.is_some())), ("status", subresources.is_some_and(|s| s.status.is_some()))];
        let subresources: Vec<_> = subresources.into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
        let singular = names.singular.as_deref().unwrap();
        let subresources = subresources.join(" ");
        writeln!(shown, "{} {} {singular} [{short}] {} [{subresources}]", names.kind, names.plural, crd.spec.scope).unwrap();
        for column in version.additional_printer_columns.iter().flatten() {
            let wide = if column.priority.unwrap_or_default() > 0 { " (wide)" } else { "" };
            writeln!(shown, "    {}={} {}{wide}", column.name, column.json_path, column.type_).unwrap();
        }
    }
    insta::assert_snapshot!(shown);
}

/// Every property below `schema`, with its path.
fn properties<'a>(schema: &'a JSONSchemaProps, path: &str, found: &mut Vec<(String, &'a JSONSchemaProps)>) {
    for (name, property) in schema.properties.iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        found.push((path.clone(), property));
        properties(property, &path, found);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        properties(items, &format!("{path}[]"), found);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        properties(values, &format!("{path}{{}}"), found);
    }
}

#[test]
fn every_kind_and_every_field_is_documented() {
    for crd in v1::crds() {
        let kind = &crd.spec.names.kind;
        let about = schema(&crd).description.as_deref().unwrap_or_default();
        assert!(about.ends_with('.') && !about.starts_with("Auto-generated"), "{kind}: {about:?}");
        let mut found = Vec::new();
        properties(schema(&crd), "", &mut found);
        for (path, property) in found {
            let about = property.description.as_deref().unwrap_or_default();
            assert!(about.trim().len() > 8, "{kind}: {path} has no description: {about:?}");
        }
    }
}

#[test]
fn the_fields_are_those_of_the_reference() {
    let mut shown = String::new();
    for crd in v1::crds() {
        let mut found = Vec::new();
        properties(schema(&crd), "", &mut found);
        writeln!(shown, "{}", crd.spec.names.kind).unwrap();
        for (path, property) in found {
            // The conditions are all alike, and these types are Kubernetes' own.
            let deep = ["conditions[]", "Selector.", "Selectors[].", "elector.match", "affinity.", "tolerations[]", "nodeSelector[]."];
            if deep.iter().any(|part| path.contains(part)) {
                continue;
            }
            let kind = property.type_.as_deref().unwrap_or("integer or string");
            let default = property.default.as_ref().map(|value| format!(" = {}", value.0)).unwrap_or_default();
            writeln!(shown, "    {path}: {kind}{default}").unwrap();
        }
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn the_definitions_in_deploy_are_current() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
    let wanted: BTreeSet<String> = v1::crds().into_iter().map(|crd| format!("{}.yaml", crd.metadata.name.unwrap())).collect();
    let found: BTreeSet<String> =
        std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, wanted);
    for crd in v1::crds() {
        let name = crd.metadata.name.clone().unwrap();
        let text = std::fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap();
        assert_eq!(text, serde_norway::to_string(&crd).unwrap(), "{name}: run make generate");
    }
}

fn manifest(plural: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/manifests/{plural}.yaml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_norway::from_str(&text).unwrap()
}

/// Whether `value` has something at `path`, in any element of each list on the way.
fn has(value: &Value, path: &str) -> bool {
    let (step, rest) = path.split_once('.').map_or((path, None), |(step, rest)| (step, Some(rest)));
    let Some(value) = value.get(step.trim_end_matches("[]")) else { return false };
    let Some(rest) = rest else { return true };
    value.as_array().map_or_else(|| has(value, rest), |items| items.iter().any(|item| has(item, rest)))
}

/// Reads and writes the manifest of a kind, in which every field occurs, and one that has nothing but a name.
fn reads_without_loss<K: DeserializeOwned + Serialize>(crd: &CustomResourceDefinition, excluded: &[&str]) {
    let (kind, plural) = (&crd.spec.names.kind, &crd.spec.names.plural);
    let full = manifest(plural);
    let read: K = serde_json::from_value(full.clone()).unwrap_or_else(|e| panic!("{kind}: {e}"));
    assert_eq!(serde_json::to_value(&read).unwrap(), full, "{kind}");
    let mut found = Vec::new();
    properties(schema(crd), "", &mut found);
    for (path, _) in found {
        let kubernetes = ["affinity.", "Selector.", "Selectors[].", "matchExpressions[].", "matchFields[].", "tolerations[]."];
        if !kubernetes.iter().any(|part| path.contains(part)) && !excluded.contains(&path.as_str()) {
            assert!(has(&full, &path), "tests/manifests/{plural}.yaml lacks {path}");
        }
    }
}

#[test]
fn a_manifest_with_every_field_is_read_and_written_without_loss() {
    let crds = v1::crds();
    let mut tested = 0;
    macro_rules! kinds {
        ($($kind:ident $([$($excluded:literal),*])?)*) => {
            $(
                let name = <v1::$kind as kube::Resource>::kind(&());
                let crd = crds.iter().find(|crd| crd.spec.names.kind == name).unwrap();
                reads_without_loss::<v1::$kind>(crd, &[$($($excluded),*)?]);
                tested += 1;
            )*
        };
    }
    kinds! {
        BgpConf DnsNameResolver EvpnConf Ip IpPool IptablesDnatRule IptablesEip IptablesFipRule IptablesSnatRule OvnDnatRule OvnEip OvnFip
        OvnSnatRule["spec.ipName"] ProviderNetwork QosPolicy RouterLbRule SecurityGroup Subnet SwitchLbRule Vip Vlan Vpc VpcDns
        VpcEgressGateway["spec.internalIPPool", "spec.externalIPPool"] VpcNatGateway
    }
    assert_eq!(tested, crds.len());
}

#[test]
fn an_absent_field_stays_absent() {
    for empty in [
        serde_json::to_value(v1::VpcStatus::default()).unwrap(),
        serde_json::to_value(v1::SubnetStatus::default()).unwrap(),
        serde_json::to_value(v1::BfdPortStatus::default()).unwrap(),
        serde_json::to_value(v1::SubnetSpec::default()).unwrap(),
        serde_json::to_value(v1::VpcNatGatewaySpec::default()).unwrap(),
    ] {
        assert_eq!(empty, serde_json::json!({}));
    }
}
