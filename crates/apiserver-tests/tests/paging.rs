//! Pages of a list: of one moment, or of the present when that moment is forgotten.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn send(server: &apiserver::Server, method: &str, uri: &str, body: Value) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(uri).body(Body::from(body.to_string())).unwrap();
    let response = server.router().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap())
}

async fn create(server: &apiserver::Server, name: &str) {
    let (status, answer) = send(server, "POST", MAPS, json!({ "metadata": { "name": name } })).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_expired_token_answers_410_with_a_token_for_what_is_left_now() {
    let server = apiserver::Server::open_with_history(None, 4).unwrap();
    for name in ["a", "b", "c"] {
        create(&server, name).await;
    }
    let (_, first) = send(&server, "GET", &format!("{MAPS}?limit=1"), Value::Null).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    for name in ["a1", "d", "e", "f", "g"] {
        create(&server, name).await;
    }
    let (status, gone) = send(&server, "GET", &format!("{MAPS}?limit=1&continue={token}"), Value::Null).await;
    assert_eq!((status, gone["reason"].as_str()), (StatusCode::GONE, Some("Expired")));
    assert!(gone["message"].as_str().unwrap().starts_with("The provided continue parameter is too old"), "{gone}");
    let token = gone["metadata"]["continue"].as_str().unwrap();
    let (status, rest) = send(&server, "GET", &format!("{MAPS}?limit=3&continue={token}"), Value::Null).await;
    assert_eq!((status, names(&rest)), (StatusCode::OK, vec!["a1", "b", "c"]));
    // From here on the pages are of one moment again.
    let token = rest["metadata"]["continue"].as_str().unwrap();
    create(&server, "d1").await;
    let (_, last) = send(&server, "GET", &format!("{MAPS}?continue={token}"), Value::Null).await;
    assert_eq!(names(&last), ["d", "e", "f", "g"]);
    assert_eq!(last["metadata"]["resourceVersion"], rest["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn a_list_can_be_had_as_it_was_at_a_version_that_is_remembered() {
    let server = apiserver::Server::open_with_history(None, 2).unwrap();
    create(&server, "a").await;
    let (_, list) = send(&server, "GET", MAPS, Value::Null).await;
    let then = list["metadata"]["resourceVersion"].as_str().unwrap();
    create(&server, "b").await;
    let exact = format!("{MAPS}?resourceVersion={then}&resourceVersionMatch=Exact");
    assert_eq!(names(&send(&server, "GET", &exact, Value::Null).await.1), ["a"]);
    let newer = format!("{MAPS}?resourceVersion={then}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&send(&server, "GET", &newer, Value::Null).await.1), ["a", "b"]);
    for name in ["c", "d"] {
        create(&server, name).await;
    }
    assert_eq!(send(&server, "GET", &exact, Value::Null).await.0, StatusCode::GONE);
}

#[tokio::test]
async fn a_token_leads_nowhere_but_into_the_collection_that_is_listed() {
    let server = apiserver::Server::open(None).unwrap();
    create(&server, "a").await;
    let (status, list) = send(&server, "GET", &format!("{MAPS}?continue=-1:"), Value::Null).await;
    assert_eq!((status, names(&list)), (StatusCode::OK, vec!["a"]));
    let (status, list) = send(&server, "GET", &format!("{MAPS}?continue=-1:z/../../"), Value::Null).await;
    assert_eq!((status, names(&list)), (StatusCode::OK, vec![]));
    for bad in ["x", "x:a", "99999999999999999999:a"] {
        assert_eq!(send(&server, "GET", &format!("{MAPS}?continue={bad}"), Value::Null).await.0, StatusCode::BAD_REQUEST, "{bad}");
    }
}
