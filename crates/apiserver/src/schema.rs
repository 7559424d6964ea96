//! Structural schemas of custom kinds: pruning of unknown fields and validation of values (OpenAPI v3 as in CRDs).

use regex::Regex;
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};

use crate::error::Cause;

fn on(schema: &Value, flag: &str) -> bool {
    schema.get(flag).and_then(Value::as_bool).unwrap_or(false)
}

fn child(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// Fields of every object that the schema need not mention.
fn is_type_or_metadata(field: &str) -> bool {
    matches!(field, "apiVersion" | "kind" | "metadata")
}

/// Removes what the schema does not know and nulls it does not allow; `unknown` gets the removed paths.
pub fn prune(schema: &Value, value: &mut Value, path: &str, root: bool, unknown: &mut Vec<String>) {
    match value {
        Value::Object(object) => prune_object(schema, object, path, root, unknown),
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (at, item) in items.iter_mut().enumerate() {
                    prune(schema, item, &format!("{path}[{at}]"), false, unknown);
                }
            }
        }
        _ => {}
    }
}

fn prune_object(schema: &Value, object: &mut Map<String, Value>, path: &str, root: bool, unknown: &mut Vec<String>) {
    let properties = schema.get("properties").and_then(Value::as_object);
    let additional = schema.get("additionalProperties").filter(|a| **a != Value::Bool(false));
    let open = on(schema, "x-kubernetes-preserve-unknown-fields");
    let embedded = root || on(schema, "x-kubernetes-embedded-resource");
    object.retain(|field, value| {
        if embedded && is_type_or_metadata(field) {
            return true;
        }
        let path = child(path, field);
        if let Some(schema) = properties.and_then(|p| p.get(field)) {
            if value.is_null() && !on(schema, "nullable") {
                return false;
            }
            prune(schema, value, &path, false, unknown);
            return true;
        }
        match additional {
            Some(schema) => {
                prune(schema, value, &path, false, unknown);
                true
            }
            None if open => true,
            None => {
                unknown.push(path);
                false
            }
        }
    });
}

/// The patterns of a schema, parsed once.
#[derive(Debug)]
pub struct Patterns(FxHashMap<String, Option<Regex>>);

impl Patterns {
    pub fn of(schema: &Value) -> Self {
        let mut found = Self(FxHashMap::default());
        found.gather(schema);
        found
    }

