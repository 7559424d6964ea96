//! The fields that a field selector may name, and how they are read from stored bytes, the rest of which is skipped.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::Error;
use crate::kinds::Kind;

/// Fields beyond name and namespace, by group and kind.
const SELECTABLE: &[(&str, &str, &[&str])] = &[
    (
        "",
        "Pod",
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
    ),
    ("", "Namespace", &["status.phase"]),
    ("", "Node", &["spec.unschedulable"]),
    ("", "Secret", &["type"]),
    ("", "Service", &["spec.clusterIP", "spec.type"]),
    (
        "",
        "Event",
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
    ),
];

/// A field as it is stored, or why it may not be selected.
pub fn known(kind: &Kind, field: &str) -> Result<String, Error> {
    let refused = |why: String| Err(Error::BadRequest(why));
    // Events have two faces; here they are what is stored.
    let stored = match field.strip_prefix("regarding.") {
        Some(part) if kind.is("", "Event") => format!("involvedObject.{part}"),
        _ if kind.is("", "Event") && field == "reportingController" => "reportingComponent".to_owned(),
        _ => field.to_owned(),
    };
    if matches!(field, "metadata.name" | "metadata.namespace") || kind.selectable.iter().any(|path| path.trim_start_matches('.') == field) {
        return Ok(stored);
    }
    let selectable = SELECTABLE.iter().find(|(group, name, _)| kind.is(group, name));
    match selectable {
        Some((.., fields)) if fields.contains(&&*stored) => Ok(stored),
        None if kind.admission.is_none() => {
            refused(format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""))
        }
        _ => refused(format!("field label not supported: {field}")),
    }
}

/// The parts of an object that selectors may ask for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    pub metadata: Metadata,
    spec: Scalars,
    status: Scalars,
    involved_object: Scalars,
    source: Scalars,
    reason: Scalar,
    reporting_component: Scalar,
    r#type: Scalar,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Metadata {
    pub name: String,
    pub namespace: String,
    pub labels: Option<BTreeMap<String, String>>,
}

impl Probe {
    pub fn read(object: &[u8]) -> Self {
        // What cannot be read has none of the parts that a selector asks for.
        serde_json::from_slice(object).unwrap_or_default()
    }

    pub fn field(&self, field: &str) -> &str {
        match field {
            "metadata.name" => return &self.metadata.name,
            "metadata.namespace" => return &self.metadata.namespace,
            "reason" => return &self.reason.0,
            "reportingComponent" => return &self.reporting_component.0,
            "type" => return &self.r#type.0,
            "source" => {
                let component = self.source.get("component");
                return if component.is_empty() { &self.reporting_component.0 } else { component };
            }
            _ => {}
        }
        let (of, name) = field.split_once('.').unwrap_or_default();
        let found = match of {
            "spec" => self.spec.get(name),
            "status" => self.status.get(name),
            "involvedObject" => self.involved_object.get(name),
            _ => "",
        };
        match field {
            "spec.hostNetwork" | "spec.unschedulable" if found.is_empty() => "false",
            _ => found,
        }
    }
}

/// Names of the scalars that are kept.
const KEPT: &[&str] = &[
    "nodeName",
    "restartPolicy",
    "schedulerName",
    "serviceAccountName",
    "hostNetwork",
    "phase",
    "podIP",
    "nominatedNodeName",
    "unschedulable",
    "clusterIP",
    "type",
    "kind",
    "namespace",
    "name",
    "uid",
    "apiVersion",
    "resourceVersion",
    "fieldPath",
    "component",
];

/// The scalars of an object; of anything else there are none.
#[derive(Debug, Default)]
struct Scalars(Vec<(&'static str, String)>);

impl Scalars {
    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }
}

/// A scalar as text; empty if it is none.
#[derive(Debug, Default)]
struct Scalar(String);

/// Reads anything: text from scalars, and pairs from maps.
struct Reader;

#[derive(Default)]
struct Read {
    text: String,
    pairs: Vec<(&'static str, String)>,
}

impl From<String> for Read {
    fn from(text: String) -> Self {
        Self { text, pairs: Vec::new() }
    }
}

impl<'de> Visitor<'de> for Reader {
    type Value = Read;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E>(self, text: &str) -> Result<Read, E> {
        Ok(text.to_owned().into())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Read, E> {
        Ok(value.to_string().into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Read, E> {
        Ok(value.to_string().into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Read, E> {
        Ok(value.to_string().into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Read, E> {
        Ok(value.to_string().into())
    }

    fn visit_unit<E>(self) -> Result<Read, E> {
        Ok(Read::default())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<Read, S::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Read::default())
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Read, M::Error> {
        let mut pairs = Vec::new();
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match KEPT.iter().find(|kept| **kept == name) {
                Some(kept) => pairs.push((*kept, map.next_value::<Scalar>()?.0)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Read { text: String::new(), pairs })
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(|read| Self(read.text))
    }
}

impl<'de> Deserialize<'de> for Scalars {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(|read| Self(read.pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_read_as_text_whatever_lies_around_them() {
        let pod = br#"{"metadata":{"name":"a","labels":{"x":"y"}},"spec":{"nodeName":"n1","hostNetwork":true,"containers":[{"name":"c"}]},"status":{"podIP":null}}"#;
        let probe = Probe::read(pod);
        assert_eq!((probe.field("spec.nodeName"), probe.field("spec.hostNetwork"), probe.field("status.podIP")), ("n1", "true", ""));
        let odd = Probe::read(br#"{"metadata":{"name":"a"},"spec":["nodeName"],"type":{},"reason":7}"#);
        assert_eq!((odd.metadata.name.as_str(), odd.field("spec.nodeName"), odd.field("reason")), ("a", "", "7"));
        assert_eq!(odd.field("spec.unschedulable"), "false");
    }

    #[test]
    fn an_events_source_is_its_component_or_who_reported_it() {
        assert_eq!(Probe::read(br#"{"source":{"component":"a"},"reportingComponent":"b"}"#).field("source"), "a");
        assert_eq!(Probe::read(br#"{"reportingComponent":"b"}"#).field("source"), "b");
    }
}
