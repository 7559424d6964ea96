//! Merging a configuration into an object, and taking fields out of one.
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy>

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::field_set::FieldSet;
use super::schema::{List, Schema};

/// The live value with the configuration laid over it.
pub fn merge(live: Option<&Value>, config: &Value, schema: Schema<'_>) -> Value {
    match config {
        Value::Object(config) if !schema.is_atomic_map() => {
            let mut merged = live.and_then(Value::as_object).cloned().unwrap_or_default();
            for (name, value) in config {
                let schema = schema.field(name);
                if value.is_null() && !schema.keeps_null() {
                    merged.remove(name);
                } else {
                    let value = merge(merged.get(name), value, schema);
                    merged.insert(name.clone(), value);
                }
            }
            Value::Object(merged)
        }
        Value::Array(config) if schema.list() != List::Atomic => {
            let list = schema.list();
            let live = live.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            match (list.elements(live), list.elements(config)) {
                (Ok(known), Ok(wanted)) => Value::Array(merge_lists((live, &known), (config, &wanted), schema.item())),
                _ => Value::Array(config.clone()),
            }
        }
        _ => config.clone(),
    }
}

/// Both lists in one: items of the configuration in its order, others where they stood among those that both have.
fn merge_lists(live: (&[Value], &[String]), config: (&[Value], &[String]), schema: Schema<'_>) -> Vec<Value> {
    let ((items, known), (changes, wanted)) = (live, config);
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, element) in known.iter().enumerate() {
        places.entry(element).or_insert(at);
    }
    let of_both: Vec<&String> = wanted.iter().filter(|element| places.contains_key(element.as_str())).collect();
    let (mut left, mut right, mut shared) = (0, 0, 0);
    let mut merged = Vec::with_capacity(items.len().max(changes.len()));
    while left < items.len() || right < changes.len() {
        if left < items.len() {
            let wanted_too = wanted.contains(&known[left]);
            if !wanted_too {
                merged.push(items[left].clone());
                left += 1;
                continue;
            }
            // An item of both stands where the configuration has it: merged already, or not yet its turn.
            if right >= changes.len() || known[left] != wanted[right] && of_both.get(shared) != Some(&&known[left]) {
                left += 1;
                continue;
            }
        }
        let same = places.get(wanted[right].as_str()).map(|at| &items[*at]);
        merged.push(merge(same, &changes[right], schema));
        if of_both.get(shared) == Some(&&wanted[right]) {
            shared += 1;
        }
        if known.get(left) == Some(&wanted[right]) {
            left += 1;
        }
        right += 1;
    }
    merged
}

/// Takes the members of a set out of an object. A container that this empties goes, too.
pub fn remove(object: &mut Map<String, Value>, set: &FieldSet, schema: Schema<'_>) {
    object.retain(|name, value| match set.get(&format!("f:{name}")) {
        None => true,
        Some(set) if set.has_here() => false,
        Some(set) => remove_inside(value, set, schema.field(name)),
    });
}

/// Whether anything is left.
fn remove_inside(value: &mut Value, set: &FieldSet, schema: Schema<'_>) -> bool {
    match value {
        Value::Object(fields) if !schema.is_atomic_map() && !fields.is_empty() => {
            remove(fields, set, schema);
            !fields.is_empty()
        }
        Value::Array(items) if !items.is_empty() => {
            let Ok(elements) = schema.list().elements(items) else { return true };
            let mut elements = elements.iter();
            items.retain_mut(|item| match elements.next().and_then(|element| set.get(element)) {
                None => true,
                Some(set) if set.has_here() => false,
                Some(set) => remove_inside(item, set, schema.item()),
            });
            !items.is_empty()
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const SPEC: Schema<'static> = Schema::BuiltIn { above: "", field: "spec", item: false };

    fn named(names: &[&str]) -> Value {
        json!({ "containers": names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>() })
    }

    #[test]
    fn items_of_the_configuration_keep_its_order_and_others_their_place() {
        for (live, config, wanted) in [
            (&["a", "b", "c"][..], &["b", "d"][..], &["a", "b", "c", "d"][..]),
            (&["a", "b", "c"], &["c", "a"], &["b", "c", "a"]),
            (&[], &["b", "a"], &["b", "a"]),
            (&["a", "x", "b"], &["b", "a"], &["x", "b", "a"]),
            (&["a"], &[], &["a"]),
        ] {
            assert_eq!(merge(Some(&named(live)), &named(config), SPEC), named(wanted), "{live:?} + {config:?}");
        }
    }

    #[test]
    fn maps_are_merged_atomic_ones_and_lists_replaced_and_nulls_remove() {
        let live = json!({ "a": { "x": 1, "y": 2 }, "nodeSelector": { "k": "v" }, "tolerations": [1], "z": 1 });
        let config = json!({ "a": { "x": 3 }, "nodeSelector": { "l": "w" }, "tolerations": [2, 3], "z": null });
        let wanted = json!({ "a": { "x": 3, "y": 2 }, "nodeSelector": { "l": "w" }, "tolerations": [2, 3] });
        assert_eq!(merge(Some(&live), &config, SPEC), wanted);
    }

    #[test]
    fn what_is_emptied_goes() {
        let Value::Object(mut spec) = json!({ "containers": [{ "name": "a" }], "x": { "y": 1, "z": 2 }, "e": {} }) else {
            panic!("an object")
        };
        let set = json!({ "f:containers": { "k:{\"name\":\"a\"}": {} }, "f:x": { "f:y": {} }, "f:e": { "f:q": {} } });
        remove(&mut spec, &serde_json::from_value(set).unwrap(), SPEC);
        assert_eq!(Value::Object(spec), json!({ "x": { "z": 2 }, "e": {} }));
    }

    proptest! {
        #[test]
        fn every_item_is_there_once(live in proptest::collection::btree_set("[a-f]", 0..6), config in proptest::collection::vec("[a-f]", 0..6)) {
            let mut config: Vec<&str> = config.iter().map(String::as_str).collect();
            let mut seen = std::collections::BTreeSet::new();
            config.retain(|name| seen.insert(*name));
            let live: Vec<&str> = live.iter().map(String::as_str).collect();
            let merged = merge(Some(&named(&live)), &named(&config), SPEC);
            let names: Vec<&str> = merged["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
            let mut sorted = names.clone();
            sorted.sort_unstable();
            let all: std::collections::BTreeSet<_> = live.iter().chain(&config).copied().collect();
            prop_assert_eq!(sorted, all.into_iter().collect::<Vec<_>>());
            let order: Vec<_> = names.into_iter().filter(|name| config.contains(name)).collect();
            prop_assert_eq!(order, config);
        }
    }
}