    fn gather(&mut self, schema: &Value) {
        match schema {
            Value::Object(map) => {
                if let Some(pattern) = map.get("pattern").and_then(Value::as_str) {
                    self.0.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).ok());
                }
                map.values().for_each(|v| self.gather(v));
            }
            Value::Array(items) => items.iter().for_each(|v| self.gather(v)),
            _ => {}
        }
    }

    fn matches(&self, pattern: &str, text: &str) -> bool {
        // A pattern that does not compile was refused with its definition.
        self.0.get(pattern).and_then(Option::as_ref).is_none_or(|regex| regex.is_match(text))
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() || n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Collects what is wrong with `value` under `schema`.
pub fn validate(schema: &Value, patterns: &Patterns, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && on(schema, "nullable") {
        return;
    }
    if !has_right_type(schema, value) {
        let wanted = schema.get("type").and_then(Value::as_str).unwrap_or("integer or string");
        let message = format!("{path} in body must be of type {wanted}: {:?}", type_name(value));
        causes.push(Cause { reason: "FieldValueTypeInvalid", ..Cause::invalid(path, value, message) });
        return;
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let allowed: Vec<_> = allowed.iter().map(Value::to_string).collect();
        causes.push(Cause {
            field: path.to_owned(),
            reason: "FieldValueNotSupported",
            message: format!("Unsupported value: {value}: supported values: {}", allowed.join(", ")),
        });
    }
    match value {
        Value::String(text) => validate_text(schema, patterns, value, text, path, causes),
        Value::Number(number) => validate_number(schema, value, number.as_f64().unwrap_or(0.0), path, causes),
        Value::Array(items) => validate_list(schema, patterns, value, items, path, causes),
        Value::Object(object) => validate_object(schema, patterns, value, object, path, causes),
        _ => {}
    }
    validate_combinations(schema, patterns, value, path, causes);
}

fn has_right_type(schema: &Value, value: &Value) -> bool {
    if on(schema, "x-kubernetes-int-or-string") {
        return matches!(type_name(value), "integer" | "string");
    }
    match schema.get("type").and_then(Value::as_str) {
        None => true,
        Some("number") => value.is_number(),
        // 1.0 is an integer in JSON Schema.
        Some("integer") => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        Some(wanted) => wanted == type_name(value),
    }
}

fn validate_text(schema: &Value, patterns: &Patterns, value: &Value, text: &str, path: &str, causes: &mut Vec<Cause>) {
    let length = text.chars().count() as u64;
    if let Some(max) = schema.get("maxLength").and_then(Value::as_u64)
        && length > max
    {
        causes.push(Cause {
            field: path.to_owned(),
            reason: "FieldValueTooLong",
            message: format!("Too long: may not be more than {max} bytes"),
        });
    }
    if let Some(min) = schema.get("minLength").and_then(Value::as_u64)
        && length < min
    {
        causes.push(Cause::invalid(path, value, format!("{path} in body should be at least {min} chars long")));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && !patterns.matches(pattern, text)
    {
        causes.push(Cause::invalid(path, value, format!("{path} in body should match '{pattern}'")));
    }
    if let Some(format) = schema.get("format").and_then(Value::as_str)
        && !has_format(format, text)
    {
        causes.push(Cause::invalid(path, value, format!("{path} in body must be of type {format}: {value}")));
    }
}

/// The formats that are cheap to check; others are documentation.
fn has_format(format: &str, text: &str) -> bool {
    match format {
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        "date-time" => text.parse::<k8s_openapi::jiff::Timestamp>().is_ok(),
        _ => true,
    }
}

fn validate_number(schema: &Value, value: &Value, number: f64, path: &str, causes: &mut Vec<Cause>) {
    let exclusive = |flag: &str| on(schema, flag);
    if let Some(min) = schema.get("minimum").and_then(Value::as_f64)
        && (number < min || (exclusive("exclusiveMinimum") && number <= min))
    {
        let relation = if exclusive("exclusiveMinimum") { "greater than" } else { "greater than or equal to" };
        causes.push(Cause::invalid(path, value, format!("{path} in body should be {relation} {min}")));
    }
    if let Some(max) = schema.get("maximum").and_then(Value::as_f64)
        && (number > max || (exclusive("exclusiveMaximum") && number >= max))
    {
        let relation = if exclusive("exclusiveMaximum") { "less than" } else { "less than or equal to" };
        causes.push(Cause::invalid(path, value, format!("{path} in body should be {relation} {max}")));
    }
    if let Some(step) = schema.get("multipleOf").and_then(Value::as_f64)
        && step > 0.0
        && (number / step).fract() != 0.0
    {
        causes.push(Cause::invalid(path, value, format!("{path} in body should be a multiple of {step}")));
    }
    let range = match schema.get("format").and_then(Value::as_str) {
        Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
        Some("uint32") => Some((0.0, f64::from(u32::MAX))),
        Some("uint16") => Some((0.0, f64::from(u16::MAX))),
        Some("uint8") => Some((0.0, f64::from(u8::MAX))),
        _ => None,
    };
    if range.is_some_and(|(min, max)| number < min || number > max) {
        let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
        causes.push(Cause::invalid(path, value, format!("{path} in body must be of type {format}")));
    }
}

fn validate_list(schema: &Value, patterns: &Patterns, value: &Value, items: &[Value], path: &str, causes: &mut Vec<Cause>) {
    let count = items.len() as u64;
    if let Some(max) = schema.get("maxItems").and_then(Value::as_u64)
        && count > max
    {
        let message = format!("Too many: {count}: must have at most {max} items");
        causes.push(Cause { field: path.to_owned(), reason: "FieldValueTooMany", message });
    }
    if let Some(min) = schema.get("minItems").and_then(Value::as_u64)
        && count < min
    {
        causes.push(Cause::invalid(path, value, format!("{path} in body should have at least {min} items")));
    }
    if let Some(schema) = schema.get("items") {
        for (at, item) in items.iter().enumerate() {
            validate(schema, patterns, item, &format!("{path}[{at}]"), causes);
        }
    }
    if schema.get("x-kubernetes-list-type").is_none() {
        return;
    }
    for (at, item) in items.iter().enumerate() {
        if items[..at].iter().any(|earlier| is_same_member(schema, earlier, item)) {
            let message = format!("Duplicate value: {item}");
            causes.push(Cause { field: format!("{path}[{at}]"), reason: "FieldValueDuplicate", message });
        }
    }
}

/// Whether two items are one member of a set or of a map (`x-kubernetes-list-type`).
fn is_same_member(schema: &Value, one: &Value, other: &Value) -> bool {
    match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => one == other,
        Some("map") => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            keys.is_some_and(|keys| keys.iter().filter_map(Value::as_str).all(|key| one.get(key) == other.get(key)))
        }
        _ => false,
    }
}

fn validate_object(schema: &Value, patterns: &Patterns, value: &Value, object: &Map<String, Value>, path: &str, causes: &mut Vec<Cause>) {
    for field in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !object.contains_key(field) {
            causes.push(Cause::required(child(path, field)));
        }
    }
    let count = object.len() as u64;
    if schema.get("maxProperties").and_then(Value::as_u64).is_some_and(|max| count > max)
        || schema.get("minProperties").and_then(Value::as_u64).is_some_and(|min| count < min)
    {
        causes.push(Cause::invalid(path, value, format!("{path} in body has the wrong number of properties: {count}")));
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let additional = schema.get("additionalProperties").filter(|a| a.is_object());
    for (field, value) in object {
        if let Some(schema) = properties.and_then(|p| p.get(field)).or(additional) {
            validate(schema, patterns, value, &child(path, field), causes);
        }
    }
}

fn validate_combinations(schema: &Value, patterns: &Patterns, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let fits = |schema: &Value| {
        let mut found = Vec::new();
        validate(schema, patterns, value, path, &mut found);
        found.is_empty()
    };
    let branches = |name: &str| schema.get(name).and_then(Value::as_array);
    for part in branches("allOf").into_iter().flatten() {
        validate(part, patterns, value, path, causes);
    }
    if branches("anyOf").is_some_and(|any| !any.iter().any(fits)) {
        causes.push(Cause::invalid(path, value, format!("{path} in body must validate at least one schema (anyOf)")));
    }
    if branches("oneOf").is_some_and(|one| one.iter().filter(|schema| fits(schema)).count() != 1) {
        causes.push(Cause::invalid(path, value, format!("{path} in body must validate one and only one schema (oneOf)")));
    }
    if schema.get("not").is_some_and(fits) {
        causes.push(Cause::invalid(path, value, format!("{path} in body must not validate the schema (not)")));
    }
}
