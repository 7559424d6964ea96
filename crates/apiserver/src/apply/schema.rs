//! What a schema says about merging: which maps and lists are one value, and by what the items of the others are told apart.
//!
//! Custom kinds say it with `x-kubernetes-list-type`, `x-kubernetes-list-map-keys` and `x-kubernetes-map-type`; for built-in
//! kinds the tables here repeat the markers of their OpenAPI documents, by the names of fields.
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy>

use serde_json::{Map, Value, json};

use crate::kinds::Kind;

/// The place of a value in an object, as far as merging needs to know it.
#[derive(Clone, Copy, Debug)]
pub enum Schema<'a> {
    /// Part of a custom kind's schema; objects have type and metadata that it need not mention.
    Custom { schema: &'a Value, object: bool },
    /// A field of a built-in type and the field above it; of a list, or an item of it.
    BuiltIn { above: &'a str, field: &'a str, item: bool },
    /// Nothing is known: maps are merged, lists are one value.
    Open,
}

/// How the items of a list are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum List<'a> {
    Atomic,
    Set,
    /// By these fields, in alphabetical order, with what they are if left out.
    Keyed(Vec<(&'a str, Option<Value>)>),
}

/// Field above the list (`*`: any), the list, keys of its items.
const KEYED: &[(&str, &str, &[&str])] = &[
    ("*", "containers", &["name"]),
    ("*", "initContainers", &["name"]),
    ("*", "ephemeralContainers", &["name"]),
    ("containers", "ports", &["containerPort", "protocol"]),
    ("initContainers", "ports", &["containerPort", "protocol"]),
    ("ephemeralContainers", "ports", &["containerPort", "protocol"]),
    ("spec", "ports", &["port", "protocol"]),
    ("*", "env", &["name"]),
    ("*", "volumeMounts", &["mountPath"]),
    ("*", "volumeDevices", &["devicePath"]),
    ("resources", "claims", &["name"]),
    ("spec", "volumes", &["name"]),
    ("*", "imagePullSecrets", &["name"]),
    ("", "secrets", &["name"]),
    ("spec", "hostAliases", &["ip"]),
    ("spec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("spec", "schedulingGates", &["name"]),
    ("spec", "resourceClaims", &["name"]),
    ("status", "resourceClaimStatuses", &["name"]),
    ("status", "conditions", &["type"]),
    ("status", "addresses", &["type"]),
    ("status", "podIPs", &["ip"]),
    ("metadata", "ownerReferences", &["uid"]),
];

/// Field above, list of scalars.
const SETS: &[(&str, &str)] = &[("metadata", "finalizers"), ("spec", "podCIDRs")];

/// Field above (`*`: any), map that is one value: references and selectors.
const ATOMIC: &[(&str, &str)] = &[
    ("spec", "selector"),
    ("*", "labelSelector"),
    ("*", "podSelector"),
    ("*", "namespaceSelector"),
    ("*", "nodeSelector"),
    ("nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"),
    ("*", "configMapKeyRef"),
    ("*", "secretKeyRef"),
    ("*", "fieldRef"),
    ("*", "resourceFieldRef"),
    ("*", "fileKeyRef"),
    ("*", "secretRef"),
    ("*", "nodePublishSecretRef"),
    ("*", "involvedObject"),
    ("*", "related"),
];

/// Lists whose items are references, each one value.
const ATOMIC_ITEMS: &[&str] = &["ownerReferences", "imagePullSecrets", "secrets"];

/// Fields that objects of built-in types have even when nothing is in them, so that no write adds them.
const ALWAYS: &[&str] = &["metadata", "spec", "status", "template", "containers", "strategy", "updateStrategy"];

fn listed(table: &[(&str, &str)], above: &str, field: &str) -> bool {
    table.iter().any(|(a, f)| *f == field && (*a == "*" || *a == above))
}

fn marker<'a>(schema: &'a Value, name: &str) -> Option<&'a str> {
    schema.get(name).and_then(Value::as_str)
}

impl<'a> Schema<'a> {
    /// The schema of a kind's objects.
    pub fn of(kind: &'a Kind) -> Self {
        match &kind.admission {
            Some(admission) => Self::Custom { schema: &admission.schema, object: true },
            None => Self::BuiltIn { above: "", field: "", item: false },
        }
    }

    pub fn field(self, name: &'a str) -> Self {
        match self {
            Self::Open => Self::Open,
            Self::BuiltIn { field, .. } => Self::BuiltIn { above: field, field: name, item: false },
            Self::Custom { object: true, .. } if name == "metadata" => Self::BuiltIn { above: "", field: name, item: false },
            Self::Custom { schema, .. } => {
                let known = schema.get("properties").and_then(|p| p.get(name));
                known.or_else(|| schema.get("additionalProperties").filter(|a| a.is_object())).map_or(Self::Open, Self::custom)
            }
        }
    }

    pub fn item(self) -> Self {
        match self {
            Self::Open => Self::Open,
            Self::BuiltIn { above, field, .. } => Self::BuiltIn { above, field, item: true },
            Self::Custom { schema, .. } => schema.get("items").map_or(Self::Open, Self::custom),
        }
    }

