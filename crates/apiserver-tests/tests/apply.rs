//! Server-side apply and `metadata.managedFields`, as requests and answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use axum::body::Body;
use http::{Request, header};
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = "/api/v1/namespaces/default/configmaps/m";
const PODS: &str = "/api/v1/namespaces/default/pods";
const POD: &str = "/api/v1/namespaces/default/pods/p";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

struct Api(apiserver::Server);

impl Api {
    fn new() -> Self {
        Self(apiserver::Server::open(None).unwrap())
    }

    async fn send(&self, method: &str, path: &str, media: &str, body: &Value) -> (u16, Value) {
        self.send_text(method, path, media, body.to_string()).await
    }

    async fn send_text(&self, method: &str, path: &str, media: &str, body: String) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", media).header(header::USER_AGENT, "agent/1.0 (x)");
        let response = self.0.router().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (code, serde_json::from_slice(&bytes).unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        self.send("GET", path, "", &Value::Null).await.1
    }

    async fn apply(&self, path: &str, manager: &str, body: Value) -> (u16, Value) {
        self.send("PATCH", &query(path, &format!("fieldManager={manager}")), APPLY, &body).await
    }

    async fn force(&self, path: &str, manager: &str, body: Value) -> Value {
        let (code, object) = self.send("PATCH", &query(path, &format!("fieldManager={manager}&force=true")), APPLY, &body).await;
        assert_eq!(code, 200, "{object}");
        object
    }

    /// Applies what must be taken.
    async fn applied(&self, path: &str, manager: &str, body: Value) -> Value {
        let (code, object) = self.apply(path, manager, body).await;
        assert!(matches!(code, 200 | 201), "{object}");
        object
    }

    async fn patched(&self, path: &str, manager: &str, body: Value) -> Value {
        let (code, object) = self.send("PATCH", &query(path, &format!("fieldManager={manager}")), MERGE, &body).await;
        assert_eq!(code, 200, "{object}");
        object
    }

    async fn refused(&self, path: &str, manager: &str, body: Value) -> (u16, String) {
        let (code, status) = self.apply(path, manager, body).await;
        assert_eq!(status["kind"], "Status", "{status}");
        (code, status["message"].as_str().unwrap().to_owned())
    }
}

fn query(path: &str, more: &str) -> String {
    format!("{path}{}{more}", if path.contains('?') { "&" } else { "?" })
}

fn map(data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": data })
}

fn pod(spec: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": spec })
}

