//! Virtual machines beside containers: how fast guests are there, how long a packet takes, how much passes, and what it passes. Guests
//! are emulated where the machine has no KVM, which the names of the rows say.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use lab::probe::Endpoint;
use linux::Netns;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::lab::Lab;
use crate::report::{Report, Row, median};
use crate::servers::ferrovia;

/// Echo requests per pair.
const ECHOES: usize = 200;
/// Bytes per pair.
const TRANSFER: usize = 50_000_000;
/// Machines that are started at once.
const MACHINES: usize = 6;
const PATIENCE: Duration = Duration::from_secs(180);
/// Makes NICs sockets.
const DEFINITION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bench/vhost-user.yaml");

/// How machines are connected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tap,
    /// On nodes with DPDK.
    VhostUser,
}

pub fn measure(report: &mut Report) {
    for kind in [Kind::Tap, Kind::VhostUser] {
        of(kind, report);
    }
}

fn of(kind: Kind, report: &mut Report) {
    let (name, nodes) = match kind {
        Kind::Tap => ("tap", &[][..]),
        Kind::VhostUser => ("vhost-user", &["--datapath", "dpdk", "-f", DEFINITION][..]),
    };
    let lab = Lab::up(&[&["--nodes", "2"], nodes].concat());
    let runtime = Runtime::new().unwrap();
    let pods = runtime.block_on(async {
        let pods = Api::<Pod>::default_namespaced(lab::cluster::client(&lab.layout()).await.unwrap());
        let made = [("vm", "node1", Some(kind)), ("pod-1", "node1", None), ("pod-2", "node2", None), ("pod-3", "node1", None)];
        start(&pods, &made.map(|(name, node, machine)| pod(name, node, machine))).await
    });
    let of = |name: &str| pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(name)).unwrap();
    for (to, place) in [("pod-1", "on its node"), ("pod-2", "on another node")] {
        let machine = echo(&lab, "vm", of(to));
        if kind == Kind::Tap {
            report.add(Row::new(format!("round trip, container to container {place}: median"), echo(&lab, "pod-3", of(to)), "ms"));
        }
        report.add(Row::new(format!("round trip, VM ({name}) to container {place}: median"), machine, "ms"));
        let rate = runtime.block_on(rate(&lab, of("vm"), of(to)));
        report.add(Row::new(format!("TCP, VM ({name}) to container {place}"), rate, "MB/s"));
    }
    for (to, place) in [("pod-1", "a container on its node"), ("pod-2", "a container on another node"), ("10.9.0.101", "the outside")] {
        let hops = runtime.block_on(async { lab::Lab::open(lab.layout()).unwrap().path("default", "vm", to).await.unwrap() });
        report.add(Row::new(format!("hops, VM ({name}) to {place}"), hops.len() as f64, ""));
    }
    let began = Instant::now();
    runtime.block_on(async {
        let pods = Api::<Pod>::default_namespaced(lab::cluster::client(&lab.layout()).await.unwrap());
        let node = |n: usize| if n.is_multiple_of(2) { "node1" } else { "node2" };
        let all: Vec<Pod> = (0..MACHINES).map(|n| pod(&format!("more-{n}"), node(n), Some(kind))).collect();
        start(&pods, &all).await
    });
    let rate = MACHINES as f64 * 60.0 / began.elapsed().as_secs_f64();
    report.add(Row::new(format!("VM pods ({name}) ready, {MACHINES} at once, 2 nodes"), rate, "pods/min"));
}

/// A container, or a machine.
fn pod(name: &str, node: &str, machine: Option<Kind>) -> Pod {
    let mut pod = json!({
        "metadata": { "name": name },
        "spec": {
            "nodeName": node, "runtimeClassName": machine.map(|_| "vm"), "containers": [{ "name": "c", "image": "none" }],
            "terminationGracePeriodSeconds": 0,
        },
    });
    if machine == Some(Kind::VhostUser) {
        pod["metadata"]["annotations"] = json!({ "v1.multus-cni.io/default-network": "default/vhost-user" });
        pod["spec"]["volumes"] = json!([{ "name": "sockets", "emptyDir": {} }]);
    }
    serde_json::from_value(pod).unwrap()
}

/// Creates pods; yields them when they are ready.
async fn start(api: &Api<Pod>, pods: &[Pod]) -> Vec<Pod> {
    for pod in pods {
        api.create(&PostParams::default(), pod).await.unwrap();
    }
    let mut ready = Vec::new();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap();
        let is_ready = |pod: Option<&Pod>| pod.is_some_and(crate::lab::is_ready);
        let found = tokio::time::timeout(PATIENCE, await_condition(api.clone(), &name, is_ready)).await;
        ready.push(found.unwrap_or_else(|_| panic!("{name} is not ready after {PATIENCE:?}")).unwrap().unwrap());
    }
    ready
}

fn address(pod: &Pod) -> IpAddr {
    pod.status.as_ref().unwrap().pod_ip.as_deref().unwrap().parse().unwrap()
}

/// Median of the times that a pod's own `ping` prints, in ms.
fn echo(lab: &Lab, from: &str, to: &Pod) -> f64 {
    let (count, to) = (ECHOES.to_string(), address(to).to_string());
    let mut command = Command::new(ferrovia());
    command.args(["lab", "exec", "--name", lab.name(), from, "--", "ping", "-c", &count, "-i", "0.02", &to]).stdin(Stdio::null());
    let output = command.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    let times = shown.lines().filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse::<f64>().ok());
    // The first one waits for ARP and for flows.
    let times: Vec<f64> = times.skip(1).collect();
    assert!(times.len() > ECHOES / 2, "{from} → {to}: {shown}{}", String::from_utf8_lossy(&output.stderr));
    median(times)
}

/// MB/s that TCP carries.
async fn rate(lab: &Lab, from: &Pod, to: &Pod) -> f64 {
    let end = |pod: &Pod| {
        let uid = pod.metadata.uid.clone().unwrap();
        Endpoint::open(&uid, &Netns::named(&lab.layout().name().pod_netns(&uid)).unwrap()).unwrap()
    };
    let (source, target) = (end(from), end(to));
    let began = Instant::now();
    tokio::time::timeout(PATIENCE, source.tcp(&target, address(to), TRANSFER)).await.expect("in time").unwrap();
    TRANSFER as f64 / 1e6 / began.elapsed().as_secs_f64()
}
