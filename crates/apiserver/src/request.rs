//! Reading a request: which resource its path names, what its query asks, what its body holds and what it accepts.

use http::{HeaderMap, Uri, header};
use serde_json::Value;

use crate::error::Error;
use crate::protobuf;

/// Largest body accepted, as the real server has it.
pub const BODY_LIMIT: usize = 3 << 20;

/// What a path names: a collection, an object, or a subresource of one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Target {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl Target {
    /// Understands `/api/v1/…` and `/apis/GROUP/VERSION/…`.
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/');
        let (group, version) = match parts.next()? {
            "api" => ("", parts.next()?),
            "apis" => (parts.next()?, parts.next()?),
            _ => return None,
        };
        let rest: Vec<&str> = parts.collect();
        let (namespace, rest) = match rest.as_slice() {
            // Of a namespace itself these are subresources, not collections inside it.
            ["namespaces", _, "status" | "finalize"] if group.is_empty() => (None, rest.as_slice()),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            all => (None, all),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, None),
            [plural, name] => (plural, Some(*name), None),
            [plural, name, subresource] => (plural, Some(*name), Some(*subresource)),
            _ => return None,
        };
        Some(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: (*plural).to_owned(),
            namespace,
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
        })
    }
}

/// The query's parameters.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

/// What becomes of fields that the schema does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl Query {
    pub fn parse(uri: &Uri) -> Result<Self, Error> {
        let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        query.map(|q| Self(q.0)).map_err(|e| Error::BadRequest(format!("invalid query: {e}")))
    }

    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value.as_str())
    }

    /// All values of a parameter that may come several times.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn flag(&self, name: &str) -> Result<bool, Error> {
        match self.get(name) {
            "" if self.0.iter().any(|(n, _)| n == name) => Ok(true),
            "" | "false" | "0" => Ok(false),
            "true" | "1" => Ok(true),
            other => Err(Error::BadRequest(format!("invalid {name}={other:?}: want true or false"))),
        }
    }

    pub fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, Error> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| Error::BadRequest(format!("invalid {name}={text:?}: not a number"))),
        }
    }

    pub fn dry_run(&self) -> Result<bool, Error> {
        match self.get("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(Error::BadRequest(format!("invalid dryRun={other:?}: want All"))),
        }
    }

    pub fn include(&self) -> Result<Include, Error> {
        match self.get("includeObject") {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::Nothing),
            "Object" => Ok(Include::Object),
            other => Err(Error::BadRequest(format!("invalid includeObject={other:?}: want None, Metadata or Object"))),
        }
    }

    pub fn field_validation(&self) -> Result<FieldValidation, Error> {
        match self.get("fieldValidation") {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(Error::BadRequest(format!("invalid fieldValidation={other:?}: want Ignore, Warn or Strict"))),
        }
    }
}

/// What a row of a Table carries of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    Nothing,
    Metadata,
    Object,
}

/// The form in which the client wants objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Full,
    Table(Include),
    MetadataOnly,
    /// Events as `events.k8s.io/v1`.
    NewEvents,
}

/// Picks the first accepted form that is served. Protobuf never is.
pub fn shape(headers: &HeaderMap, query: &Query) -> Result<Shape, Error> {
    let Some(accept) = headers.get(header::ACCEPT) else {
        return Ok(Shape::Full);
    };
    let accept = accept.to_str().map_err(|_| Error::NotAcceptable("the Accept header is not text".to_owned()))?;
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        if !matches!(media, "application/json" | "application/*" | "*/*" | "application/yaml" | "") {
            continue;
        }
        match parts.find_map(|part| part.strip_prefix("as=")) {
            None => return Ok(Shape::Full),
            Some("Table") => return query.include().map(Shape::Table),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Ok(Shape::MetadataOnly),
            Some(_) => {}
        }
    }
    Err(Error::NotAcceptable("only the following media types are served: application/json".to_owned()))
}

/// The body's media type, without parameters.
pub fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Decodes an object's body.
pub fn decode_body(media: &str, body: &[u8]) -> Result<Value, Error> {
    match media {
        "" | "application/json" => serde_json::from_slice(body).map_err(|e| Error::BadRequest(format!("the body is not JSON: {e}"))),
        "application/yaml" | "application/x-yaml" | "text/yaml" => decode_yaml(body),
        "application/vnd.kubernetes.protobuf" => protobuf::decode(body),
        other => Err(Error::UnsupportedMediaType(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml; got {other}"
        ))),
    }
}

pub fn decode_yaml(body: &[u8]) -> Result<Value, Error> {
    serde_norway::from_slice(body).map_err(|e| Error::BadRequest(format!("the body is not YAML: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> (String, String, Option<String>, Option<String>, Option<String>) {
        let t = Target::parse(path).unwrap();
        (format!("{}/{}", t.group, t.version), t.plural, t.namespace, t.name, t.subresource)
    }

    #[test]
    fn paths_name_collections_objects_and_subresources() {
        let s = |t: &str| Some(t.to_owned());
        assert_eq!(target("/api/v1/pods"), ("/v1".into(), "pods".into(), None, None, None));
        assert_eq!(target("/api/v1/namespaces/a/pods/b/status"), ("/v1".into(), "pods".into(), s("a"), s("b"), s("status")));
        assert_eq!(target("/api/v1/namespaces/a"), ("/v1".into(), "namespaces".into(), None, s("a"), None));
        assert_eq!(target("/api/v1/namespaces/a/status"), ("/v1".into(), "namespaces".into(), None, s("a"), s("status")));
        assert_eq!(target("/apis/kubeovn.io/v1/subnets/s"), ("kubeovn.io/v1".into(), "subnets".into(), None, s("s"), None));
        assert_eq!(Target::parse("/api/v1"), None);
        assert_eq!(Target::parse("/api/v1/namespaces/a/pods/b/status/c"), None);
    }

    #[test]
    fn json_is_served_to_clients_that_would_rather_have_protobuf() {
        let (mut headers, none) = (HeaderMap::new(), Query::default());
        headers.insert(header::ACCEPT, "application/vnd.kubernetes.protobuf,application/json".parse().unwrap());
        assert_eq!(shape(&headers, &none).unwrap(), Shape::Full);
        headers.insert(header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json".parse().unwrap());
        assert_eq!(shape(&headers, &none).unwrap(), Shape::Table(Include::Metadata));
        headers.insert(header::ACCEPT, "application/vnd.kubernetes.protobuf".parse().unwrap());
        assert!(shape(&headers, &none).is_err());
    }
}