/// Manager, operation, subresource and fields of every entry, by name: which was first may be the matter of a second.
fn owners(object: &Value) -> Value {
    let entry = |entry: &Value| {
        assert_eq!(entry["fieldsType"], "FieldsV1");
        assert!(entry["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{entry}");
        let operation = format!("{} {}", entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap());
        match entry["subresource"].as_str() {
            Some(subresource) => json!([format!("{operation} {subresource}"), entry["fieldsV1"]]),
            None => json!([operation, entry["fieldsV1"]]),
        }
    };
    let mut entries: Vec<Value> = object["metadata"]["managedFields"].as_array().into_iter().flatten().map(entry).collect();
    entries.sort_by_key(|entry| entry[0].to_string());
    json!(entries)
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_configuration_creates_then_updates_and_owns_what_it_names() {
    let api = Api::new();
    let (code, made) = api.apply(MAP, "me", map(json!({ "a": "1" }))).await;
    assert_eq!((code, &made["data"]), (201, &json!({ "a": "1" })), "{made}");
    assert_eq!(owners(&made), json!([["me Apply", { "f:data": { "f:a": {} } }]]));
    assert_eq!(made["metadata"]["managedFields"][0]["apiVersion"], "v1");
    let (code, changed) = api.apply(MAP, "me", map(json!({ "a": "2", "b": "3" }))).await;
    assert_eq!((code, &changed["data"]), (200, &json!({ "a": "2", "b": "3" })));
    assert_eq!(owners(&changed), json!([["me Apply", { "f:data": { "f:a": {}, "f:b": {} } }]]));
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: { labels: { x: y } }\n".to_owned();
    let (code, changed) = api.send_text("PATCH", &query(MAP, "fieldManager=me"), APPLY, yaml).await;
    assert_eq!((code, changed.get("data"), &changed["metadata"]["labels"]), (200, None, &json!({ "x": "y" })), "{changed}");
}

#[tokio::test]
async fn fields_that_are_named_no_more_go_unless_another_owns_them() {
    let api = Api::new();
    api.applied(MAP, "a", map(json!({ "mine": "1", "shared": "1" }))).await;
    let both = api.applied(MAP, "b", map(json!({ "shared": "1", "theirs": "1" }))).await;
    let wanted = json!([
        ["a Apply", { "f:data": { "f:mine": {}, "f:shared": {} } }],
        ["b Apply", { "f:data": { "f:shared": {}, "f:theirs": {} } }],
    ]);
    assert_eq!(owners(&both), wanted);
    let left = api.applied(MAP, "a", map(json!({}))).await;
    assert_eq!(left["data"], json!({ "shared": "1", "theirs": "1" }));
    let left = api.applied(MAP, "b", map(json!({ "theirs": "1" }))).await;
    assert_eq!(left["data"], json!({ "theirs": "1" }));
}

#[tokio::test]
async fn a_field_that_another_set_differently_is_a_conflict_until_forced() {
    let api = Api::new();
    api.applied(MAP, "a", map(json!({ "x": "1", "y": "1" }))).await;
    let (code, status) = api.apply(MAP, "b", map(json!({ "x": "2" }))).await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")));
    assert_eq!(status["message"], "Apply failed with 1 conflict: conflict with \"a\": .data.x");
    let cause = json!({ "reason": "FieldManagerConflict", "message": "conflict with \"a\"", "field": ".data.x" });
    assert_eq!(status["details"]["causes"], json!([cause]));
    api.patched(MAP, "c", json!({ "data": { "z": "1" } })).await;
    let (_, message) = api.refused(MAP, "b", map(json!({ "x": "2", "y": "2", "z": "2" }))).await;
    let wanted = "Apply failed with 3 conflicts: conflicts with \"a\":\n- .data.x\n- .data.y\nconflicts with \"c\" using v1:\n- .data.z";
    assert_eq!(message, wanted);
    let forced = api.force(MAP, "b", map(json!({ "x": "2", "z": "2" }))).await;
    assert_eq!(forced["data"], json!({ "x": "2", "y": "1", "z": "2" }));
    assert_eq!(owners(&forced), json!([["a Apply", { "f:data": { "f:y": {} } }], ["b Apply", { "f:data": { "f:x": {}, "f:z": {} } }]]));
}

#[tokio::test]
async fn every_write_is_recorded_by_manager_or_program() {
    let api = Api::new();
    let (_, made) = api.send("POST", MAPS, "application/json", &map(json!({ "a": "1", "b": "1" }))).await;
    assert_eq!(owners(&made), json!([["agent Update", { "f:data": { ".": {}, "f:a": {}, "f:b": {} } }]]));
    let patched = api.patched(MAP, "other", json!({ "data": { "a": "2" } })).await;
    let wanted = json!([["agent Update", { "f:data": { ".": {}, "f:b": {} } }], ["other Update", { "f:data": { "f:a": {} } }]]);
    assert_eq!(owners(&patched), wanted);
    let steps = json!([{ "op": "remove", "path": "/data/b" }, { "op": "add", "path": "/metadata/labels", "value": { "x": "y" } }]);
    let (_, patched) = api.send("PATCH", MAP, "application/json-patch+json", &steps).await;
    let wanted = json!([
        ["agent Update", { "f:data": { ".": {} }, "f:metadata": { "f:labels": { ".": {}, "f:x": {} } } }],
        ["other Update", { "f:data": { "f:a": {} } }],
    ]);
    // The wire has no dot for a member without members below.
    let wanted: Value = serde_json::from_str(&wanted.to_string().replace("{\".\":{}}", "{}")).unwrap();
    assert_eq!(owners(&patched), wanted);
    let strategic = json!({ "data": { "c": "1" } });
    let (_, patched) = api.send("PATCH", &query(MAP, "fieldManager=s"), "application/strategic-merge-patch+json", &strategic).await;
    assert_eq!(owners(&patched)[2], json!(["s Update", { "f:data": { "f:c": {} } }]));
    let mut whole = patched.clone();
    whole["data"] = json!({ "a": "3" });
    let (_, put) = api.send("PUT", &query(MAP, "fieldManager=p"), "application/json", &whole).await;
    assert!(owners(&put).as_array().unwrap().contains(&json!(["p Update", { "f:data": { "f:a": {} } }])), "{put}");
}

#[tokio::test]
async fn a_write_that_changes_nothing_changes_no_version_and_no_time() {
    let api = Api::new();
    let (_, made) = api.send("POST", MAPS, "application/json", &map(json!({ "a": "1" }))).await;
    assert_eq!(api.patched(MAP, "other", json!({ "data": { "a": "1" } })).await, made);
    assert_eq!(api.send("PUT", MAP, "application/json", &made).await.1, made);
    let mut moved = made.clone();
    moved["metadata"]["managedFields"][0]["time"] = json!("2020-01-01T00:00:00Z");
    assert_eq!(api.send("PUT", MAP, "application/json", &moved).await.1, made);
    moved["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(api.send("PUT", MAP, "application/json", &moved).await.1, made);
    let applied = api.applied(MAP, "me", map(json!({ "a": "1" }))).await;
    assert!(version(&applied) > version(&made), "a new owner is a change");
    assert_eq!(api.applied(MAP, "me", map(json!({ "a": "1" }))).await, applied);
    assert_eq!(api.get(MAP).await, applied);
}

#[tokio::test]
async fn a_dry_run_answers_and_writes_nothing() {
    let api = Api::new();
    let dry = query(MAP, "dryRun=All");
    let (code, made) = api.apply(&dry, "me", map(json!({ "a": "1" }))).await;
    assert_eq!((code, &owners(&made)[0][0]), (201, &json!("me Apply")));
    assert_eq!(api.get(MAP).await["code"], 404);
    let made = api.applied(MAP, "me", map(json!({ "a": "1" }))).await;
    let (code, tried) = api.apply(&dry, "me", map(json!({ "a": "2" }))).await;
    assert_eq!((code, &tried["data"]["a"]), (200, &json!("2")));
    assert_eq!(api.refused(&dry, "you", map(json!({ "a": "2" }))).await.0, 409);
    assert_eq!(api.get(MAP).await, made);
}

#[tokio::test]
async fn empty_managed_fields_in_an_update_clear_them() {
    let api = Api::new();
    for clear in [json!([]), json!([{}])] {
        api.applied(MAP, "me", map(json!({ "a": "1" }))).await;
        let cleared = api.patched(MAP, "x", json!({ "metadata": { "managedFields": clear } })).await;
        assert_eq!(owners(&cleared), json!([]));
        // Of an object that nobody owns, updates are not recorded; and the first apply finds all of it to be somebody's.
        let patched = api.patched(MAP, "x", json!({ "data": { "b": "1" } })).await;
        assert_eq!(owners(&patched), json!([]));
        let (_, message) = api.refused(MAP, "me", map(json!({ "b": "2" }))).await;
        assert_eq!(message, "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.b");
        api.send("DELETE", MAP, "", &json!({})).await;
    }
}

#[tokio::test]
async fn owners_may_be_written_but_not_applied() {
    let api = Api::new();
    let made = api.applied(MAP, "me", map(json!({ "a": "1" }))).await;
    let steps = json!([{ "op": "replace", "path": "/metadata/managedFields/0/manager", "value": "you" }]);
    let (code, moved) = api.send("PATCH", MAP, "application/json-patch+json", &steps).await;
    assert_eq!((code, owners(&moved)), (200, json!([["you Apply", { "f:data": { "f:a": {} } }]])));
    assert!(version(&moved) > version(&made));
    let mut body = map(json!({}));
    body["metadata"]["managedFields"] = json!([]);
    assert_eq!(api.refused(MAP, "me", body).await, (400, "metadata.managedFields must be nil".to_owned()));
}

#[tokio::test]
async fn a_malformed_configuration_is_refused_with_object_field_and_reason() {
    let api = Api::new();
    let refused = |path: &'static str, body: Value| api.refused(path, "me", body);
    let (code, status) = api.send("PATCH", MAP, APPLY, &map(json!({}))).await;
    let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
    assert_eq!((code, status["message"].as_str().unwrap(), &status["reason"]), (422, message, &json!("Invalid")));
    assert_eq!(status["details"]["causes"][0]["field"], "fieldManager");
    let (code, status) = api.send("PATCH", &query(MAP, "force=true"), MERGE, &json!({})).await;
    assert_eq!((code, &status["details"]["causes"][0]["reason"]), (422, &json!("FieldValueForbidden")));
    let (code, status) = api.send_text("PATCH", &query(MAP, "fieldManager=me"), APPLY, "a: [".into()).await;
    assert!(code == 400 && status["message"].as_str().unwrap().starts_with("error decoding YAML: "), "{status}");
    let wrong = json!({ "apiVersion": "v2", "kind": "ConfigMap" });
    let message = "invalid object type: /v2, Kind=ConfigMap; expected /v1, Kind=ConfigMap".to_owned();
    assert_eq!(refused(MAP, wrong).await, (400, message));
    let message = "invalid object type: /, Kind=; expected /v1, Kind=ConfigMap".to_owned();
    assert_eq!(refused(MAP, json!({})).await, (400, message));
    let mut other = map(json!({}));
    other["metadata"]["name"] = json!("other");
    let message = "the name of the object (other) does not match the name on the URL (m)".to_owned();
    assert_eq!(refused(MAP, other).await, (400, message));
    let nameless = json!({ "apiVersion": "v1", "kind": "ConfigMap" });
    assert!(refused(MAP, nameless).await.1.ends_with("was undeterminable: name must be provided"));
    let mut unknown = map(json!({}));
    unknown["dato"] = json!({});
    let message = "failed to create typed patch object (/m; /v1, Kind=ConfigMap): .dato: field not declared in schema".to_owned();
    assert_eq!(refused(MAP, unknown).await, (400, message));
    let twice = pod(json!({ "containers": [{ "name": "c" }, { "name": "c" }] }));
    let message = "failed to create typed patch object (/p; /v1, Kind=Pod): .spec.containers: duplicate entries for key [name=\"c\"]";
    assert_eq!(refused(POD, twice).await, (400, message.to_owned()));
    let keyless = pod(json!({ "containers": [{ "image": "c" }] }));
    assert!(refused(POD, keyless).await.1.ends_with("element 0: associative list with keys has an element that omits key field \"name\""));
}

#[tokio::test]
async fn preconditions_are_honoured() {
    let api = Api::new();
    let with = |field: &str, value: &Value| {
        let mut body = map(json!({ "a": "2" }));
        body["metadata"][field] = value.clone();
        body
    };
    let (code, message) = api.refused(MAP, "me", with("uid", &json!("u"))).await;
    assert_eq!(code, 409);
    assert!(message.ends_with("uid mismatch: the provided object specified uid u, and no existing object was found"), "{message}");
    let made = api.applied(MAP, "me", map(json!({ "a": "1" }))).await;
    assert_eq!(api.refused(MAP, "me", with("uid", &json!("u"))).await.0, 422);
    assert_eq!(api.refused(MAP, "me", with("resourceVersion", &json!("1"))).await.0, 409);
    assert_eq!(api.applied(MAP, "me", with("uid", &made["metadata"]["uid"])).await["data"]["a"], "2");
}

#[tokio::test]
async fn lists_with_keys_are_merged_and_atomic_ones_replaced() {
    let api = Api::new();
    let main =
        json!({ "name": "main", "image": "1", "env": [{ "name": "A", "value": "1" }], "ports": [{ "containerPort": 80 }], "args": ["x"] });
    let made = api.applied(POD, "a", pod(json!({ "containers": [main], "tolerations": [{ "key": "t" }] }))).await;
    let wanted = json!({ "f:spec": {
        "f:containers": { "k:{\"name\":\"main\"}": {
            ".": {}, "f:name": {}, "f:image": {}, "f:args": {},
            "f:env": { "k:{\"name\":\"A\"}": { ".": {}, "f:name": {}, "f:value": {} } },
            "f:ports": { "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:containerPort": {} } },
        } },
        "f:tolerations": {},
    } });
    assert_eq!(owners(&made), json!([["a Apply", wanted]]));
    assert_eq!(made["spec"]["restartPolicy"], "Always", "the server's defaults are nobody's");
    // The image of a pod may change, and tolerations be added.
    let (_, message) = api.refused(POD, "b", pod(json!({ "containers": [{ "name": "main", "image": "2" }] }))).await;
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"a\": .spec.containers[name=\"main\"].image");
    let tolerations = json!([{ "key": "t" }, { "key": "u" }]);
    let (_, message) = api.refused(POD, "b", pod(json!({ "tolerations": tolerations }))).await;
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"a\": .spec.tolerations");
    let owner = |uid: &str| json!({ "apiVersion": "nowhere.io/v1", "kind": "Thing", "name": "n", "uid": uid });
    let owned = |uid: &str, finalizer: &str| {
        let metadata = json!({ "name": "p", "ownerReferences": [owner(uid)], "finalizers": [finalizer], "labels": { uid: "x" } });
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata })
    };
    api.applied(POD, "c", owned("u1", "x/f1")).await;
    let both = api.applied(POD, "d", owned("u2", "x/f2")).await;
    assert_eq!(both["metadata"]["ownerReferences"], json!([owner("u1"), owner("u2")]));
    assert_eq!(
        (&both["metadata"]["finalizers"], &both["metadata"]["labels"]),
        (&json!(["x/f1", "x/f2"]), &json!({ "u1": "x", "u2": "x" }))
    );
    let wanted = json!({ "f:metadata": {
        "f:finalizers": { "v:\"x/f2\"": {} }, "f:labels": { "f:u2": {} }, "f:ownerReferences": { "k:{\"uid\":\"u2\"}": {} },
    } });
    assert!(owners(&both).as_array().unwrap().contains(&json!(["d Apply", wanted])), "{}", owners(&both));
    let left = api.applied(POD, "c", json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" } })).await;
    assert_eq!((&left["metadata"]["ownerReferences"], &left["metadata"]["finalizers"]), (&json!([owner("u2")]), &json!(["x/f2"])));
}

