//! Tables, which `kubectl get` prints: a custom kind's printer columns, or the columns of a built-in kind.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::columns::built_in;
use crate::jsonpath::follow;
use crate::kinds::Kind;
use crate::request::Include;
use crate::shape::metadata_only;

/// How a cell is read from an object.
type Cell = Box<dyn Fn(&Value) -> Value + Send + Sync>;

/// A column: its heading, type, priority (0 is always shown, 1 with `-o wide`), and its cells.
pub struct Column {
    name: String,
    kind: String,
    priority: i64,
    cell: Cell,
}

impl Column {
    pub fn new(name: &str, cell: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        Self { name: name.to_owned(), kind: "string".to_owned(), priority: 0, cell: Box::new(cell) }
    }

    pub fn wide(name: &str, cell: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        Self { priority: 1, ..Self::new(name, cell) }
    }

    pub fn name() -> Self {
        Self::new("Name", |object| object["metadata"]["name"].clone())
    }

    pub fn age() -> Self {
        Self::new("Age", |object| age(&object["metadata"]["creationTimestamp"]))
    }
}

/// The objects as a `Table`.
pub fn render(kind: &Kind, objects: &[Value], metadata: Value, include: Include) -> Value {
    let columns = if kind.admission.is_some() { custom(kind) } else { built_in(kind) };
    let definitions: Vec<_> = columns
        .iter()
        .map(|c| {
            let format = if c.name == "Name" { "name" } else { "" };
            json!({ "name": c.name, "type": c.kind, "format": format, "description": "", "priority": c.priority })
        })
        .collect();
    let row = |object: &Value| {
        let cells: Vec<_> = columns.iter().map(|column| (column.cell)(object)).collect();
        match include {
            Include::Nothing => json!({ "cells": cells }),
            Include::Metadata => json!({ "cells": cells, "object": metadata_only(object) }),
            Include::Object => json!({ "cells": cells, "object": object }),
        }
    };
    let rows: Vec<_> = objects.iter().map(row).collect();
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions, "rows": rows })
}

/// The name, and what the definition says; without a word from it, the age.
fn custom(kind: &Kind) -> Vec<Column> {
    let mut columns = vec![Column::name()];
    columns.extend(kind.columns.iter().map(|column| {
        let text = |field: &str| column[field].as_str().unwrap_or_default().to_owned();
        let (path, kind) = (text("jsonPath"), text("type"));
        let is_date = kind == "date";
        let cell = move |object: &Value| {
            let value = follow(object, &path);
            if is_date && !value.is_null() { age(&value) } else { printable(value) }
        };
        Column { name: text("name"), kind, priority: column["priority"].as_i64().unwrap_or(0), cell: Box::new(cell) }
    }));
    if columns.len() == 1 {
        columns.push(Column::age());
    }
    columns
}

/// Cells are scalars; others are shown as JSON.
pub fn printable(value: Value) -> Value {
    if value.is_array() || value.is_object() { json!(value.to_string()) } else { value }
}

/// The time since then.
pub fn age(since: &Value) -> Value {
    let then = since.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    json!(then.map_or_else(|| "<unknown>".to_owned(), |then| duration(Timestamp::now().as_second() - then.as_second())))
}

/// A duration as Kubernetes prints it: two units at most, and one where the second would not matter.
fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, unit: char, small: i64, smaller: char| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{smaller}") }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let shown = [0, 119, 120, 150, 600, 10_800, 10_860, 28_800, 172_800, 176_400, 691_200, 63_072_000, 400_000_000].map(duration);
        assert_eq!(shown, ["0s", "119s", "2m", "2m30s", "10m", "3h", "3h1m", "8h", "2d", "2d1h", "8d", "2y", "12y"]);
    }
}
