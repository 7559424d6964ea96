//! Label and field selectors: parsed once per request, matched against a narrow reading of the stored bytes.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::Error;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

#[derive(Debug, Clone, Default)]
pub struct Selector {
    labels: Vec<Term>,
    /// Field, value, whether they must be equal.
    fields: Vec<(String, String, bool)>,
}

/// The parts of an object that selectors may ask for; the rest of the bytes is skipped.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    metadata: ProbeMetadata,
    spec: ProbeSpec,
    status: ProbeStatus,
    involved_object: BTreeMap<String, serde_json::Value>,
    regarding: BTreeMap<String, serde_json::Value>,
    reason: Option<String>,
    r#type: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ProbeMetadata {
    name: String,
    namespace: String,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProbeSpec {
    node_name: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ProbeStatus {
    phase: Option<serde_json::Value>,
}

impl Selector {
    /// Parses `labelSelector` and `fieldSelector` for a kind.
    pub fn parse(labels: &str, fields: &str, group: &str, kind: &str) -> Result<Self, Error> {
        let mut selector = Self { labels: parse_labels(labels)?, fields: Vec::new() };
        for part in fields.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (field, value, equal) = if let Some((field, value)) = part.split_once("!=") {
                (field, value, false)
            } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (field, value, true)
            } else {
                return Err(Error::BadRequest(format!("invalid field selector {part:?}: want field=value or field!=value")));
            };
            let known = matches!(field, "metadata.name" | "metadata.namespace")
                || (kind == "Pod" && matches!(field, "spec.nodeName" | "status.phase"))
                || (kind == "Namespace" && group.is_empty() && field == "status.phase")
                || (kind == "Event" && (matches!(field, "reason" | "type") || event_field(field).is_some()));
            if !known {
                return Err(Error::BadRequest(format!("field label not supported: {field}")));
            }
            selector.fields.push((field.to_owned(), value.to_owned(), equal));
        }
        Ok(selector)
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Narrows the selector to one name, as a watch of a single object does.
    pub fn require_name(&mut self, name: &str) {
        self.fields.push(("metadata.name".to_owned(), name.to_owned(), true));
    }

    pub fn matches(&self, object: &[u8]) -> bool {
        self.is_everything() || self.admits(&Probe::read(object))
    }

    /// As [`Selector::matches`], for an object that many selectors look at.
    pub fn admits(&self, probe: &Probe) -> bool {
        let labels = probe.metadata.labels.as_ref();
        let label = |name: &str| labels.and_then(|labels| labels.get(name)).map(String::as_str);
        self.labels.iter().all(|term| term.holds(label))
            && self.fields.iter().all(|(field, value, equal)| (probe.field(field) == *value) == *equal)
    }
}

/// The part of an event's subject that a field names.
fn event_field(field: &str) -> Option<&str> {
    field.strip_prefix("involvedObject.").or_else(|| field.strip_prefix("regarding."))
}

impl Probe {
    pub fn read(object: &[u8]) -> Self {
        // What cannot be read has none of the parts that a selector asks for.
        serde_json::from_slice(object).unwrap_or_default()
    }

    fn field(&self, field: &str) -> &str {
        match field {
            "metadata.name" => &self.metadata.name,
            "metadata.namespace" => &self.metadata.namespace,
            "spec.nodeName" => self.spec.node_name.as_ref().and_then(|v| v.as_str()).unwrap_or_default(),
            "status.phase" => self.status.phase.as_ref().and_then(|v| v.as_str()).unwrap_or_default(),
            "reason" => self.reason.as_deref().unwrap_or_default(),
            "type" => self.r#type.as_deref().unwrap_or_default(),
            other => {
                let part = event_field(other).unwrap_or_default();
                let value = self.involved_object.get(part).or_else(|| self.regarding.get(part));
                value.and_then(|v| v.as_str()).unwrap_or_default()
            }
        }
    }
}

impl Term {
    fn holds<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let number = |name: &str| label(name).and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(name, values) => label(name).is_some_and(|value| values.iter().any(|v| v == value)),
            Self::NotIn(name, values) => label(name).is_none_or(|value| values.iter().all(|v| v != value)),
            Self::Exists(name) => label(name).is_some(),
            Self::Absent(name) => label(name).is_none(),
            Self::Greater(name, than) => number(name).is_some_and(|value| value > *than),
            Self::Less(name, than) => number(name).is_some_and(|value| value < *than),
        }
    }
}

fn parse_labels(text: &str) -> Result<Vec<Term>, Error> {
    split_outside_parentheses(text).into_iter().map(str::trim).filter(|part| !part.is_empty()).map(parse_label).collect()
}

/// Splits at commas, but not at those inside `in (a,b)`.
fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_label(part: &str) -> Result<Term, Error> {
    let bad = || Error::BadRequest(format!("unable to parse requirement: {part:?} is not a label requirement"));
    let name = |text: &str| {
        let text = text.trim();
        let good = !text.is_empty() && text.len() <= 317 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        if good { Ok(text.to_owned()) } else { Err(bad()) }
    };
    if let Some(rest) = part.strip_suffix(')') {
        let (before, values) = rest.split_once('(').ok_or_else(bad)?;
        let values = values.split(',').map(|v| v.trim().to_owned()).collect();
        let before = before.trim();
        if let Some(label) = before.strip_suffix(" notin") {
            return Ok(Term::NotIn(name(label)?, values));
        }
        return Ok(Term::In(name(before.strip_suffix(" in").ok_or_else(bad)?)?, values));
    }
    if let Some(label) = part.strip_prefix('!') {
        return Ok(Term::Absent(name(label)?));
    }
    if let Some((label, value)) = part.split_once("!=") {
        return Ok(Term::NotIn(name(label)?, vec![value.trim().to_owned()]));
    }
    if let Some((label, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Term::In(name(label)?, vec![value.trim().to_owned()]));
    }
    if let Some((label, value)) = part.split_once('>') {
        return Ok(Term::Greater(name(label)?, value.trim().parse().map_err(|_| bad())?));
    }
    if let Some((label, value)) = part.split_once('<') {
        return Ok(Term::Less(name(label)?, value.trim().parse().map_err(|_| bad())?));
    }
    Ok(Term::Exists(name(part)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(labels: &str, fields: &str) -> bool {
        let pod = br#"{"metadata":{"name":"a","namespace":"n","labels":{"app":"web","size":"3"}},"spec":{"nodeName":"n1"},"status":{}}"#;
        Selector::parse(labels, fields, "", "Pod").unwrap().matches(pod)
    }

    #[test]
    fn labels_match_by_equality_and_by_set() {
        for yes in ["app=web", "app==web", "app!=db", "app in (db, web)", "app notin (db)", "app", "!tier", "tier notin (x)", "size>2", ""]
        {
            assert!(matches(yes, ""), "{yes}");
        }
        for no in ["app=db", "app!=web", "app in (db)", "app notin (web,db)", "tier", "!app", "app=web,tier", "size<3"] {
            assert!(!matches(no, ""), "{no}");
        }
    }

    #[test]
    fn fields_match_where_supported() {
        assert!(matches("", "metadata.name=a,spec.nodeName=n1,status.phase!=Running"));
        assert!(!matches("", "spec.nodeName!=n1"));
        assert!(Selector::parse("", "spec.dnsPolicy=x", "", "Pod").is_err());
        assert!(Selector::parse("a in (b", "", "", "Pod").is_err());
    }
}
