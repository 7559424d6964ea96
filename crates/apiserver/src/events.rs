//! Events have two faces, `v1` and `events.k8s.io/v1`, over one storage: what one client records, another lists.

use serde_json::{Value, json};

/// The group of the newer face.
pub const GROUP: &str = "events.k8s.io";

/// Field names where the two differ: `v1` (as stored), `events.k8s.io/v1`.
const FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The stored form of an `events.k8s.io/v1` event; what is not one is left to be refused.
pub fn to_stored(event: Value) -> Value {
    rename(event, &format!("{GROUP}/v1"), "v1", |(stored, shown)| (shown, stored))
}

/// The `events.k8s.io/v1` form of a stored event.
pub fn to_shown(event: Value) -> Value {
    rename(event, "v1", &format!("{GROUP}/v1"), |(stored, shown)| (stored, shown))
}

fn rename(mut event: Value, from: &str, to: &str, way: fn((&'static str, &'static str)) -> (&'static str, &'static str)) -> Value {
    let Some(fields) = event.as_object_mut() else {
        return event;
    };
    for (old, new) in FIELDS.map(way) {
        if let Some(value) = fields.remove(old) {
            fields.insert(new.to_owned(), value);
        }
    }
    if fields.get("apiVersion").is_none_or(|version| *version == json!(from)) {
        fields.insert("apiVersion".to_owned(), json!(to));
    }
    event
}
