//! Tables, which `kubectl get` prints: a custom kind's printer columns, or a few columns of built-in kinds.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::Kind;

/// A column: its heading, type, priority (0 is always shown), and how to read its cell.
struct Column {
    name: String,
    kind: String,
    priority: i64,
    cell: Box<dyn Fn(&Value) -> Value + Send + Sync>,
}

impl Column {
    fn new(name: &str, priority: i64, cell: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        Self { name: name.to_owned(), kind: "string".to_owned(), priority, cell: Box::new(cell) }
    }
}

/// The objects as a `Table`.
pub fn render(kind: &Kind, objects: &[Value], metadata: Value) -> Value {
    let mut columns = vec![Column::new("Name", 0, |object| object["metadata"]["name"].clone())];
    if kind.admission.is_some() {
        columns.extend(kind.columns.iter().map(custom));
    } else {
        columns.extend(built_in(kind));
    }
    if !columns.iter().any(|column| column.name == "Age") {
        let at = columns.iter().position(|column| column.priority > 0).unwrap_or(columns.len());
        columns.insert(at, Column::new("Age", 0, |object| age(&object["metadata"]["creationTimestamp"])));
    }
    let definitions: Vec<_> = columns
        .iter()
        .map(|c| {
            let format = if c.name == "Name" { "name" } else { "" };
            json!({ "name": c.name, "type": c.kind, "format": format, "description": "", "priority": c.priority })
        })
        .collect();
    let row = |object: &Value| {
        let cells: Vec<_> = columns.iter().map(|column| (column.cell)(object)).collect();
        json!({ "cells": cells, "object": crate::shape::metadata_only(object) })
    };
    let rows: Vec<_> = objects.iter().map(row).collect();
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions, "rows": rows })
}

fn custom(column: &Value) -> Column {
    let text = |field: &str| column[field].as_str().unwrap_or_default().to_owned();
    let (path, kind) = (text("jsonPath"), text("type"));
    let is_date = kind == "date";
    let cell = move |object: &Value| {
        let value = follow(object, &path);
        if is_date { age(&value) } else { printable(value) }
    };
    Column { name: text("name"), kind, priority: column["priority"].as_i64().unwrap_or(0), cell: Box::new(cell) }
}

/// Follows a JSONPath of plain fields, indices and quoted fields: `.spec.a`, `.status.list[0].b`, `.metadata.labels['x/y']`.
fn follow(object: &Value, path: &str) -> Value {
    let mut value = object;
    let mut rest = path.trim().trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let Some((step, after)) = inside.split_once(']') else { return Value::Null };
            let step = step.trim_matches(['\'', '"']);
            value = match step.parse::<usize>() {
                Ok(at) if value.is_array() => &value[at],
                _ => &value[step],
            };
            rest = after;
        } else {
            rest = rest.trim_start_matches('.');
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            value = &value[&rest[..end]];
            rest = &rest[end..];
        }
    }
    value.clone()
}

/// Cells are scalars; others are shown as JSON.
fn printable(value: Value) -> Value {
    if value.is_array() || value.is_object() { json!(value.to_string()) } else { value }
}

/// The time since then, as kubectl prints it.
fn age(since: &Value) -> Value {
    let Some(then) = since.as_str().and_then(|text| text.parse::<Timestamp>().ok()) else {
        return json!("<unknown>");
    };
    let seconds = (Timestamp::now().as_second() - then.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    json!(match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{minutes}m{}s", seconds % 60),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => format!("{hours}h{}m", minutes % 60),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => format!("{days}d{}h", hours % 24),
        _ => format!("{days}d"),
    })
}

fn field(pointer: &'static str) -> impl Fn(&Value) -> Value + Send + Sync {
    move |object| object.pointer(pointer).cloned().map_or_else(|| json!("<none>"), printable)
}

fn built_in(kind: &Kind) -> Vec<Column> {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => vec![
            Column::new("Ready", 0, pod_ready),
            Column::new("Status", 0, pod_status),
            Column::new("Restarts", 0, |pod| json!(statuses(pod).filter_map(|s| s["restartCount"].as_i64()).sum::<i64>().to_string())),
            Column::new("IP", 1, field("/status/podIP")),
            Column::new("Node", 1, field("/spec/nodeName")),
        ],
        ("", "Node") => vec![Column::new("Status", 0, node_status), Column::new("Internal-IP", 1, internal_ip)],
        ("", "Namespace") => vec![Column::new("Status", 0, field("/status/phase"))],
        ("", "Service") => vec![
            Column::new("Type", 0, |service| service["spec"].get("type").cloned().unwrap_or_else(|| json!("ClusterIP"))),
            Column::new("Cluster-IP", 0, field("/spec/clusterIP")),
        ],
        ("", "Event") => vec![
            Column::new("Type", 0, field("/type")),
            Column::new("Reason", 0, field("/reason")),
            Column::new("Object", 0, |event| {
                let part = |name: &str| event["involvedObject"][name].as_str().unwrap_or_default().to_owned();
                json!(format!("{}/{}", part("kind").to_lowercase(), part("name")))
            }),
            Column::new("Message", 0, field("/message")),
        ],
        ("", "ConfigMap" | "Secret") => {
            vec![Column::new("Data", 0, |o| json!(o["data"].as_object().map_or(0, serde_json::Map::len).to_string()))]
        }
        ("apiextensions.k8s.io", _) => vec![Column::new("Created At", 0, field("/metadata/creationTimestamp"))],
        ("coordination.k8s.io", _) => vec![Column::new("Holder", 0, field("/spec/holderIdentity"))],
        _ => Vec::new(),
    }
}

fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["status"]["containerStatuses"].as_array().into_iter().flatten()
}

fn pod_ready(pod: &Value) -> Value {
    let ready = statuses(pod).filter(|status| status["ready"] == json!(true)).count();
    json!(format!("{ready}/{}", pod["spec"]["containers"].as_array().map_or(0, Vec::len)))
}

fn pod_status(pod: &Value) -> Value {
    if pod["metadata"].get("deletionTimestamp").is_some() {
        return json!("Terminating");
    }
    let waiting = statuses(pod).find_map(|status| status["state"]["waiting"]["reason"].as_str());
    json!(waiting.or_else(|| pod["status"]["reason"].as_str()).or_else(|| pod["status"]["phase"].as_str()).unwrap_or("Unknown"))
}

fn node_status(node: &Value) -> Value {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|c| c["type"] == json!("Ready") && c["status"] == json!("True"));
    let cordoned = if node["spec"]["unschedulable"] == json!(true) { ",SchedulingDisabled" } else { "" };
    json!(format!("{}{cordoned}", if ready { "Ready" } else { "NotReady" }))
}

fn internal_ip(node: &Value) -> Value {
    let addresses = node["status"]["addresses"].as_array();
    let found = addresses.into_iter().flatten().find(|a| a["type"] == json!("InternalIP"));
    found.map_or_else(|| json!("<none>"), |address| address["address"].clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_paths_are_followed() {
        let object = json!({ "a": { "b": [{ "c": 1 }], "x/y": 2 } });
        assert_eq!(follow(&object, ".a.b[0].c"), json!(1));
        assert_eq!(follow(&object, ".a['x/y']"), json!(2));
        assert_eq!(follow(&object, ".a.none[3].z"), Value::Null);
        assert_eq!(follow(&object, ".a[é"), Value::Null);
    }
}
