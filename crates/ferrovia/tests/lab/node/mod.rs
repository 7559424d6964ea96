//! Nodes whose pods a test attaches itself, by the CNI plugin and in the place of the kubelet, which stands aside.

mod centralized;
mod conformance;
mod ecmp;
mod egress;
mod histories;
mod join;
mod restarts;
mod settings;
mod switch;
mod traffic;
mod underlay;
mod verbs;
mod vpcs;
mod wire;

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use lab::probe::{Endpoint, Ping};
use lab::runtime::{Answer, Attachment, Network, Observation, Refusal, Runtime};
use lab::{Component, Place};
use serde_json::{Value, json};

use crate::harness::Lab;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);
const NODE1: Place = Place::Node(1);
const NODE2: Place = Place::Node(2);

/// The nodes of a lab.
struct Nodes<'a> {
    /// As its command line shows it.
    lab: &'a Lab,
    opened: lab::Lab,
    client: Client,
}

/// Brings a lab up without a kubelet and runs a test in it.
fn with_nodes(count: u32, test: impl AsyncFnOnce(Nodes<'_>)) {
    with_nodes_of(count, &[], test);
}

/// The same, with a lab of this kind.
fn with_nodes_of(count: u32, kind: &[&str], test: impl AsyncFnOnce(Nodes<'_>)) {
    let lab = Lab::up(&[&["--nodes", &count.to_string()], kind].concat());
    lab.ok(&["kill", "kubelet"]);
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
        let opened = lab::Lab::open(lab.layout()).unwrap();
        let client = lab::cluster::client(&opened.layout).await.unwrap();
        let nodes = Nodes { lab: &lab, opened, client };
        for number in 1..=count {
            nodes.settles(Place::Node(number)).await;
        }
        test(nodes).await;
    });
}

/// A pod that is attached.
struct Member {
    node: Place,
    pod: Attachment,
    end: Endpoint,
    addresses: Vec<IpAddr>,
}

impl Nodes<'_> {
    /// A pod of a subnet, attached.
    async fn member(&self, node: Place, name: &str, subnet: &str) -> Member {
        let on = json!({ "ovn.kubernetes.io/logical_switch": subnet });
        let pod = self.runtime(node).admit(&self.client, vec![pod(name, "default", on)]).await.unwrap().remove(0);
        let addresses = self.attach(node, &pod).await;
        Member { node, end: Endpoint::open(name, &pod.sandbox().unwrap()).unwrap(), addresses, pod }
    }

    /// Waits until an event of an object says something.
    async fn told(&self, kind: &str, name: &str, what: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.lab.events(kind, name).contains(what) {
            assert!(tokio::time::Instant::now() < deadline, "{kind} {name}: {}", self.lab.events(kind, name));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the agent has made its node's ways in and out, so that what a test finds at its end was there at its beginning.
    async fn settles(&self, node: Place) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.observe(node).await.lines("route 10.16.0.0/16 via ").any(|line| line.contains(" dev ovn0 ")) {
            assert!(tokio::time::Instant::now() < deadline, "{node} has no way to pods after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn runtime(&self, node: Place) -> Runtime {
        Runtime::new(self.opened.clone(), node)
    }

    /// The network that is installed, at the newest version.
    fn network(&self) -> Network {
        self.runtime(NODE1).network().unwrap().at("1.1.0")
    }

    /// Pods of a node, called `<prefix>0` and so on, with addresses and sandboxes, not attached.
    async fn pods(&self, node: Place, prefix: &str, count: usize) -> Vec<Attachment> {
        let pods = (0..count).map(|number| pod(&format!("{prefix}{number}"), "default", json!({})));
        self.runtime(node).admit(&self.client, pods.collect()).await.unwrap()
    }

    async fn observe(&self, node: Place) -> Observation {
        Observation::of(&self.opened, node, &self.client).await.unwrap()
    }

    /// Waits until a node is as it was.
    async fn comes_back(&self, node: Place, before: &Observation) {
        before.comes_back(&self.opened, node, &self.client, PATIENCE).await.unwrap_or_else(|error| panic!("{error:#}"));
    }

    fn component(&self, name: &str) -> Component {
        Component::find(&self.opened.layout, name).unwrap()
    }

    async fn kill(&self, name: &str) {
        let (component, layout) = (self.component(name), self.opened.layout.clone());
        tokio::task::spawn_blocking(move || component.kill(&layout)).await.unwrap().unwrap();
    }

    async fn restart(&self, name: &str) {
        self.opened.restart(name).await.unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Attaches a pod, which must succeed without another try; yields its addresses.
    async fn attach(&self, node: Place, attachment: &Attachment) -> Vec<IpAddr> {
        addresses(&done(self.runtime(node).add(&self.network(), attachment).await.unwrap()))
    }

    async fn detach(&self, node: Place, attachment: &Attachment) {
        done(self.runtime(node).del(&self.network(), attachment).await.unwrap());
    }
}

fn pod(name: &str, namespace: &str, annotations: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": namespace, "annotations": annotations },
        "spec": { "containers": [{ "name": "c", "image": "none" }], "terminationGracePeriodSeconds": 0 },
    }))
    .unwrap()
}

/// What a call that must succeed yields.
fn done(answer: Answer) -> Value {
    answer.ok().unwrap_or_else(|refusal| panic!("code {:?}: {refusal}", refusal.code))
}

/// Why a call that must fail was refused, told as the specification wants it.
fn refused(answer: &Answer) -> Refusal {
    let printed = answer.json().unwrap_or_else(|| panic!("no JSON: {answer:?}"));
    let refusal = answer.ok().expect_err("it must be refused");
    assert!(printed["cniVersion"].is_string() && refusal.code.is_some() && printed["msg"] != "", "{printed}");
    refusal
}

/// Addresses of an ADD's result.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().unwrap_or_else(|| panic!("{result}"));
    ips.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect()
}

/// Name of the host's end of a container's link in a result.
fn host_link(result: &Value) -> String {
    let interfaces = result["interfaces"].as_array().unwrap_or_else(|| panic!("{result}"));
    let host = interfaces.iter().find(|interface| interface["sandbox"].as_str().unwrap_or_default().is_empty());
    host.unwrap_or_else(|| panic!("no link of the host: {result}"))["name"].as_str().unwrap().to_owned()
}

/// Waits until an address answers.
async fn answers(from: &Endpoint, address: IpAddr, what: &str) {
    let ping = Ping { seen_by: None, answered: true, payload: 56 };
    let answered = tokio::time::timeout(PATIENCE, from.ping(address, ping)).await;
    assert!(matches!(answered, Ok(Ok(()))), "{what}: {address} does not answer: {answered:?}");
}

/// Whether an address is not reached within a second.
async fn is_cut_off(from: &Endpoint, address: IpAddr) -> bool {
    let ping = Ping { seen_by: None, answered: true, payload: 56 };
    !matches!(tokio::time::timeout(Duration::from_secs(1), from.ping(address, ping)).await, Ok(Ok(())))
}

/// Random numbers of a fixed seed (SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
struct Random(u64);

impl Random {
    /// Below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }
}
