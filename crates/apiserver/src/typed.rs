//! Built-in kinds as their Kubernetes types: an object that a typed client could not read must not be stored, because
//! every watch of its kind would stumble over it.

use k8s_openapi::schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::object::Object;

/// Reads an object as its type; removes the fields that the type does not know and yields them, or says what cannot be read.
pub type Check = fn(object: &mut Object) -> Result<Vec<String>, String>;

/// What is known of a type at run time.
#[derive(Clone, Copy, Debug)]
pub struct Typed {
    pub check: Check,
    /// The name of its schema.
    pub name: fn() -> std::borrow::Cow<'static, str>,
    /// A reference to its schema, which the generator gets with all that it refers to.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

pub const fn of<T: DeserializeOwned + Serialize + JsonSchema>() -> Typed {
    Typed { check: check::<T>, name: T::schema_name, schema: SchemaGenerator::subschema_for::<T> }
}

fn check<T: DeserializeOwned + Serialize>(object: &mut Object) -> Result<Vec<String>, String> {
    let typed: T = serde_path_to_error::deserialize(&*object).map_err(|e| e.to_string())?;
    let mut unknown = Vec::new();
    if let Value::Object(known) = serde_json::to_value(typed).map_err(|e| e.to_string())? {
        prune(object, &known, "", &mut unknown);
    }
    Ok(unknown)
}

/// What the type kept nothing of, it does not know. A null says nothing, known or not.
fn prune(given: &mut Object, known: &Object, path: &str, unknown: &mut Vec<String>) {
    given.retain(|field, value| {
        let at = || if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
        match (value, known.get(field)) {
            (Value::Null, _) => true,
            (_, None) => {
                unknown.push(at());
                false
            }
            (value, Some(known)) => {
                if value.is_object() || value.is_array() {
                    prune_value(value, known, &at(), unknown);
                }
                true
            }
        }
    });
}

fn prune_value(given: &mut Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => prune(given, known, path, unknown),
        (Value::Array(given), Value::Array(known)) => {
            for (at, (value, known)) in given.iter_mut().zip(known).enumerate() {
                prune_value(value, known, &format!("{path}[{at}]"), unknown);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn checked(spec: Value) -> Result<Vec<String>, String> {
        let Value::Object(mut pod) = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" }, "spec": spec }) else {
            panic!("an object")
        };
        check::<Pod>(&mut pod)
    }

    #[test]
    fn misfits_and_unknown_fields_are_named() {
        assert_eq!(checked(json!({ "containers": [{ "name": "c", "imagee": "x" }] })).unwrap(), ["spec.containers[0].imagee"]);
        assert_eq!(checked(json!({ "containers": [{ "name": "c" }], "hostNetwork": null })).unwrap(), Vec::<String>::new());
        let misfit = checked(json!({ "containers": [{ "name": 3 }] })).unwrap_err();
        assert!(misfit.starts_with("spec.containers[0].name: invalid type"), "{misfit}");
    }
}
