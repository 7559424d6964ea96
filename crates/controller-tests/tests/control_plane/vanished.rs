//! Objects that vanish without having been deleted, or cannot be read any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use api::{annotations, v1};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use controller::Config;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Event, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::harness::{
    Controller, Database, Mirror, PATIENCE, allocated, cluster, create_pod, create_subnet, gone, install, note, pods, until, within,
};

/// How the API server answers.
#[derive(Clone)]
enum Mode {
    Truly(Router),
    /// Nothing may be read or written.
    Denied,
    /// Every list of these is empty, and every watch silent.
    Emptied(Router, &'static [&'static str]),
}

/// Between the controller and an API server, which it can put another in the place of. Watches end when it changes.
#[derive(Clone)]
struct Front {
    mode: Arc<Mutex<(Mode, CancellationToken)>>,
    /// Versions of the lists that were emptied.
    versions: Arc<Mutex<Vec<String>>>,
}

impl Front {
    fn new(mode: Mode) -> Self {
        Self { mode: Arc::new(Mutex::new((mode, CancellationToken::new()))), versions: Arc::default() }
    }

    fn client(&self) -> Client {
        Client::new(Router::new().fallback(answer).with_state(self.clone()), "default")
    }

    fn set(&self, mode: Mode) {
        let (_, ends) = std::mem::replace(&mut *self.mode.lock().unwrap(), (mode, CancellationToken::new()));
        ends.cancel();
    }
}

async fn answer(State(front): State<Front>, request: Request) -> Response {
    let (mode, ends) = front.mode.lock().unwrap().clone();
    let status = |code: StatusCode, reason: &str| {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code.as_u16() });
        (code, [(header::CONTENT_TYPE, "application/json")], status.to_string()).into_response()
    };
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    let from = |version: &String| query.split('&').any(|part| part.strip_prefix("resourceVersion=") == Some(version));
    let emptied = front.versions.lock().unwrap().iter().any(from);
    let server = match mode {
        // Nor does a watch go on from a list that was not true.
        Mode::Truly(_) if emptied => return status(StatusCode::GONE, "Expired"),
        Mode::Denied => return status(StatusCode::FORBIDDEN, "Forbidden"),
        Mode::Emptied(server, kinds) if *request.method() == Method::GET && kinds.iter().any(|kind| path.ends_with(kind)) => {
            if query.contains("watch=true") {
                // Only who has listed anew may watch.
                if !emptied {
                    return status(StatusCode::GONE, "Expired");
                }
                let silent = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
                return Body::from_stream(silent.take_until(ends.cancelled_owned())).into_response();
            }
            let (_, body) = server.oneshot(request).await.unwrap().into_parts();
            let mut list: Value = serde_json::from_slice(&axum::body::to_bytes(body, usize::MAX).await.unwrap()).unwrap();
            front.versions.lock().unwrap().push(list["metadata"]["resourceVersion"].as_str().unwrap().to_owned());
            (list["items"], list["metadata"]["continue"]) = (json!([]), Value::Null);
            return ([(header::CONTENT_TYPE, "application/json")], list.to_string()).into_response();
        }
        Mode::Truly(server) | Mode::Emptied(server, _) => server,
    };
    let (parts, body) = server.oneshot(request).await.unwrap().into_parts();
    Response::from_parts(parts, Body::from_stream(body.into_data_stream().take_until(ends.cancelled_owned())))
}

fn router(client: &Client) -> Router {
    let client = client.clone();
    Router::new().fallback(move |request: Request| {
        let client = client.clone();
        async move {
            let (parts, body) = request.into_parts();
            let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            let answer = client.send(http::Request::from_parts(parts, bytes.to_vec().into())).await.unwrap();
            let (parts, body) = answer.into_parts();
            Response::from_parts(parts, Body::new(body))
        }
    })
}

/// The text of the next event that says that a removal is held.
async fn told_what_is_held(client: &Client) -> String {
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let mut stream = std::pin::pin!(events.watch(&WatchParams::default().timeout(60), "0").await.unwrap());
    let held = async {
        while let Some(event) = stream.try_next().await.unwrap() {
            if let WatchEvent::Added(event) = event
                && event.reason.as_deref() == Some("RemovalHeld")
            {
                return event.message.unwrap();
            }
        }
        panic!("no event says that a removal is held")
    };
    timeout(PATIENCE, held).await.expect("an event says that a removal is held")
}