#[tokio::test]
async fn status_is_owned_apart() {
    let api = Api::new();
    api.applied(POD, "a", pod(json!({ "containers": [{ "name": "c" }] }))).await;
    let condition = |kind: &str| json!({ "type": kind, "status": "True" });
    let status = |conditions: Value| json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": { "nodeName": "no" }, "status": { "conditions": conditions } });
    let path = format!("{POD}/status");
    api.applied(&path, "kubelet", status(json!([condition("Ready")]))).await;
    let both = api.applied(&path, "other", status(json!([condition("Mine")]))).await;
    assert_eq!(both["status"]["conditions"], json!([condition("Ready"), condition("Mine")]));
    assert_eq!((&both["status"]["phase"], both["spec"].get("nodeName")), (&json!("Pending"), None));
    let mine = json!({ "f:status": { "f:conditions": { "k:{\"type\":\"Mine\"}": { ".": {}, "f:status": {}, "f:type": {} } } } });
    assert_eq!(owners(&both)[2], json!(["other Apply status", mine]));
    let patched =
        api.patched(&path, "agent", json!({ "status": { "phase": "Running" }, "metadata": { "labels": { "with": "it" } } })).await;
    let labelled = json!({ "f:metadata": { "f:labels": { ".": {}, "f:with": {} } }, "f:status": { "f:phase": {} } });
    assert_eq!(owners(&patched)[1], json!(["agent Update status", labelled]));
    let (_, message) = api.refused(&path, "b", json!({ "apiVersion": "v1", "kind": "Pod", "status": { "phase": "Failed" } })).await;
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"agent\" with subresource \"status\" using v1: .status.phase");
    // The object itself has no status to apply.
    let same = api.applied(POD, "a", json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c" }] }, "status": { "phase": "Failed" } })).await;
    assert_eq!(version(&same), version(&patched));
    assert_eq!(api.refused(&format!("{PODS}/none/status"), "b", pod(json!({}))).await.0, 404);
    api.patched(POD, "x", json!({ "metadata": { "managedFields": [] } })).await;
    let (_, message) = api.refused(&path, "b", json!({ "apiVersion": "v1", "kind": "Pod", "status": { "phase": "Failed" } })).await;
    let wanted = "Apply failed with 1 conflict: conflict with \"before-first-apply\" with subresource \"status\" using v1: .status.phase";
    assert_eq!(message, wanted);
}

