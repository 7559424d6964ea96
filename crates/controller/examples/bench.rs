//! `make bench`: the control plane between the embedded API and a real `ovsdb-server`, and the allocator, against the
//! targets of the design. Times are of one run on this machine; counts are exact.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails by panicking")]

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::view::PodView;
use api::{annotations, v1};
use controller::Config;
use futures::{StreamExt, TryStreamExt};
use ipam::{Ipam, Request, SubnetSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use ovsdb::{Remote, connect};
use ovsdb_types::nb::{logical_switch, logical_switch_port};
use ovsdb_types::{Monitored, Replica, nb};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const PODS: usize = 10_000;

fn row(what: &str, value: String, target: &str, met: bool) {
    println!("{what:<72} {value:>14}  {target:<12} {}", if met { "met" } else { "MISSED" });
}

#[tokio::main]
async fn main() {
    println!("{:<72} {:>14}  {:<12}", "row", "reached", "target");
    allocator();
    control_plane().await;
    for later in
        ["... all in the southbound database", "150,000 pods", "CNI ADD percentiles", "egress growth", "raw OVSDB ratio", "agent memory"]
    {
        println!("{later:<72} {:>14}", "not yet");
    }
}

/// A /8 half full at random.
fn allocator() {
    let mut ipam = Ipam::default();
    let subnet: Arc<str> = "s".into();
    ipam.set_subnet(&subnet, SubnetSpec { vpc: "v".into(), cidrs: "10.0.0.0/8".parse().unwrap(), excluded: vec![] });
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(seed >> 40).unwrap()
    };
    // Half of the 16.7 million addresses in use would take minutes of owners; a million at random spread the bitmap alike.
    for _ in 0..1_000_000 {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 | random());
        let wanted = Request { subnet: Arc::clone(&subnet), addresses: vec![address.into()], mac: None };
        let _ = ipam.allocate(&Arc::from(address.to_string()), &wanted);
    }
    let owners: Vec<Arc<str>> = (0..20_000).map(|i| format!("owner-{i}").into()).collect();
    let wanted = Request { subnet: Arc::clone(&subnet), addresses: vec![], mac: None };
    let began = Instant::now();
    for owner in &owners {
        ipam.allocate(owner, &wanted).unwrap();
    }
    let allocate = began.elapsed().as_nanos() / owners.len() as u128;
    let began = Instant::now();
    for owner in &owners {
        ipam.release(owner).unwrap();
    }
    let release = began.elapsed().as_nanos() / owners.len() as u128;
    row(
        "IPAM allocate, /8 with 1,000,000 holders at random, owner and MAC included",
        format!("{allocate} ns"),
        "<= 1000 ns",
        allocate <= 1000,
    );
    row("IPAM release, the same", format!("{release} ns"), "<= 1000 ns", release <= 1000);
}

async fn control_plane() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    assert!(
        Command::new("ovsdb-tool")
            .args(["create", &format!("{path}/nb.db"), "/usr/share/ovn/ovn-nb.ovsschema"])
            .status()
            .unwrap()
            .success()
    );
    let started = Command::new("ovsdb-server")
        .args(["--detach", "--no-chdir", &format!("--pidfile={path}/pid"), &format!("--unixctl={path}/ctl")])
        .args([format!("--remote=punix:{path}/nb.sock"), format!("{path}/nb.db")])
        .stderr(Stdio::null())
        .status();
    assert!(started.unwrap().success());
    let remote = Remote::Unix(dir.path().join("nb.sock"));
    assert!(Command::new("ovn-nbctl").arg(format!("--db={remote}")).arg("init").status().unwrap().success());

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

    let began = Instant::now();
    let (stop, task) = start(&client, &remote);
    all_recorded(&client).await;
    let took = began.elapsed();
    row(
        &format!("{PODS} pods at once: rows committed and pods patched"),
        format!("{:.2} s", took.as_secs_f64()),
        "<= 8 s",
        took <= Duration::from_secs(8),
    );
    stop.cancel();
    task.await.unwrap();

    // A restart: everything is looked at, and nothing is written.
    let changes = count_changes(&remote, &client).await;
    row(&format!("northbound rows written by a restart on {PODS} pods"), changes.0.to_string(), "0", changes.0 == 0);
    row(
        &format!("restart on {PODS} pods until converged"),
        format!("{:.2} s", changes.1.as_secs_f64()),
        "<= 1 s",
        changes.1 <= Duration::from_secs(1),
    );
    let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
    assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
}

fn start(client: &Client, remote: &Remote) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let stop = CancellationToken::new();
    let run = controller::run(client.clone(), Config::new(remote.clone()), stop.clone());
    (stop, tokio::spawn(async move { run.await.unwrap() }))
}

async fn all_recorded(client: &Client) {
    let views: Api<PodView> = Api::default_namespaced(client.clone());
    let mut recorded = std::collections::HashSet::new();
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
async fn count_changes(remote: &Remote, client: &Client) -> (usize, Duration) {
    let monitored = Monitored::tables(&nb::SCHEMA, &[logical_switch::TABLE, logical_switch_port::TABLE]);
    let (_handle, mut events, driver) = connect(ovsdb::Options::new(remote.clone(), monitored.clone()));
    let following = tokio::spawn(driver.run());
    let mut replica = Replica::new(monitored, vec![]);
    if let Some(ovsdb::Event::Snapshot(monitored, snapshot)) = events.recv().await {
        replica.replace(monitored, snapshot).unwrap();
    }
    let marker = json!({ "apiVersion": "kubeovn.io/v1", "kind": "Subnet", "metadata": { "name": "marker" }, "spec": { "cidrBlock": "10.99.0.0/24" } });
    Api::<v1::Subnet>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(marker).unwrap()).await.unwrap();
    let began = Instant::now();
    let (stop, task) = start(client, remote);
    let mut changes = 0;
    while !replica.rows(logical_switch::TABLE).any(|r| r.text(logical_switch::NAME) == "marker") {
        if let Some(ovsdb::Event::Updates(updates)) = events.recv().await {
            changes += replica.apply(updates).unwrap().len();
        }
    }
    let took = began.elapsed();
    stop.cancel();
    task.await.unwrap();
    following.abort();
    // The marker's switch and its router port's peer.
    (changes - 2, took)
}
