//! CustomResourceDefinitions: what they add to the served kinds, what is refused, and the status they get at once.

use serde_json::{Value, json};

use crate::admission::Admission;
use crate::error::Cause;
use crate::kinds::Kind;
use crate::object::{self, Object};

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn versions(definition: &Value) -> impl Iterator<Item = &Value> {
    definition["spec"]["versions"].as_array().into_iter().flatten()
}

/// The kinds of a stored definition, one per served version.
pub fn kinds(definition: &Value, key: &str, rv: u64) -> Vec<Kind> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let (group, kind) = (text(&spec["group"]), text(&names["kind"]));
    let served = versions(definition).filter(|version| version["served"] == json!(true));
    let make = |version: &Value| {
        let name = text(&version["name"]);
        let schema = version["schema"].get("openAPIV3Schema").cloned();
        let schema = schema.unwrap_or_else(|| json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true }));
        let singular = text(&names["singular"]);
        Kind {
            admission: Some(Admission::new(schema, &group, &name, &kind)),
            typed: None,
            version: name,
            plural: text(&names["plural"]),
            singular: if singular.is_empty() { kind.to_lowercase() } else { singular },
            short: names["shortNames"].as_array().into_iter().flatten().map(text).collect(),
            namespaced: spec["scope"] == json!("Namespaced"),
            status: version["subresources"].get("status").is_some(),
            columns: version["additionalPrinterColumns"].as_array().cloned().unwrap_or_default(),
            selectable: version["selectableFields"].as_array().into_iter().flatten().map(|field| text(&field["jsonPath"])).collect(),
            categories: names["categories"].as_array().into_iter().flatten().map(text).collect(),
            terminating: definition["metadata"].get("deletionTimestamp").is_some(),
            definition: Some((key.to_owned(), rv)),
            group: group.clone(),
            kind: kind.clone(),
        }
    };
    served.map(make).collect()
}

/// Fills in what clients may leave out.
pub fn default(definition: &mut Object) {
    let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) else { return };
    spec.entry("conversion").or_insert_with(|| json!({ "strategy": "None" }));
    let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) else {
        return;
    };
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    names.entry("singular").or_insert_with(|| json!(kind.to_lowercase()));
    names.entry("listKind").or_insert_with(|| json!(format!("{kind}List")));
}

/// What is wrong with a definition.
pub fn check(definition: &Object) -> Vec<Cause> {
    let value = Value::Object(definition.clone());
    let spec = &value["spec"];
    let mut causes = Vec::new();
    for (field, found) in [
        ("spec.group", &spec["group"]),
        ("spec.scope", &spec["scope"]),
        ("spec.names.plural", &spec["names"]["plural"]),
        ("spec.names.kind", &spec["names"]["kind"]),
    ] {
        if text(found).is_empty() {
            causes.push(Cause::required(field));
        }
    }
    if !matches!(spec["scope"].as_str(), None | Some("Namespaced" | "Cluster")) {
        causes.push(Cause::invalid("spec.scope", &spec["scope"], "must be Cluster or Namespaced"));
    }
    let expected = format!("{}.{}", text(&spec["names"]["plural"]), text(&spec["group"]));
    if object::meta(definition, "name") != Some(&expected) {
        causes.push(Cause::invalid(
            "metadata.name",
            &value["metadata"]["name"],
            format!("must be spec.names.plural+\".\"+spec.group: {expected}"),
        ));
    }
    if versions(&value).filter(|version| version["storage"] == json!(true)).count() != 1 {
        causes.push(Cause::invalid("spec.versions", &spec["versions"], "must have exactly one version marked as storage version"));
    }
    for (at, version) in versions(&value).enumerate() {
        let field = format!("spec.versions[{at}].schema.openAPIV3Schema");
        let schema = &version["schema"]["openAPIV3Schema"];
        if !schema.is_object() {
            causes.push(Cause::required(field));
            continue;
        }
        for broken in Admission::new(schema.clone(), "", "", "").broken_rules() {
            causes.push(Cause::invalid(format!("{field}.x-kubernetes-validations"), &Value::Null, broken));
        }
    }
    causes
}

/// The status that makes a definition established.
pub fn establish(definition: &mut Object) {
    let value = Value::Object(definition.clone());
    let mut stored: Vec<Value> = value["status"]["storedVersions"].as_array().cloned().unwrap_or_default();
    for version in versions(&value).filter(|version| version["storage"] == json!(true)) {
        if !stored.contains(&version["name"]) {
            stored.push(version["name"].clone());
        }
    }
    let known = value["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let condition = |kind: &str, reason: &str, message: &str| {
        known.iter().find(|c| c["type"] == json!(kind) && c["status"] == json!("True")).cloned().unwrap_or_else(
            || json!({ "type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": object::now() }),
        )
    };
    let status = json!({
        "acceptedNames": value["spec"]["names"],
        "storedVersions": stored,
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    });
    definition.insert("status".to_owned(), status);
}
