//! Label and field selectors: parsed once per request, matched against a narrow reading of the stored bytes.

use serde_json::Value;

use crate::error::Error;
use crate::fields::{self, Probe};
use crate::jsonpath::follow;
use crate::kinds::Kind;

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
    /// The same, of fields that a definition declares to be selectable.
    declared: Vec<(String, String, bool)>,
}

impl Selector {
    /// Parses `labelSelector` and `fieldSelector` for a kind.
    pub fn parse(labels: &str, fields: &str, kind: &Kind) -> Result<Self, Error> {
        let mut selector = Self { labels: parse_labels(labels)?, ..Self::default() };
        for part in fields.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (field, value, equal) = if let Some((field, value)) = part.split_once("!=") {
                (field, value, false)
            } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (field, value, true)
            } else {
                let why = format!("invalid selector: '{fields}'; can't understand '{part}'");
                return Err(Error::BadRequest(why));
            };
            let field = fields::known(kind, field)?;
            let declared = kind.admission.is_some() && !field.starts_with("metadata.");
            let terms = if declared { &mut selector.declared } else { &mut selector.fields };
            terms.push((field, value.to_owned(), equal));
        }
        Ok(selector)
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty() && self.declared.is_empty()
    }

    /// Narrows the selector to one name, as a watch of a single object does.
    pub fn require_name(&mut self, name: &str) {
        self.fields.push(("metadata.name".to_owned(), name.to_owned(), true));
    }

    pub fn matches(&self, object: &[u8]) -> bool {
        self.is_everything() || self.admits(&Probe::read(object), object)
    }

    /// As [`Selector::matches`], for an object that many selectors look at.
    pub fn admits(&self, probe: &Probe, object: &[u8]) -> bool {
        let labels = probe.metadata.labels.as_ref();
        let label = |name: &str| labels.and_then(|labels| labels.get(name)).map(String::as_str);
        self.labels.iter().all(|term| term.holds(label))
            && self.fields.iter().all(|(field, value, equal)| (probe.field(field) == *value) == *equal)
            && (self.declared.is_empty() || self.admits_declared(object))
    }

    fn admits_declared(&self, object: &[u8]) -> bool {
        let object: Value = serde_json::from_slice(object).unwrap_or_default();
        self.declared.iter().all(|(field, value, equal)| {
            let found = match follow(&object, field) {
                Value::String(text) => text,
                Value::Null => String::new(),
                scalar => scalar.to_string(),
            };
            (found == *value) == *equal
        })
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
    let value = |text: &str| {
        let text = text.trim();
        match text.split_once(char::is_whitespace) {
            Some((_, rest)) => Err(Error::BadRequest(format!("found '{}', expected: ',' or 'end of string'", rest.trim()))),
            None => Ok(text.to_owned()),
        }
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
    if let Some((label, found)) = part.split_once("!=") {
        return Ok(Term::NotIn(name(label)?, vec![value(found)?]));
    }
    if let Some((label, found)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Term::In(name(label)?, vec![value(found)?]));
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

    fn parse(labels: &str, fields: &str, name: &str) -> Result<Selector, Error> {
        let kinds = crate::kinds::built_in();
        Selector::parse(labels, fields, kinds.iter().find(|kind| kind.kind == name).unwrap())
    }

    fn matches(labels: &str, fields: &str) -> bool {
        let pod = br#"{"metadata":{"name":"a","namespace":"n","labels":{"app":"web","size":"3"}},"spec":{"nodeName":"n1"},"status":{}}"#;
        parse(labels, fields, "Pod").unwrap().matches(pod)
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
        let refused = |fields: &str, kind: &str| parse("", fields, kind).unwrap_err().to_string();
        assert_eq!(refused("spec.dnsPolicy=x", "Pod"), "field label not supported: spec.dnsPolicy");
        let others = r#""data.a" is not a known field selector: only "metadata.name", "metadata.namespace""#;
        assert_eq!(refused("data.a=x", "ConfigMap"), others);
        assert!(parse("a in (b", "", "Pod").is_err());
    }
}
