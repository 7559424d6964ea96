//! Events by which users are told of an object.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;

/// A warning about `object`, which `source` gives, in the object's namespace, or in `default`. What is said twice of one object
/// has one name, so that it is not told twice.
#[must_use]
pub fn warning(object: ObjectReference, source: EventSource, reason: &str, message: String, now: Timestamp) -> Event {
    let mut hasher = DefaultHasher::new();
    (object.uid.as_deref().unwrap_or_default(), reason, &message).hash(&mut hasher);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:016x}", object.name.as_deref().unwrap_or_default(), hasher.finish())),
            namespace: Some(object.namespace.clone().unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: object,
        reason: Some(reason.to_owned()),
        message: Some(message),
        type_: Some("Warning".to_owned()),
        source: Some(source),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}
