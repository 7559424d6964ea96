//! Strategic merge patch: like a merge patch, but lists whose items have a key are merged item by item.

use serde_json::{Map, Value, json};

use crate::error::Error;

/// Field above the list (`""`: any), the list, the key of its items (`""`: items are scalars).
pub const KEYED: &[(&str, &str, &str)] = &[
    ("", "containers", "name"),
    ("", "initContainers", "name"),
    ("", "ephemeralContainers", "name"),
    ("", "containerStatuses", "name"),
    ("containers", "env", "name"),
    ("initContainers", "env", "name"),
    ("containers", "ports", "containerPort"),
    ("initContainers", "ports", "containerPort"),
    ("spec", "ports", "port"),
    ("", "volumeMounts", "mountPath"),
    ("", "volumeDevices", "devicePath"),
    ("spec", "volumes", "name"),
    ("spec", "imagePullSecrets", "name"),
    ("", "imagePullSecrets", "name"),
    ("", "secrets", "name"),
    ("spec", "hostAliases", "ip"),
    ("spec", "topologySpreadConstraints", "topologyKey"),
    ("spec", "taints", "key"),
    ("spec", "podCIDRs", ""),
    ("status", "conditions", "type"),
    ("status", "addresses", "type"),
    ("status", "podIPs", "ip"),
    ("status", "hostIPs", "ip"),
    ("metadata", "ownerReferences", "uid"),
    ("metadata", "finalizers", ""),
];

fn key_of(parent: &str, field: &str) -> Option<&'static str> {
    KEYED.iter().find(|(p, f, _)| *f == field && (p.is_empty() || *p == parent)).map(|(_, _, key)| *key)
}

/// Applies `patch` to `object`.
pub fn merge(object: &mut Value, patch: &Value) -> Result<(), Error> {
    let Value::Object(patch) = patch else {
        return Err(Error::BadRequest("a strategic merge patch is an object".to_owned()));
    };
    match object {
        Value::Object(object) => merge_object(object, patch, ""),
        _ => Err(Error::BadRequest("only objects can be patched".to_owned())),
    }
}

fn merge_object(object: &mut Map<String, Value>, patch: &Map<String, Value>, parent: &str) -> Result<(), Error> {
    match patch.get("$patch").map(Value::as_str) {
        None => {}
        Some(Some("replace")) => {
            *object = patch.iter().filter(|(field, _)| *field != "$patch").map(|(f, v)| (f.clone(), v.clone())).collect();
            return Ok(());
        }
        Some(Some("delete")) => {
            object.clear();
            return Ok(());
        }
        Some(Some("merge")) => {}
        Some(_) => return Err(Error::BadRequest("unknown $patch directive: want replace, merge or delete".to_owned())),
    }
    if let Some(kept) = patch.get("$retainKeys") {
        let kept = kept.as_array().ok_or_else(|| Error::BadRequest("$retainKeys is not a list".to_owned()))?;
        object.retain(|field, _| kept.iter().any(|k| k == field));
    }
    for (field, value) in patch {
        if let Some(list) = field.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().ok_or_else(|| Error::BadRequest(format!("{field} is not a list")))?;
            if let Some(items) = object.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
        } else if !field.starts_with('$') {
            merge_field(object, field, value, parent)?;
        }
    }
    for (field, order) in patch {
        if let Some(list) = field.strip_prefix("$setElementOrder/")
            && let (Some(items), Some(order), Some(key)) =
                (object.get_mut(list).and_then(Value::as_array_mut), order.as_array(), key_of(parent, list))
        {
            reorder(items, order, key);
        }
    }
    Ok(())
}

fn merge_field(object: &mut Map<String, Value>, field: &str, value: &Value, parent: &str) -> Result<(), Error> {
    match value {
        Value::Null => {
            object.remove(field);
        }
        Value::Object(patch) => {
            if patch.get("$patch") == Some(&json!("delete")) {
                object.remove(field);
                return Ok(());
            }
            let slot = object.entry(field.to_owned()).or_insert_with(|| json!({}));
            if !slot.is_object() {
                *slot = json!({});
            }
            if let Value::Object(inner) = slot {
                merge_object(inner, patch, field)?;
            }
        }
        Value::Array(patch) => match key_of(parent, field) {
            Some(key) => {
                let slot = object.entry(field.to_owned()).or_insert_with(|| json!([]));
                if !slot.is_array() {
                    *slot = json!([]);
                }
                if let Value::Array(items) = slot {
                    merge_list(items, patch, key, field)?;
                }
            }
            None => {
                object.insert(field.to_owned(), value.clone());
            }
        },
        scalar => {
            object.insert(field.to_owned(), scalar.clone());
        }
    }
    Ok(())
}

