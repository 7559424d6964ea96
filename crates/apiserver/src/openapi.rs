//! The OpenAPI v3 documents, as far as `kubectl` reads them: schemas by kind, and that PATCH takes `fieldValidation`.

use serde_json::{Map, Value, json};

use crate::kinds::Kind;
use crate::server::Server;

/// Answers `/openapi/v3` and `/openapi/v3/<group version>`.
pub fn answer(server: &Server, path: &str) -> Option<Value> {
    let rest = path.strip_prefix("/openapi/v3")?.trim_matches('/');
    let kinds = server.kinds();
    let document = |kind: &Kind| {
        if kind.group.is_empty() { format!("api/{}", kind.version) } else { format!("apis/{}/{}", kind.group, kind.version) }
    };
    if rest.is_empty() {
        let paths: Map<String, Value> = kinds
            .iter()
            .map(|kind| {
                let path = document(kind);
                let url = json!({ "serverRelativeURL": format!("/openapi/v3/{path}") });
                (path, url)
            })
            .collect();
        return Some(json!({ "paths": paths }));
    }
    let kinds: Vec<_> = kinds.iter().filter(|kind| document(kind) == rest).collect();
    if kinds.is_empty() {
        return None;
    }
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for kind in kinds {
        let middle = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let parameter = |name: &str, place: &str| json!({ "name": name, "in": place, "schema": { "type": "string", "uniqueItems": true } });
        let operation = |action: &str| {
            json!({
                "operationId": format!("{action}{}{}", kind.version, kind.kind),
                "parameters": [parameter("dryRun", "query"), parameter("fieldManager", "query"), parameter("fieldValidation", "query")],
                "responses": { "200": { "description": "OK" } },
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind": gvk(kind),
            })
        };
        paths.insert(format!("/{rest}{middle}/{}", kind.plural), json!({ "post": operation("post") }));
        let one = json!({ "patch": operation("patch"), "put": operation("put"), "parameters": [parameter("name", "path")] });
        paths.insert(format!("/{rest}{middle}/{}/{{name}}", kind.plural), one);
        schemas.insert(schema_name(kind), schema(kind));
    }
    Some(json!({
        "openapi": "3.0.0", "info": { "title": "Kubernetes", "version": "v1.34.0" },
        "paths": paths, "components": { "schemas": schemas },
    }))
}

fn gvk(kind: &Kind) -> Value {
    json!({ "group": kind.group, "version": kind.version, "kind": kind.kind })
}

fn schema_name(kind: &Kind) -> String {
    let mut parts: Vec<&str> = kind.group.split('.').filter(|part| !part.is_empty()).collect();
    parts.reverse();
    let group = if parts.is_empty() { "io.k8s.api.core".to_owned() } else { parts.join(".") };
    format!("{group}.{}.{}", kind.version, kind.kind)
}

fn schema(kind: &Kind) -> Value {
    let open = || json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let mut schema = kind.admission.as_ref().map_or_else(open, |admission| admission.schema.clone());
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("x-kubernetes-group-version-kind".to_owned(), json!([gvk(kind)]));
        if let Some(properties) = schema.entry("properties").or_insert_with(|| json!({})).as_object_mut() {
            for field in ["apiVersion", "kind"] {
                properties.entry(field).or_insert_with(|| json!({ "type": "string" }));
            }
            properties.insert("metadata".to_owned(), open());
        }
    }
    schema
}