    fn custom(schema: &'a Value) -> Self {
        let object = schema.get("x-kubernetes-embedded-resource").and_then(Value::as_bool).unwrap_or(false);
        Self::Custom { schema, object }
    }

    /// Whether the field is declared, rather than a key of a map.
    pub fn declares(self, name: &str) -> bool {
        match self {
            Self::Open => false,
            Self::BuiltIn { .. } => true,
            Self::Custom { object: true, .. } if matches!(name, "metadata" | "apiVersion" | "kind") => true,
            Self::Custom { schema, .. } => schema.get("properties").is_some_and(|p| p.get(name).is_some()),
        }
    }

    /// Whether the field is there even when nothing is in it.
    pub fn is_always_there(self) -> bool {
        matches!(self, Self::BuiltIn { field, item: false, .. } if ALWAYS.contains(&field))
    }

    /// Whether a null may be stored.
    pub fn keeps_null(self) -> bool {
        !matches!(self, Self::BuiltIn { .. })
    }

    /// Whether a map is one value.
    pub fn is_atomic_map(self) -> bool {
        match self {
            Self::Open => false,
            Self::BuiltIn { field, item: true, .. } => ATOMIC_ITEMS.contains(&field),
            Self::BuiltIn { above, field, .. } => listed(ATOMIC, above, field),
            Self::Custom { schema, .. } => marker(schema, "x-kubernetes-map-type") == Some("atomic"),
        }
    }

    pub fn list(self) -> List<'a> {
        match self {
            Self::Open | Self::BuiltIn { item: true, .. } => List::Atomic,
            Self::BuiltIn { above, field, .. } => {
                if listed(SETS, above, field) {
                    return List::Set;
                }
                let keyed = KEYED.iter().find(|(a, f, _)| *f == field && (*a == "*" || *a == above));
                let default = |key: &str| (key == "protocol").then(|| json!("TCP"));
                keyed.map_or(List::Atomic, |(.., keys)| List::Keyed(keys.iter().map(|key| (*key, default(key))).collect()))
            }
            Self::Custom { schema, .. } => match marker(schema, "x-kubernetes-list-type") {
                Some("set") => List::Set,
                Some("map") => {
                    let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                    let of_item = |key: &str| schema.get("items")?.get("properties")?.get(key)?.get("default").cloned();
                    let mut keys: Vec<_> = keys.into_iter().flatten().filter_map(Value::as_str).map(|key| (key, of_item(key))).collect();
                    keys.sort_by_key(|(key, _)| *key);
                    List::Keyed(keys)
                }
                _ => List::Atomic,
            },
        }
    }
}

impl List<'_> {
    /// The path elements of the items; says which item has none, and why.
    pub fn elements(&self, items: &[Value]) -> Result<Vec<String>, String> {
        items.iter().enumerate().map(|(at, item)| self.element(item).map_err(|why| format!("element {at}: {why}"))).collect()
    }

    fn element(&self, item: &Value) -> Result<String, String> {
        let Self::Keyed(names) = self else {
            return if item.is_null() { Err("an item of a set must not be null".to_owned()) } else { Ok(format!("v:{item}")) };
        };
        let Value::Object(fields) = item else {
            return Err("an item of a list with keys must be an object".to_owned());
        };
        let mut keys = Map::new();
        for (name, default) in names {
            let value = fields.get(*name).filter(|value| !value.is_null()).or(default.as_ref());
            let Some(value) = value else {
                return Err(format!("associative list with keys has an element that omits key field {name:?}"));
            };
            keys.insert((*name).to_owned(), value.clone());
        }
        Ok(format!("k:{}", Value::Object(keys)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategic;

    /// Lists that a strategic merge patch merges, but of which apply makes one value, as the published schemas have it.
    const ONE_VALUE_FOR_APPLY: [&str; 3] = ["containerStatuses", "taints", "hostIPs"];

    #[test]
    fn lists_that_strategic_patches_merge_are_merged_by_apply_with_the_same_key_first() {
        for (above, field, key) in strategic::KEYED {
            let above = if above.is_empty() && *field != "secrets" { "spec" } else { above };
            let list = Schema::BuiltIn { above, field, item: false }.list();
            match list {
                List::Atomic => assert!(ONE_VALUE_FOR_APPLY.contains(field), "{above}.{field}"),
                List::Set => assert_eq!(*key, "", "{above}.{field}"),
                List::Keyed(keys) => assert_eq!(keys[0].0, *key, "{above}.{field}"),
            }
        }
    }

    #[test]
    fn keys_are_sorted_and_filled_in() {
        let ports = Schema::BuiltIn { above: "containers", field: "ports", item: false }.list();
        assert_eq!(ports.elements(&[json!({ "containerPort": 80 })]).unwrap(), ["k:{\"containerPort\":80,\"protocol\":\"TCP\"}"]);
        let why = ports.elements(&[json!({ "protocol": "TCP" })]).unwrap_err();
        assert_eq!(why, "element 0: associative list with keys has an element that omits key field \"containerPort\"");
    }
}