const THINGS: &str = "/apis/x.io/v1/things/t";

async fn with_things() -> Api {
    let api = Api::new();
    let named = json!({ "type": "object", "required": ["a"], "properties": {
        "a": { "type": "string" }, "b": { "type": "string", "default": "z" }, "v": { "type": "integer" },
    } });
    let spec = json!({ "type": "object", "properties": {
        "map": { "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["b", "a"], "items": named },
        "set": { "type": "array", "x-kubernetes-list-type": "set", "items": { "type": "string" } },
        "list": { "type": "array", "items": { "type": "integer" } },
        "whole": { "type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": { "type": "string" } },
        "parts": { "type": "object", "additionalProperties": { "type": "object", "properties": { "x": { "type": "integer" } } } },
        "open": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
        "filled": { "type": "integer", "default": 7 },
    } });
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": "things.x.io" },
        "spec": {
            "group": "x.io", "scope": "Cluster", "names": { "plural": "things", "kind": "Thing" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": spec } } } }],
        },
    });
    api.applied("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.x.io", "setup", crd).await;
    api
}

fn thing(spec: Value) -> Value {
    json!({ "apiVersion": "x.io/v1", "kind": "Thing", "metadata": { "name": "t" }, "spec": spec })
}

#[tokio::test]
async fn the_schema_of_a_custom_kind_says_how_it_is_merged() {
    let api = with_things().await;
    let first = json!({
        "map": [{ "a": "1", "v": 1 }], "set": ["x"], "list": [1], "whole": { "k": "1" },
        "parts": { "p": { "x": 1 } }, "open": { "deep": { "er": [1] } },
    });
    let made = api.applied(THINGS, "a", thing(first)).await;
    let wanted = json!({ "f:spec": {
        "f:map": { "k:{\"a\":\"1\",\"b\":\"z\"}": { ".": {}, "f:a": {}, "f:v": {} } },
        "f:set": { "v:\"x\"": {} }, "f:list": {}, "f:whole": {},
        "f:parts": { "f:p": { ".": {}, "f:x": {} } }, "f:open": { "f:deep": { ".": {}, "f:er": {} } },
    } });
    assert_eq!(owners(&made), json!([["a Apply", wanted]]));
    assert_eq!(made["spec"]["filled"], 7);
    let second = json!({ "map": [{ "a": "1", "b": "y", "v": 2 }], "set": ["y", "x"], "parts": { "q": { "x": 2 } }, "open": { "more": 1 } });
    let both = api.applied(THINGS, "b", thing(second)).await;
    let wanted = json!({
        "map": [{ "a": "1", "b": "z", "v": 1 }, { "a": "1", "b": "y", "v": 2 }], "set": ["y", "x"], "list": [1], "whole": { "k": "1" },
        "parts": { "p": { "x": 1 }, "q": { "x": 2 } }, "open": { "deep": { "er": [1] }, "more": 1 }, "filled": 7,
    });
    assert_eq!(both["spec"], wanted);
    for (spec, field) in [
        (json!({ "whole": { "l": "2" } }), ".spec.whole"),
        (json!({ "list": [1, 2] }), ".spec.list"),
        (json!({ "map": [{ "a": "1", "v": 3 }] }), ".spec.map[a=\"1\",b=\"z\"].v"),
        (json!({ "open": { "deep": { "er": [] } } }), ".spec.open.deep.er"),
    ] {
        let (_, message) = api.refused(THINGS, "c", thing(spec)).await;
        assert_eq!(message, format!("Apply failed with 1 conflict: conflict with \"a\": {field}"));
    }
    let left = api.applied(THINGS, "a", thing(json!({ "set": ["x"] }))).await;
    let wanted = json!({ "map": [{ "a": "1", "b": "y", "v": 2 }], "set": ["y", "x"], "parts": { "q": { "x": 2 } }, "open": { "more": 1 }, "filled": 7 });
    assert_eq!(left["spec"], wanted);
    let (code, message) = api.refused(THINGS, "a", thing(json!({ "unknown": 1 }))).await;
    let wanted = "failed to create typed patch object (/t; x.io/v1, Kind=Thing): .spec.unknown: field not declared in schema";
    assert_eq!((code, message.as_str()), (400, wanted));
}

