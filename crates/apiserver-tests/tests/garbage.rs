//! Whatever is sent, the answer is an error that says so: no panic, no internal error.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use axum::body::Body;
use http::{Request, StatusCode};
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt;

const PATHS: &[&str] = &[
    "/api/v1/namespaces/default/pods",
    "/api/v1/namespaces/default/pods/a",
    "/api/v1/namespaces/default/pods/a/status",
    "/api/v1/namespaces/default/pods/a/binding",
    "/api/v1/namespaces/default/pods/a/log",
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    "/api/v1/namespaces",
    "/api/v1/namespaces/n",
    "/api/v1/nodes",
    "/apis/kubeovn.io/v1/subnets",
    "/apis/kubeovn.io/v1/subnets/a",
    "/apis/kubeovn.io/v1/subnets/a/status",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/a.b",
    "/apis/events.k8s.io/v1/namespaces/default/events",
    "/openapi/v3/x",
    "/api/v1/namespaces/%ff/pods",
    "/api/v1/%",
    "//",
];

const MEDIA: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/json-patch+json",
    "application/apply-patch+yaml",
    "application/vnd.kubernetes.protobuf",
];

const QUERIES: &[&str] = &[
    "",
    "?watch=1&timeoutSeconds=0",
    "?limit=-1",
    "?limit=2&continue=x",
    "?continue=9:%2e",
    "?resourceVersion=99999999999999999999",
    "?resourceVersion=7&resourceVersionMatch=Exact",
    "?labelSelector=a%20in%20(",
    "?labelSelector=)),,((",
    "?fieldSelector==",
    "?fieldValidation=Strict",
    "?dryRun=x",
    "?fieldManager=m",
    "?fieldManager=n&force=true",
    "?fieldManager=%0a",
    "?propagationPolicy=Orphan",
    "?includeObject=x",
    "?%",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~é]{0,12}".prop_map(Value::from),
        prop_oneof![Just("a"), Just("v1"), Just("Pod"), Just("kubeovn.io/v1"), Just("Subnet"), Just("10.0.0.0/8"), Just("delete")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let field = prop_oneof![
            Just("metadata"),
            Just("name"),
            Just("namespace"),
            Just("spec"),
            Just("status"),
            Just("containers"),
            Just("finalizers"),
            Just("apiVersion"),
            Just("kind"),
            Just("labels"),
            Just("cidrBlock"),
            Just("gateway"),
            Just("$patch"),
            Just("target"),
            Just("op"),
            Just("path"),
            Just("versions"),
            Just("names"),
            Just("generateName"),
            Just("$setElementOrder/containers"),
            Just("preconditions"),
            Just("propagationPolicy"),
            Just("ownerReferences"),
            Just("uid"),
            Just("resourceVersion"),
            Just("gracePeriodSeconds"),
            Just("managedFields"),
            Just("fieldsV1"),
            Just("operation"),
            Just("f:spec"),
            Just("env"),
            Just("ports"),
            Just("x"),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(field.prop_map(str::to_owned), inner, 0..5).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => value().prop_map(|v| v.to_string().into_bytes()), 1 => proptest::collection::vec(any::<u8>(), 0..40)]
}

async fn send(server: &apiserver::Server, request: Request<Body>) -> (StatusCode, Vec<u8>) {
    let response = server.router().oneshot(request).await.unwrap();
    let status = response.status();
    let read = axum::body::to_bytes(response.into_body(), usize::MAX);
    (status, tokio::time::timeout(std::time::Duration::from_secs(5), read).await.expect("the answer ends").unwrap().to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_refused_and_never_an_internal_error(
        requests in proptest::collection::vec((0..5usize, 0..PATHS.len(), 0..QUERIES.len(), 0..MEDIA.len(), body()), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = apiserver::Server::open(None).unwrap();
            let post = |path: &str, body: Value| Request::post(path).body(Body::from(body.to_string())).unwrap();
            for crd in api::v1::crds() {
                let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
                assert_eq!(send(&server, post(path, serde_json::to_value(&crd).unwrap())).await.0, 201);
            }
            let pod = json!({ "metadata": { "name": "a" }, "spec": { "containers": [{ "name": "c" }] } });
            assert_eq!(send(&server, post("/api/v1/namespaces/default/pods", pod)).await.0, 201);
            let subnet = json!({ "apiVersion": "kubeovn.io/v1", "kind": "Subnet", "metadata": { "name": "a" }, "spec": { "cidrBlock": "10.0.0.0/8" } });
            assert_eq!(send(&server, post("/apis/kubeovn.io/v1/subnets", subnet)).await.0, 201);
            for (method, path, query, media, body) in requests {
                let uri = format!("{}{}", PATHS[path], QUERIES[query]);
                let request = Request::builder().method(["GET", "POST", "PUT", "PATCH", "DELETE"][method]).uri(&uri);
                let shown = String::from_utf8_lossy(&body).into_owned();
                let request = request.header("content-type", MEDIA[media]).body(Body::from(body)).unwrap();
                let (status, answer) = send(&server, request).await;
                assert!(status.as_u16() < 500, "{method} {uri} {} {shown}: {status} {}", MEDIA[media], String::from_utf8_lossy(&answer));
                if status.as_u16() >= 400 {
                    let status: Value = serde_json::from_slice(&answer).expect("a Status");
                    assert_eq!(status["kind"], "Status");
                }
            }
            // Typed clients can still read everything.
            let pods = kube::Api::<k8s_openapi::api::core::v1::Pod>::all(server.client());
            pods.list(&kube::api::ListParams::default()).await.unwrap();
        });
    }
}
