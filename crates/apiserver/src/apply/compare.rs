//! The fields that a configuration names, and those in which two versions of an object differ.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::field_set::{FieldSet, shown};
use super::schema::{List, Schema};

/// What identifies an object or is the server's own: nobody owns it.
const UNOWNED: &[&[&str]] = &[
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:resourceVersion"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:selfLink"],
];

/// Removes what nobody owns.
pub fn strip(set: &mut FieldSet) {
    for path in UNOWNED {
        set.remove(path);
    }
}

/// The fields of a configuration, or what in it contradicts the schema: `.spec.ports: duplicate entries for key […]`.
pub fn fields(config: &Value, schema: Schema<'_>) -> Result<FieldSet, String> {
    let mut set = fields_at(config, schema, "")?;
    strip(&mut set);
    Ok(set)
}

fn fields_at(value: &Value, schema: Schema<'_>, path: &str) -> Result<FieldSet, String> {
    let mut set = FieldSet::default();
    match value {
        Value::Object(fields) if !schema.is_atomic_map() => {
            for (name, value) in fields {
                let mut inner = fields_at(value, schema.field(name), &format!("{path}.{name}"))?;
                // Nothing below it would show that it is wanted; and keys of a map are items, as those of a list are.
                if value.is_null() || value.as_object().is_some_and(Map::is_empty) || !schema.declares(name) {
                    inner.add_here();
                }
                set.put(format!("f:{name}"), inner);
            }
        }
        Value::Array(items) if schema.list() != List::Atomic => {
            let elements = schema.list().elements(items).map_err(|why| format!("{path}: {why}"))?;
            for (element, item) in elements.into_iter().zip(items) {
                if set.get(&element).is_some() {
                    return Err(format!("{path}: duplicate entries for key {}", shown(&element)));
                }
                let mut inner = fields_at(item, schema.item(), &format!("{path}{}", shown(&element)))?;
                inner.add_here();
                set.put(element, inner);
            }
        }
        _ => set.add_here(),
    }
    Ok(set)
}

/// Where two versions differ.
#[derive(Debug, Default)]
pub struct Changes {
    /// Set anew or to another value.
    pub set: FieldSet,
    pub removed: FieldSet,
}

impl Changes {
    fn put(&mut self, element: &str, inner: Self) {
        if !inner.set.is_empty() {
            self.set.put(element.to_owned(), inner.set);
        }
        if !inner.removed.is_empty() {
            self.removed.put(element.to_owned(), inner.removed);
        }
    }

    fn put_field(&mut self, name: &str, inner: Self) {
        if !inner.set.is_empty() || !inner.removed.is_empty() {
            self.put(&format!("f:{name}"), inner);
        }
    }
}

/// The changes from one object to another, but for what nobody owns.
pub fn changes(old: &Map<String, Value>, new: &Map<String, Value>, schema: Schema<'_>) -> Changes {
    let mut found = Changes::default();
    of_maps(Some(old), Some(new), schema, &mut found);
    strip(&mut found.set);
    strip(&mut found.removed);
    found
}

fn of_values(old: Option<&Value>, new: Option<&Value>, schema: Schema<'_>) -> Changes {
    let (old, new) = (old.filter(|v| !v.is_null()), new.filter(|v| !v.is_null()));
    let mut found = Changes::default();
    // A scalar may have the name of what is always there, as a condition's `status` has.
    let always = schema.is_always_there() && old.or(new).is_some_and(|value| value.is_object() || value.is_array());
    match (old, new) {
        (None, None) => return found,
        (Some(old), Some(new)) if std::mem::discriminant(old) != std::mem::discriminant(new) => {
            found = of_values(Some(old), None, schema);
            found.set = of_values(None, Some(new), schema).set;
            return found;
        }
        (None, Some(_)) if !always => found.set.add_here(),
        (Some(_), None) if !always => found.removed.add_here(),
        _ => {}
    }
    match old.or(new) {
        Some(Value::Object(_)) if !schema.is_atomic_map() => {
            of_maps(old.and_then(Value::as_object), new.and_then(Value::as_object), schema, &mut found);
        }
        Some(Value::Array(_)) if of_lists(old, new, schema, &mut found) => {}
        _ if old.is_some() && new.is_some() && old != new => found.set.add_here(),
        _ => {}
    }
    found
}

fn of_maps(old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>, schema: Schema<'_>, found: &mut Changes) {
    for (name, value) in new.into_iter().flatten() {
        let inner = of_values(old.and_then(|old| old.get(name)), Some(value), schema.field(name));
        found.put_field(name, inner);
    }
    for (name, value) in old.into_iter().flatten().filter(|(name, _)| new.is_none_or(|new| !new.contains_key(*name))) {
        found.put_field(name, of_values(Some(value), None, schema.field(name)));
    }
}

