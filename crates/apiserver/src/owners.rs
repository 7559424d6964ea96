//! Owner references and the finalizers that ask the garbage collector for something, as metadata carries them.

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Value, json};

use crate::error::Cause;
use crate::object::{self, Object};

/// Asks that dependents which block the object go first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Asks that dependents lose their reference to the object, and stay.
pub const ORPHAN: &str = "orphan";

/// Stands among the references of an object that waits for the collector: no uid is empty.
const COLLECTOR: &str = "";

/// What becomes of the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Background,
    Foreground,
    Orphan,
}

impl Policy {
    /// The policy that the object's finalizers ask for.
    pub fn of(object: &Object) -> Self {
        let finalizers = object::finalizers(object);
        if finalizers.contains(&ORPHAN) {
            Self::Orphan
        } else if finalizers.contains(&FOREGROUND) {
            Self::Foreground
        } else {
            Self::Background
        }
    }

    /// Sets the finalizers of an object that is deleted with this policy.
    pub fn set(self, object: &mut Object) {
        let mut finalizers: Vec<_> =
            object::finalizers(object).into_iter().filter(|f| ![FOREGROUND, ORPHAN].contains(f)).map(str::to_owned).collect();
        match self {
            Self::Background => {}
            Self::Foreground => finalizers.push(FOREGROUND.to_owned()),
            Self::Orphan => finalizers.push(ORPHAN.to_owned()),
        }
        object::set_meta(object, "finalizers", if finalizers.is_empty() { None } else { Some(json!(finalizers)) });
    }
}

/// Who owns an object, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    /// Whether the owner's foreground deletion waits for this object.
    pub blocks: bool,
}

fn listed(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["ownerReferences"].as_array().into_iter().flatten()
}

pub fn owners(object: &Object) -> Vec<Owner> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let owner = |reference: &Value| {
        let api_version = text(&reference["apiVersion"]);
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        Owner {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: text(&reference["kind"]),
            name: text(&reference["name"]),
            uid: text(&reference["uid"]),
            blocks: reference["blockOwnerDeletion"] == json!(true),
        }
    };
    listed(object.get("metadata").unwrap_or(&Value::Null)).map(owner).collect()
}

/// Changes the references to the owners that `which` picks: keeps those for which `change` says so.
pub fn change_owners(object: &mut Object, which: impl Fn(&str) -> bool, change: impl Fn(&mut Value) -> bool) {
    let Some(list) = object.get_mut("metadata").and_then(|m| m.get_mut("ownerReferences")).and_then(Value::as_array_mut) else {
        return;
    };
    list.retain_mut(|reference| !reference["uid"].as_str().is_some_and(&which) || change(reference));
    if list.is_empty() {
        object::set_meta(object, "ownerReferences", None);
    }
}

/// Whether an object that is being deleted waits for the collector.
pub fn awaits_collector(object: &Object) -> bool {
    object::is_terminating(object) && Policy::of(object) != Policy::Background
}

/// What the store's index finds the object by: the uids of its owners, and whether it waits for the collector.
pub fn references(metadata: &Value) -> Vec<String> {
    let mut found: Vec<String> = listed(metadata).filter_map(|owner| owner["uid"].as_str()).map(str::to_owned).collect();
    let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
    if metadata["deletionTimestamp"].is_string()
        && finalizers.filter_map(Value::as_str).any(|finalizer| [FOREGROUND, ORPHAN].contains(&finalizer))
    {
        found.push(COLLECTOR.to_owned());
    }
    found.sort();
    found.dedup();
    found
}

/// [`references`] of a stored object. Metadata come first in it, and the rest is not read.
pub fn references_in(bytes: &[u8]) -> Vec<String> {
    struct Metadata<'a>(&'a mut Value);
    impl<'de> Visitor<'de> for Metadata<'_> {
        type Value = ();

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
            while let Some(field) = map.next_key::<String>()? {
                if field == "metadata" {
                    *self.0 = map.next_value()?;
                    return Ok(());
                }
                map.next_value::<IgnoredAny>()?;
            }
            Ok(())
        }
    }
    let mut metadata = Value::Null;
    // The parser complains of the rest that was left unread.
    let _ = serde_json::Deserializer::from_slice(bytes).deserialize_map(Metadata(&mut metadata));
    references(&metadata)
}

/// What is wrong with an object's owner references.
pub fn check(metadata: &Value) -> Vec<Cause> {
    const FIELD: &str = "metadata.ownerReferences";
    let list = &metadata["ownerReferences"];
    if !list.is_null() && !list.is_array() {
        return vec![Cause::invalid(FIELD, list, "must be a list")];
    }
    let mut causes = Vec::new();
    let mut controller: Option<&Value> = None;
    for reference in listed(metadata) {
        for (field, called) in [("apiVersion", "version"), ("kind", "kind"), ("name", "name"), ("uid", "uid")] {
            if reference[field].as_str().is_none_or(str::is_empty) {
                let value = reference.get(field).cloned().unwrap_or_else(|| json!(""));
                causes.push(Cause::invalid(format!("{FIELD}.{field}"), &value, format!("{called} must not be empty")));
            }
        }
        if reference["controller"] == json!(true) {
            if let Some(first) = controller {
                let both = format!("{} and {}", first["name"].as_str().unwrap_or_default(), reference["name"].as_str().unwrap_or_default());
                let why = format!("Only one reference can have Controller set to true. Found \"true\" in references for {both}");
                causes.push(Cause::invalid(FIELD, list, why));
            }
            controller = Some(reference);
        }
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_bytes_and_the_object_refer_to_the_same() {
        let Value::Object(object) = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": { "metadata": { "ownerReferences": [{ "uid": "no" }] } },
            "metadata": {
                "name": "a", "ownerReferences": [{ "uid": "u" }, { "uid": "v" }], "finalizers": ["x", "orphan"],
                "deletionTimestamp": "2026-01-01T00:00:00Z",
            },
        }) else {
            panic!("an object")
        };
        let bytes = object::encode(&object).unwrap().with_rv(1);
        assert_eq!(references_in(&bytes), ["", "u", "v"]);
        assert_eq!(references(&object["metadata"]), references_in(&bytes));
        assert_eq!(references_in(b"[]"), Vec::<String>::new());
    }

    #[test]
    fn a_reference_needs_all_its_parts_and_there_is_one_controller() {
        let reference = |name: &str| json!({ "apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u", "controller": true });
        assert!(check(&json!({ "ownerReferences": [reference("a")] })).is_empty());
        let causes = check(&json!({ "ownerReferences": [reference("a"), reference("")] }));
        assert_eq!(causes.len(), 2, "{causes:?}");
    }
}
