//! Built-in kinds as their Kubernetes types: an object that a typed client could not read must not be stored, because
//! every watch of its kind would stumble over it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::object::Object;

/// Reads an object as its type; yields fields that the type does not know if `strict`, or what cannot be read.
pub type Check = fn(object: &Object, strict: bool) -> Result<Vec<String>, String>;

pub fn check<T: DeserializeOwned + Serialize>(object: &Object, strict: bool) -> Result<Vec<String>, String> {
    let typed: T = serde_path_to_error::deserialize(object).map_err(|e| e.to_string())?;
    if !strict {
        return Ok(Vec::new());
    }
    let known = serde_json::to_value(typed).map_err(|e| e.to_string())?;
    let mut unknown = Vec::new();
    for (field, value) in object {
        compare(field, value, known.get(field), &mut unknown);
    }
    Ok(unknown)
}

/// What the type kept nothing of, it does not know.
fn compare(path: &str, given: &Value, known: Option<&Value>, unknown: &mut Vec<String>) {
    match (given, known) {
        (Value::Null, _) => {}
        (_, None) => unknown.push(path.to_owned()),
        (Value::Object(given), Some(Value::Object(known))) => {
            for (field, value) in given {
                compare(&format!("{path}.{field}"), value, known.get(field), unknown);
            }
        }
        (Value::Array(given), Some(Value::Array(known))) => {
            for (at, (value, known)) in given.iter().zip(known).enumerate() {
                compare(&format!("{path}[{at}]"), value, Some(known), unknown);
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
        let Value::Object(pod) = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" }, "spec": spec }) else {
            panic!("an object")
        };
        check::<Pod>(&pod, true)
    }

    #[test]
    fn misfits_and_unknown_fields_are_named() {
        assert_eq!(checked(json!({ "containers": [{ "name": "c", "imagee": "x" }] })).unwrap(), ["spec.containers[0].imagee"]);
        assert_eq!(checked(json!({ "containers": [{ "name": "c" }], "hostNetwork": null })).unwrap(), Vec::<String>::new());
        let misfit = checked(json!({ "containers": [{ "name": 3 }] })).unwrap_err();
        assert!(misfit.starts_with("spec.containers[0].name: invalid type"), "{misfit}");
    }
}
