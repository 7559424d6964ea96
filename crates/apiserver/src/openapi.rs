//! The OpenAPI v3 documents, as far as `kubectl` reads them: schemas by kind, and the parameters that PATCH takes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::schemars::SchemaGenerator;
use k8s_openapi::schemars::generate::SchemaSettings;
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
    let mut schemas = Schemas::new();
    for kind in kinds {
        let middle = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let parameter = |name: &str, place: &str| json!({ "name": name, "in": place, "schema": { "type": "string", "uniqueItems": true } });
        let operation = |action: &str| {
            let mut parameters = ["dryRun", "fieldManager", "fieldValidation"].map(|name| parameter(name, "query")).to_vec();
            if action == "patch" {
                parameters.push(json!({ "name": "force", "in": "query", "schema": { "type": "boolean", "uniqueItems": true } }));
            }
            json!({
                "operationId": format!("{action}{}{}", kind.version, kind.kind),
                "parameters": parameters,
                "responses": { "200": { "description": "OK" } },
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind": gvk(kind),
            })
        };
        paths.insert(format!("/{rest}{middle}/{}", kind.plural), json!({ "get": operation("list"), "post": operation("post") }));
        let one = json!({ "patch": operation("patch"), "put": operation("put"), "parameters": [parameter("name", "path")] });
        paths.insert(format!("/{rest}{middle}/{}/{{name}}", kind.plural), one);
        schemas.add(kind);
    }
    Some(json!({
        "openapi": "3.0.0", "info": { "title": "Kubernetes", "version": "v1.33.0" },
        "paths": paths, "components": { "schemas": schemas.finish() },
    }))
}

fn gvk(kind: &Kind) -> Value {
    json!({ "group": kind.group, "version": kind.version, "kind": kind.kind })
}

/// The schemas of one document, with all that they refer to.
struct Schemas {
    generator: SchemaGenerator,
    custom: Map<String, Value>,
    /// Names of the schemas that are kinds.
    kinds: Vec<(String, Value)>,
}

impl Schemas {
    fn new() -> Self {
        Self { generator: SchemaGenerator::new(SchemaSettings::openapi3()), custom: Map::new(), kinds: Vec::new() }
    }

    fn add(&mut self, kind: &Kind) {
        match (&kind.admission, kind.typed) {
            (Some(admission), _) => {
                let name = custom_name(kind);
                let schema = self.custom(admission.schema.clone());
                self.custom.insert(name.clone(), schema);
                self.kinds.push((name, gvk(kind)));
            }
            (None, Some(typed)) => {
                (typed.schema)(&mut self.generator);
                self.kinds.push(((typed.name)().into_owned(), gvk(kind)));
            }
            (None, None) => {}
        }
    }

    /// A custom kind's schema with the fields that all objects have.
    fn custom(&mut self, mut schema: Value) -> Value {
        let text = |about: &str| json!({ "type": "string", "description": about });
        let metadata = json!({
            "description": "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
            "allOf": [self.generator.subschema_for::<ObjectMeta>()],
        });
        let common = [
            (
                "apiVersion",
                text(
                    "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
                ),
            ),
            (
                "kind",
                text(
                    "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
                ),
            ),
            ("metadata", metadata),
        ];
        if let Some(schema) = schema.as_object_mut()
            && let Some(properties) = schema.entry("properties").or_insert_with(|| json!({})).as_object_mut()
        {
            properties.extend(common.map(|(name, schema)| (name.to_owned(), schema)));
        }
        schema
    }

    fn finish(mut self) -> Map<String, Value> {
        let mut schemas = self.generator.take_definitions(true);
        schemas.extend(self.custom);
        for (name, gvk) in self.kinds {
            if let Some(schema) = schemas.get_mut(&name).and_then(Value::as_object_mut) {
                schema.insert("x-kubernetes-group-version-kind".to_owned(), json!([gvk]));
            }
        }
        schemas
    }
}

/// The group backwards, version and kind.
fn custom_name(kind: &Kind) -> String {
    let mut parts: Vec<&str> = kind.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{}", parts.join("."), kind.version, kind.kind)
}