/// What the default VPC's condition says is held, once it mentions `what`.
async fn held(client: &Client, what: &str) -> String {
    let message = |vpc: &v1::Vpc| {
        let conditions = vpc.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        conditions.into_iter().find(|c| c.r#type == "RemovalHeld" && c.status == "True").map(|c| c.message)
    };
    let vpcs: Api<v1::Vpc> = Api::all(client.clone());
    let vpc = until(&vpcs, "ovn-cluster", "the condition", |vpc| message(vpc).is_some_and(|m| m.contains(what))).await;
    message(&vpc).unwrap()
}

async fn nothing_is_held(client: &Client) {
    let free = |vpc: &v1::Vpc| {
        let conditions = vpc.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        conditions.iter().all(|c| c.r#type != "RemovalHeld" || c.status == "False")
    };
    until(&Api::<v1::Vpc>::all(client.clone()), "ovn-cluster", "nothing is held", free).await;
}

/// Confirms as the text says.
async fn confirm(client: &Client, message: &str) {
    let token = message.split_once("ferrovia.io/confirm-removal=").unwrap().1.split([',', ' ']).next().unwrap();
    let patch = json!({ "metadata": { "annotations": { annotations::CONFIRM_REMOVAL: token } } });
    Api::<Namespace>::all(client.clone()).patch("kube-system", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

/// A cluster of ten pods behind a front.
async fn ten_pods() -> (Client, Front, Database, Mirror, Controller) {
    let (client, database, mut mirror) = cluster().await;
    let front = Front::new(Mode::Truly(router(&client)));
    let controller = Controller::start(&front.client(), &database);
    create_subnet(&client, "spare", json!({ "vpc": "ovn-cluster", "cidrBlock": "10.77.0.0/24" })).await;
    for i in 0..10 {
        create_pod(&client, &format!("p{i}"), &[]).await;
        allocated(&client, &format!("p{i}")).await;
    }
    // With the routers' ends.
    mirror.until("all ports", |m| m.ports().len() == 12).await;
    (client, front, database, mirror, controller)
}

async fn nothing_went(mirror: &mut Mirror, database: &Database, before: &BTreeMap<String, String>) {
    mirror.catch_up(database).await;
    let now = mirror.ports();
    assert!(before.iter().all(|(name, addresses)| now.get(name) == Some(addresses)), "{before:#?} {now:#?}");
}

#[test]
fn lists_that_come_back_empty_take_nothing_away_until_it_is_confirmed_and_hold_up_nothing_else() {
    within(async {
        let (client, front, database, mut mirror, controller) = ten_pods().await;
        let before = mirror.ports();
        front.set(Mode::Emptied(router(&client), &["/pods", "/subnets", "/namespaces"]));
        for what in ["10 Pod", "2 Subnet", " Namespace"] {
            held(&client, what).await;
        }
        assert!(told_what_is_held(&client).await.contains("nobody deleted one by one"));
        nothing_went(&mut mirror, &database, &before).await;

        // They are back, but for one that was deleted meanwhile.
        pods(&client).delete("p0", &DeleteParams::default().grace_period(0)).await.unwrap();
        front.set(Mode::Truly(router(&client)));
        nothing_is_held(&client).await;
        mirror.until("the deleted one is gone", |m| m.ports().len() == 11).await;
        // Another time they are really gone: meanwhile others are served, and no address is given twice.
        let before = mirror.ports();
        front.set(Mode::Emptied(router(&client), &["/pods"]));
        held(&client, "9 Pod").await;
        for i in 1..10 {
            pods(&client).delete(&format!("p{i}"), &DeleteParams::default().grace_period(0)).await.unwrap();
        }
        create_pod(&client, "new", &[]).await;
        front.set(Mode::Truly(router(&client)));
        let new = allocated(&client, "new").await;
        assert_eq!(note(&new, annotations::IP_ADDRESS).as_deref(), Some("10.16.0.12"), "the next that nobody had");
        nothing_went(&mut mirror, &database, &before).await;
        confirm(&client, &held(&client, "9 Pod").await).await;
        mirror.until("confirmed, they go", |m| m.ports().len() == 3 && m.ports().contains_key("new.default")).await;
        nothing_is_held(&client).await;
        controller.stop().await;
    });
}

#[test]
fn an_api_server_restored_to_an_empty_state_takes_nothing_away_until_it_is_confirmed() {
    within(async {
        let (_client, front, database, mut mirror, controller) = ten_pods().await;
        let before = mirror.ports();
        // Without even the definitions at first.
        let empty = apiserver::Server::open(None).unwrap().client();
        front.set(Mode::Truly(router(&empty)));
        let message = told_what_is_held(&empty).await;
        assert!(message.contains("10 Pod"), "{message}");
        nothing_went(&mut mirror, &database, &before).await;
        install(&empty).await;
        let vpc = serde_json::from_value(
            json!({ "apiVersion": "kubeovn.io/v1", "kind": "Vpc", "metadata": { "name": "ovn-cluster" }, "spec": {} }),
        )
        .unwrap();
        Api::<v1::Vpc>::all(empty.clone()).create(&PostParams::default(), &vpc).await.unwrap();
        let message = held(&empty, "2 Subnet").await;
        assert!(message.contains("10 Pod"), "{message}");
        nothing_went(&mut mirror, &database, &before).await;

        // A controller that starts now knows of rows only. It holds as well, and says so.
        controller.kill().await;
        let controller = Controller::start(&front.client(), &database);
        let message = held(&empty, "a commit that would remove 13 of 17 rows").await;
        nothing_went(&mut mirror, &database, &before).await;
        confirm(&empty, &message).await;
        mirror.until("confirmed, they go", |m| m.ports().keys().all(|name| !name.ends_with(".default"))).await;
        nothing_is_held(&empty).await;
        controller.stop().await;
    });
}

#[test]
fn definitions_that_are_deleted_take_nothing_away_until_it_is_confirmed() {
    within(async {
        let (client, _front, database, mut mirror, controller) = ten_pods().await;
        let vip = json!({ "apiVersion": "kubeovn.io/v1", "kind": "Vip", "metadata": { "name": "v" }, "spec": { "subnet": "spare" } });
        let vips: Api<v1::Vip> = Api::all(client.clone());
        vips.create(&PostParams::default(), &serde_json::from_value(vip).unwrap()).await.unwrap();
        until(&vips, "v", "an address", |vip| vip.status.as_ref().is_some_and(|s| s.v4_ip.as_deref() == Some("10.77.0.2"))).await;
        let before = mirror.ports();
        let rows = mirror.rows();
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        crds.delete("vips.kubeovn.io", &DeleteParams::default()).await.unwrap();
        held(&client, "1 Vip").await;
        crds.delete("subnets.kubeovn.io", &DeleteParams::default()).await.unwrap();
        let message = held(&client, "2 Subnet").await;
        nothing_went(&mut mirror, &database, &before).await;
        assert_eq!(mirror.rows(), rows);
        // An address of a subnet that is going, on its definition's word, is still held for who had it.
        create_pod(&client, "next", &[(annotations::LOGICAL_SWITCH, "spare")]).await;
        mirror.until("a port", |m| m.ports().get("next.default").is_some_and(|a| a.ends_with(" 10.77.0.3"))).await;
        pods(&client).delete("next", &DeleteParams::default().grace_period(0)).await.unwrap();
        mirror.until("no port", |m| !m.ports().contains_key("next.default")).await;
        nothing_went(&mut mirror, &database, &before).await;

        confirm(&client, &message).await;
        // The subnet without pods goes; that of the pods waits for them.
        mirror.until("the spare subnet is gone", |m| m.ports().len() == 11).await;
        gone(&Api::<v1::Subnet>::all(client.clone()), "spare").await;
        controller.stop().await;
    });
}

#[test]
fn one_that_starts_while_a_definition_goes_holds_what_goes_with_it() {
    within(async {
        let (client, front, database, mut mirror, controller) = ten_pods().await;
        let before = mirror.ports();
        controller.kill().await;
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        crds.delete("subnets.kubeovn.io", &DeleteParams::default()).await.unwrap();
        until(&Api::<v1::Subnet>::all(client.clone()), "spare", "on its way out", |s| s.metadata.deletion_timestamp.is_some()).await;
        let controller = Controller::start(&front.client(), &database);
        create_pod(&client, "another", &[]).await;
        allocated(&client, "another").await;
        let message = held(&client, "2 Subnet").await;
        nothing_went(&mut mirror, &database, &before).await;
        confirm(&client, &message).await;
        gone(&Api::<v1::Subnet>::all(client.clone()), "spare").await;
        mirror.until("the spare subnet is gone", |m| m.ports().len() == 12).await;
        controller.stop().await;
    });
}

#[test]
fn without_permission_nothing_changes_and_afterwards_all_goes_on() {
    within(async {
        let (client, front, database, mut mirror, controller) = ten_pods().await;
        let before = mirror.ports();
        front.set(Mode::Denied);
        create_pod(&client, "meanwhile", &[]).await;
        pods(&client).delete("p0", &DeleteParams::default().grace_period(0)).await.unwrap();
        nothing_went(&mut mirror, &database, &before).await;
        // One that starts without permission does nothing either.
        let other = Controller::start(&front.client(), &database);
        nothing_went(&mut mirror, &database, &before).await;
        other.kill().await;
        front.set(Mode::Truly(router(&client)));
        allocated(&client, "meanwhile").await;
        mirror.until("the deleted one is gone", |m| !m.ports().contains_key("p0.default")).await;
        controller.stop().await;
    });
}

#[test]
fn a_first_comparison_that_would_remove_much_waits_for_the_flag() {
    within(async {
        let (_client, _front, database, mut mirror, controller) = ten_pods().await;
        controller.kill().await;
        let (empty, _other, _mirror) = cluster().await;
        let controller = Controller::start(&empty, &database);
        let message = told_what_is_held(&empty).await;
        assert!(message.contains("--confirm-removal"), "{message}");
        mirror.catch_up(&database).await;
        assert_eq!(mirror.ports().len(), 12);
        controller.stop().await;

        let stop = CancellationToken::new();
        let config = Config { confirm_removal: true, ..Config::new(database.remote()) };
        let task = tokio::spawn(controller::run(empty.clone(), config, stop.clone()));
        mirror.until("confirmed, they go", |m| m.ports().len() <= 1).await;
        stop.cancel();
        task.await.unwrap().unwrap();
    });
}
