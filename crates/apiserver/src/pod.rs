//! Pods: what the server fills in of them, what is wrong with them, and what of their spec may change.

use serde_json::{Value, json};

use crate::builtin::{LABEL, is_label};
use crate::error::Cause;
use crate::object::Object;

/// Fills in what clients may leave out.
pub fn default(pod: &mut Object) {
    if let Some(spec) = pod.get_mut("spec") {
        default_spec(spec);
    }
}

fn default_spec(spec: &mut Value) {
    let Some(spec) = spec.as_object_mut() else { return };
    spec.entry("terminationGracePeriodSeconds").or_insert_with(|| json!(30));
    for (field, value) in [("restartPolicy", "Always"), ("dnsPolicy", "ClusterFirst"), ("schedulerName", "default-scheduler")] {
        spec.entry(field).or_insert_with(|| json!(value));
    }
    let containers = spec.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten();
    for port in containers.filter_map(|c| c.get_mut("ports")?.as_array_mut()).flatten().filter_map(Value::as_object_mut) {
        port.entry("protocol").or_insert_with(|| json!("TCP"));
    }
}

/// What is wrong with a pod, or with the change from `old` to it.
pub fn check(pod: &Object, old: Option<&Object>) -> Vec<Cause> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let Some(containers) = spec["containers"].as_array().filter(|containers| !containers.is_empty()) else {
        return vec![Cause::required("spec.containers")];
    };
    let mut causes = Vec::new();
    for (at, container) in containers.iter().enumerate() {
        let name = &container["name"];
        if !name.as_str().is_some_and(is_label) {
            causes.push(Cause::invalid(format!("spec.containers[{at}].name"), name, LABEL));
        } else if containers[..at].iter().any(|earlier| earlier["name"] == *name) {
            let message = format!("Duplicate value: {name}");
            causes.push(Cause { field: format!("spec.containers[{at}].name"), reason: "FieldValueDuplicate", message });
        }
    }
    if let Some(old) = old.and_then(|old| old.get("spec")).filter(|old| *old != spec) {
        causes.extend(check_change(old, spec));
    }
    causes
}

fn check_change(old: &Value, new: &Value) -> Option<Cause> {
    let count = |spec: &Value| spec["containers"].as_array().map_or(0, Vec::len);
    if count(old) != count(new) {
        return Some(Cause::forbidden("spec.containers", "pod updates may not add or remove containers"));
    }
    if old["nodeName"].is_string() && old["nodeName"] != new["nodeName"] {
        return Some(Cause::forbidden("spec.nodeName", "pod updates may not move a pod that is bound to a node"));
    }
    let left = tolerations(new);
    if !tolerations(old).iter().all(|toleration| left.contains(toleration)) {
        return Some(Cause::forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds"));
    }
    let (old, new) = (unchangeable(old), unchangeable(new));
    let fields = |spec: &Value| spec.as_object().into_iter().flatten().map(|(field, _)| field.clone()).collect::<Vec<_>>();
    let mut changed: Vec<_> = fields(&old).into_iter().chain(fields(&new)).filter(|field| old[field] != new[field]).collect();
    changed.sort();
    changed.dedup();
    let allowed = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
                   additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    let why = || format!("pod updates may not change fields other than {allowed}: found {}", changed.join(", "));
    (!changed.is_empty()).then(|| Cause::forbidden("spec", why()))
}

/// Tolerations without the seconds, which may change.
fn tolerations(spec: &Value) -> Vec<Value> {
    let mut found = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for toleration in found.iter_mut().filter_map(Value::as_object_mut) {
        toleration.remove("tolerationSeconds");
    }
    found
}

/// The spec without what may change: images, the deadline, tolerations, and the node, which a scheduler sets.
fn unchangeable(spec: &Value) -> Value {
    let mut spec = spec.clone();
    // Pods that an earlier version stored lack what is filled in now.
    default_spec(&mut spec);
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|field, value| {
            !value.is_null() && !matches!(field.as_str(), "activeDeadlineSeconds" | "tolerations" | "nodeName" | "schedulingGates")
        });
        for list in ["containers", "initContainers"] {
            for container in fields.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
                container.remove("image");
            }
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(old: Value, new: Value) -> Option<String> {
        let pod = |spec: Value| Object::from_iter([("spec".to_owned(), spec)]);
        let causes = check(&pod(new), Some(&pod(old)));
        causes.first().map(|cause| format!("{}: {}", cause.field, cause.message))
    }

    #[test]
    fn images_deadlines_tolerations_and_an_empty_node_may_change() {
        let old = json!({ "containers": [{ "name": "a", "image": "1" }] });
        let new = json!({
            "containers": [{ "name": "a", "image": "2" }], "activeDeadlineSeconds": 9, "tolerations": [{ "key": "x" }], "nodeName": "n",
            "restartPolicy": "Always",
        });
        assert_eq!(change(old, new), None);
    }

    #[test]
    fn anything_else_may_not() {
        let old = || json!({ "nodeName": "n", "containers": [{ "name": "a", "image": "1" }] });
        let new = json!({ "nodeName": "n", "hostNetwork": true, "containers": [{ "name": "a", "args": ["x"] }] });
        assert!(change(old(), new).unwrap().ends_with("found containers, hostNetwork"));
        let more = json!({ "nodeName": "n", "containers": [{ "name": "a" }, { "name": "b" }] });
        assert_eq!(change(old(), more).unwrap(), "spec.containers: Forbidden: pod updates may not add or remove containers");
        let tolerant = json!({ "containers": [{ "name": "a" }], "tolerations": [{ "key": "x" }] });
        assert!(change(tolerant, json!({ "containers": [{ "name": "a" }] })).unwrap().starts_with("spec.tolerations: Forbidden"));
        let moved = json!({ "nodeName": "m", "containers": [{ "name": "a" }] });
        assert!(change(old(), moved).unwrap().starts_with("spec.nodeName: Forbidden"));
    }
}
