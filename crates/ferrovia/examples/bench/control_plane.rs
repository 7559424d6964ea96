//! The controller between the embedded API and real OVSDB servers, with and without `ovn-northd`.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use api::view::PodView;
use api::{annotations, v1};
use controller::Config;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use ovsdb::Remote;
use ovsdb_types::nb::{logical_switch, logical_switch_port};
use ovsdb_types::sb::port_binding;
use ovsdb_types::{Monitored, nb, sb};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::follower::Follower;
use crate::report::{Report, Row};
use crate::servers::{Database, northd};

const PODS: usize = 10_000;

pub fn measure(report: &mut Report) {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(alone(report));
    runtime.block_on(with_northd(report));
}

async fn alone(report: &mut Report) {
    let folder = tempfile::tempdir().unwrap();
    let mut database = Database::start(folder.path(), "nb");
    let client = cluster().await;

    let began = Instant::now();
    let controller = Controller::start(&client, &database.remote());
    all_recorded(&client).await;
    let row = Row::new("10,000 pods at once: rows committed and pods patched", began.elapsed().as_secs_f64(), "s");
    report.add(row.at_most(8.0));
    controller.stop().await;

    let (changes, took) = restart(&database.remote(), &client).await;
    report.add(Row::new("northbound rows written by a restart on 10,000 pods", changes as f64, "rows").exactly(0.0));
    report.add(Row::new("restart on 10,000 pods until converged", took.as_secs_f64(), "s").at_most(1.0));

    let controller = Controller::start(&client, &database.remote());
    let mut ports = Follower::start(&database.remote(), Monitored::tables(&nb::SCHEMA, &[logical_switch_port::TABLE])).await;
    // Stopping and starting the server are part of it.
    let began = Instant::now();
    database.wipe();
    ports.lost().await;
    ports.rows(logical_switch_port::TABLE, PODS).await;
    let row = Row::new("northbound database wiped: until the rows of 10,000 pods are back", began.elapsed().as_secs_f64(), "s");
    report.add(row.at_most(3.0));
    controller.stop().await;
}

async fn with_northd(report: &mut Report) {
    let folder = tempfile::tempdir().unwrap();
    let northbound = Database::start(folder.path(), "nb");
    let southbound = Database::start(folder.path(), "sb");
    let _northd = northd(folder.path(), &northbound, &southbound);
    let client = cluster().await;
    let monitored = Monitored { schema: &sb::SCHEMA, tables: vec![(port_binding::TABLE, vec![port_binding::LOGICAL_PORT.index])] };
    let mut ports = Follower::start(&southbound.remote(), monitored).await;

    let began = Instant::now();
    let controller = Controller::start(&client, &northbound.remote());
    all_recorded(&client).await;
    let recorded = began.elapsed();
    ports.rows(port_binding::TABLE, PODS).await;
    let row = Row::new("10,000 pods at once, ovn-northd running: committed and patched", recorded.as_secs_f64(), "s");
    report.add(row.at_most(8.0));
    let row = Row::new("10,000 pods at once, ovn-northd running: all in the southbound database", began.elapsed().as_secs_f64(), "s");
    report.add(row.at_most(20.0));
    controller.stop().await;
}

/// The embedded API with our kinds and all pods.
async fn cluster() -> Client {
    let client = apiserver::Server::open(None).unwrap().client();
    for crd in v1::crds() {
        Api::all(client.clone()).create(&PostParams::default(), &crd).await.unwrap();
    }
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let creations = futures::stream::iter(0..PODS).map(|i| {
        let pods = pods.clone();
        async move {
            let pod = json!({ "metadata": { "name": format!("pod-{i}") }, "spec": { "containers": [{ "name": "c", "image": "none" }] } });
            pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        }
    });
    creations.buffer_unordered(128).collect::<Vec<()>>().await;
    client
}

struct Controller {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Controller {
    fn start(client: &Client, northbound: &Remote) -> Self {
        let stop = CancellationToken::new();
        let run = controller::run(client.clone(), Config::new(northbound.clone()), stop.clone());
        Self { stop, task: tokio::spawn(async move { run.await.unwrap() }) }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn all_recorded(client: &Client) {
    let views: Api<PodView> = Api::default_namespaced(client.clone());
    let mut recorded = HashSet::new();
    let mut events = views.watch(&WatchParams::default().timeout(290), "0").await.unwrap().boxed();
    while recorded.len() < PODS {
        if let Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = events.try_next().await.unwrap()
            && pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(annotations::ALLOCATED))
        {
            recorded.insert(pod.metadata.name.unwrap());
        }
    }
}

/// Row changes that a restart makes, and the time until it has looked at everything: then it makes the one subnet's switch
/// that was asked for meanwhile, which is not counted.
async fn restart(remote: &Remote, client: &Client) -> (usize, Duration) {
    let mut follower = Follower::start(remote, Monitored::tables(&nb::SCHEMA, &[logical_switch::TABLE, logical_switch_port::TABLE])).await;
    let marker = json!({ "apiVersion": "kubeovn.io/v1", "kind": "Subnet", "metadata": { "name": "marker" }, "spec": { "cidrBlock": "10.99.0.0/24" } });
    Api::<v1::Subnet>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(marker).unwrap()).await.unwrap();
    let began = Instant::now();
    let controller = Controller::start(client, remote);
    let mut changes = 0;
    while !follower.replica.rows(logical_switch::TABLE).any(|r| r.text(logical_switch::NAME) == "marker") {
        changes += follower.next().await;
    }
    let took = began.elapsed();
    controller.stop().await;
    // The marker's switch and its router port's peer.
    (changes - 2, took)
}