fn merge_list(items: &mut Vec<Value>, patch: &[Value], key: &str, field: &str) -> Result<(), Error> {
    if key.is_empty() {
        items.extend(patch.iter().filter(|item| !items.contains(item)).cloned().collect::<Vec<_>>());
        return Ok(());
    }
    if patch.iter().any(|item| item.get("$patch") == Some(&json!("replace"))) {
        *items = patch.iter().filter(|item| item.get("$patch").is_none()).cloned().collect();
        return Ok(());
    }
    for item in patch {
        let Value::Object(change) = item else {
            return Err(Error::BadRequest(format!("an item of {field} is not an object")));
        };
        let name = change.get(key).ok_or_else(|| Error::BadRequest(format!("an item of {field} lacks its merge key {key}")))?;
        let known = items.iter().position(|item| item.get(key) == Some(name));
        if change.get("$patch") == Some(&json!("delete")) {
            items.retain(|item| item.get(key) != Some(name));
            continue;
        }
        match known.and_then(|at| items.get_mut(at)).and_then(Value::as_object_mut) {
            Some(existing) => merge_object(existing, change, field)?,
            None => {
                let mut fresh = Map::new();
                merge_object(&mut fresh, change, field)?;
                items.push(Value::Object(fresh));
            }
        }
    }
    Ok(())
}

/// Puts the items that `order` names in that order; others keep their place after them.
fn reorder(items: &mut [Value], order: &[Value], key: &str) {
    let rank = |item: &Value| {
        let same = |wanted: &Value| if key.is_empty() { wanted == item } else { wanted.get(key) == item.get(key) };
        order.iter().position(same).unwrap_or(order.len())
    };
    items.sort_by_key(rank);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(mut object: Value, patch: Value) -> Value {
        merge(&mut object, &patch).unwrap();
        object
    }

    #[test]
    fn keyed_lists_merge_and_others_are_replaced() {
        let pod = json!({ "spec": { "containers": [{ "name": "a", "image": "1", "args": ["x"] }, { "name": "b" }] } });
        let patch = json!({ "spec": { "containers": [{ "name": "a", "args": ["y"] }, { "name": "c" }] } });
        let wanted = json!({ "spec": { "containers": [{ "name": "a", "image": "1", "args": ["y"] }, { "name": "b" }, { "name": "c" }] } });
        assert_eq!(patched(pod, patch), wanted);
    }

    #[test]
    fn directives_delete_replace_retain_and_order() {
        let pod = json!({ "spec": { "volumes": [{ "name": "a", "hostPath": {} }, { "name": "b" }], "x": { "k": 1, "l": 2 } }, "metadata": { "finalizers": ["p", "q"] } });
        let patch = json!({
            "spec": {
                "volumes": [{ "name": "b", "$patch": "delete" }, { "name": "c" }],
                "$setElementOrder/volumes": [{ "name": "c" }, { "name": "a" }],
                "x": { "$retainKeys": ["l"], "m": 3 },
            },
            "metadata": { "$deleteFromPrimitiveList/finalizers": ["p"], "finalizers": ["r"] },
        });
        let wanted = json!({
            "spec": { "volumes": [{ "name": "c" }, { "name": "a", "hostPath": {} }], "x": { "l": 2, "m": 3 } },
            "metadata": { "finalizers": ["q", "r"] },
        });
        assert_eq!(patched(pod, patch), wanted);
    }

    #[test]
    fn garbage_is_refused() {
        let mut object = json!({ "spec": { "containers": [] } });
        assert!(merge(&mut object, &json!([])).is_err());
        assert!(merge(&mut object, &json!({ "spec": { "containers": [1] } })).is_err());
        assert!(merge(&mut object, &json!({ "spec": { "containers": [{}] } })).is_err());
    }
}