/// Compares item by item; `false` if the lists are one value, or have items that cannot be told apart.
fn of_lists(old: Option<&Value>, new: Option<&Value>, schema: Schema<'_>, found: &mut Changes) -> bool {
    let list = schema.list();
    if list == List::Atomic {
        return false;
    }
    let (old, new) = (items_of(old), items_of(new));
    let (Ok(before), Ok(after)) = (list.elements(old), list.elements(new)) else { return false };
    let mut items: BTreeMap<String, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for (element, item) in before.into_iter().zip(old) {
        items.entry(element).or_default().0.push(item);
    }
    for (element, item) in after.into_iter().zip(new) {
        items.entry(element).or_default().1.push(item);
    }
    for (element, (old, new)) in items {
        let inner = if old.len() <= 1 && new.len() <= 1 {
            of_values(old.first().copied(), new.first().copied(), schema.item())
        } else {
            // Items that share their keys are one value.
            let mut inner = Changes::default();
            match (old.is_empty(), new.is_empty()) {
                (_, true) => inner.removed.add_here(),
                _ if old != new => inner.set.add_here(),
                _ => {}
            }
            inner
        };
        found.put(&element, inner);
    }
    true
}

fn items_of(list: Option<&Value>) -> &[Value] {
    list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const POD: Schema<'static> = Schema::BuiltIn { above: "", field: "", item: false };

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(object) = value else { panic!("an object") };
        object
    }

    #[test]
    fn a_configuration_owns_leaves_and_items_but_nothing_of_its_identity() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "a", "namespace": "b", "labels": { "app": "x" }, "finalizers": ["f"], "annotations": {} },
            "spec": { "tolerations": [{ "key": "a" }], "containers": [{ "name": "c", "ports": [{ "containerPort": 80 }] }] },
        });
        let wanted = json!({
            "f:metadata": { "f:annotations": {}, "f:finalizers": { "v:\"f\"": {} }, "f:labels": { "f:app": {} } },
            "f:spec": {
                "f:containers": { "k:{\"name\":\"c\"}": {
                    ".": {}, "f:name": {},
                    "f:ports": { "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:containerPort": {} } },
                } },
                "f:tolerations": {},
            },
        });
        assert_eq!(json!(fields(&pod, POD).unwrap()), wanted);
        let twice = json!({ "spec": { "containers": [{ "name": "c" }, { "name": "c" }] } });
        assert_eq!(fields(&twice, POD).unwrap_err(), ".spec.containers: duplicate entries for key [name=\"c\"]");
    }

    #[test]
    fn what_a_write_adds_carries_its_containers_and_what_it_removes_too() {
        let old = object(json!({ "data": { "a": "1", "b": "2" }, "spec": { "volumes": [{ "name": "v" }] } }));
        let new = object(json!({ "data": { "a": "2" }, "metadata": { "labels": { "l": "m" } }, "spec": {} }));
        let found = changes(&old, &new, POD);
        assert_eq!(found.set.paths(), [".data.a", ".metadata.labels", ".metadata.labels.l"]);
        let removed = [".data.b", ".spec.volumes", ".spec.volumes[name=\"v\"]", ".spec.volumes[name=\"v\"].name"];
        assert_eq!(found.removed.paths(), removed);
    }

    #[test]
    fn the_status_of_a_new_condition_is_owned_with_it() {
        let old = object(json!({ "status": { "phase": "Pending" } }));
        let new = object(json!({ "status": { "phase": "Pending", "conditions": [{ "type": "Ready", "status": "True" }] } }));
        let conditions = [
            ".status.conditions",
            ".status.conditions[type=\"Ready\"]",
            ".status.conditions[type=\"Ready\"].status",
            ".status.conditions[type=\"Ready\"].type",
        ];
        assert_eq!(changes(&old, &new, POD).set.paths(), conditions);
    }

    #[test]
    fn a_value_of_another_type_is_set_anew_and_shared_keys_are_one_value() {
        let old = object(json!({ "x": { "y": 1 }, "status": { "addresses": [{ "type": "a", "v": 1 }, { "type": "a", "v": 2 }] } }));
        let new = object(json!({ "x": "z", "status": { "addresses": [{ "type": "a", "v": 1 }, { "type": "a", "v": 3 }] } }));
        let found = changes(&old, &new, POD);
        assert_eq!(found.set.paths(), [".status.addresses[type=\"a\"]", ".x"]);
        assert_eq!(found.removed.paths(), [".x", ".x.y"]);
    }
}