#[tokio::test]
async fn objects_may_be_as_deep_as_their_readers_allow() {
    let api = with_things().await;
    let deep = (0..120).fold(json!(1), |inner, _| json!({ "d": inner }));
    let (code, made) = api.send("POST", "/apis/x.io/v1/things", "application/json", &thing(json!({ "open": deep }))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(api.get(THINGS).await, made);
    let patched = api.patched(THINGS, "x", json!({ "spec": { "filled": 1 } })).await;
    assert_eq!(patched["spec"]["filled"], 1);
    assert_eq!(api.applied(THINGS, "me", thing(json!({ "filled": 1 }))).await["spec"]["open"], made["spec"]["open"]);
}

#[tokio::test]
async fn built_in_kinds_can_be_applied_in_part() {
    let api = Api::new();
    let path = "/apis/apps/v1/namespaces/default/deployments/d";
    let deployment = |spec: Value| json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" }, "spec": spec });
    let template =
        |image: &str| json!({ "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "c", "image": image }] } });
    let whole = json!({ "selector": { "matchLabels": { "a": "b" } }, "replicas": 1, "template": template("1") });
    api.applied(path, "a", deployment(whole)).await;
    let scaled = api.force(path, "scaler", deployment(json!({ "replicas": 3 }))).await;
    assert_eq!((&scaled["spec"]["replicas"], &scaled["spec"]["selector"]["matchLabels"]["a"]), (&json!(3), &json!("b")));
    assert_eq!(owners(&scaled)[1], json!(["scaler Apply", { "f:spec": { "f:replicas": {} } }]));
    let (_, created) = api.send("POST", "/api/v1/namespaces", "application/json", &json!({ "metadata": { "name": "n" } })).await;
    let labels = json!({ "f:metadata": { "f:labels": { ".": {}, "f:kubernetes.io/metadata.name": {} } } });
    assert_eq!(owners(&created), json!([["agent Update", labels]]));
    let (_, made) = api.send("POST", PODS, "application/json", &pod(json!({ "containers": [{ "name": "c" }] }))).await;
    let wanted = json!({ "f:spec": {
        "f:containers": { "k:{\"name\":\"c\"}": { ".": {}, "f:name": {} } }, "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {},
        "f:terminationGracePeriodSeconds": {},
    } });
    assert_eq!(owners(&made), json!([["agent Update", wanted]]));
}

#[tokio::test]
async fn what_kubectl_applied_before_is_its_own() {
    let api = Api::new();
    let mut before = map(json!({ "a": "1" }));
    before["metadata"]["annotations"] = json!({ "kubectl.kubernetes.io/last-applied-configuration": map(json!({ "a": "1" })).to_string() });
    api.send("POST", &query(MAPS, "fieldManager=kubectl-client-side-apply"), "application/json", &before).await;
    assert_eq!(api.refused(MAP, "me", map(json!({ "a": "2" }))).await.0, 409);
    let taken = api.applied(MAP, "kubectl", map(json!({ "a": "2" }))).await;
    assert_eq!(taken["data"]["a"], "2");
    let annotation = taken["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(annotation).unwrap(), map(json!({ "a": "2" })));
}

fn data() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[abcd]", "[xy]", 0..4).prop_map(|data| json!(data))
}

fn spec() -> impl Strategy<Value = Value> {
    let map = proptest::collection::btree_map(("[12]", "[yz]"), 0..3i64, 0..4)
        .prop_map(|items| items.into_iter().map(|((a, b), v)| json!({ "a": a, "b": b, "v": v })).collect::<Value>());
    let set = proptest::collection::btree_set("[uvw]", 0..3).prop_map(|set| json!(set));
    let parts = proptest::collection::btree_map("[pq]", 0..3i64, 0..3)
        .prop_map(|parts| parts.into_iter().map(|(name, x)| (name, json!({ "x": x }))).collect::<serde_json::Map<_, _>>().into());
    let field = |name: &'static str, value: BoxedStrategy<Value>| proptest::option::of(value).prop_map(move |value| (name, value));
    (
        field("map", map.boxed()),
        field("set", set.boxed()),
        field("parts", parts.boxed()),
        field("list", proptest::collection::vec(0..3i64, 0..3).prop_map(|list| json!(list)).boxed()),
        field("filled", (0..3i64).prop_map(Value::from).boxed()),
    )
        .prop_map(|(a, b, c, d, e)| {
            let given = [a, b, c, d, e].into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
            given.collect::<serde_json::Map<_, _>>().into()
        })
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn applying_the_same_twice_changes_nothing(others in proptest::collection::vec(spec(), 0..3), spec in spec()) {
        run(async {
            let api = with_things().await;
            for (n, other) in others.into_iter().enumerate() {
                api.send("PATCH", &query(THINGS, &format!("fieldManager=m{n}&force=true")), APPLY, &thing(other)).await;
            }
            let path = query(THINGS, "fieldManager=me&force=true");
            let (_, once) = api.send("PATCH", &path, APPLY, &thing(spec.clone())).await;
            let (code, twice) = api.send("PATCH", &path, APPLY, &thing(spec)).await;
            assert_eq!((code, twice), (200, once));
        });
    }

    #[test]
    fn managers_with_fields_of_their_own_commute(a in data(), b in data()) {
        run(async {
            // Fields are disjoint, as one has them in capitals.
            let upper: Value = serde_json::from_str(&b.to_string().to_uppercase()).unwrap();
            let mut ends = Vec::new();
            for order in [[0, 1], [1, 0]] {
                let api = Api::new();
                for who in order {
                    api.applied(MAP, &format!("m{who}"), map([&a, &upper][who].clone())).await;
                }
                let end = api.get(MAP).await;
                let mut owners = owners(&end).as_array().unwrap().clone();
                owners.sort_by_key(Value::to_string);
                ends.push((end["data"].clone(), owners));
            }
            assert_eq!(ends[0], ends[1]);
        });
    }

    #[test]
    fn who_leaves_takes_exactly_what_was_theirs(first in spec(), second in spec()) {
        run(async {
            let (api, alone) = (with_things().await, with_things().await);
            api.applied(THINGS, "a", thing(first)).await;
            api.force(THINGS, "b", thing(second.clone())).await;
            let left = api.applied(THINGS, "a", json!({ "apiVersion": "x.io/v1", "kind": "Thing", "metadata": { "name": "t" } })).await;
            let wanted = alone.applied(THINGS, "b", thing(second)).await;
            let filled = |object: &Value| {
                let mut spec = object["spec"].clone();
                // What is empty, or filled in by the server, may stay.
                if let Some(spec) = spec.as_object_mut() {
                    spec.retain(|field, value| field != "filled" && *value != json!([]) && *value != json!({}));
                }
                if spec.is_null() { json!({}) } else { spec }
            };
            assert_eq!(filled(&left), filled(&wanted));
        });
    }
}
