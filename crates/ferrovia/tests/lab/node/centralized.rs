//! Subnets whose pods leave by chosen nodes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use lab::probe::Endpoint;
use lab::runtime::Attachment;
use lab::{Cut, Place};
use linux::Netns;
use serde_json::json;
use tokio::time::timeout;

use super::{NODE1, NODE2, Nodes, PATIENCE, answers, pod, with_nodes};

const NODE3: Place = Place::Node(3);
const OUTSIDE: Place = Place::Outside(1);
/// How long a connection may take.
const SOON: Duration = Duration::from_millis(500);
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Somebody outside who sees under which addresses pods come.
struct Witness(SocketAddr, tokio::net::TcpListener);

impl Witness {
    fn new(nodes: &Nodes<'_>) -> Self {
        let netns = nodes.opened.layout.netns(OUTSIDE).unwrap();
        let listener = netns.run(|| TcpListener::bind(ANY)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let to = SocketAddr::new(OUTSIDE.address().unwrap().into(), listener.local_addr().unwrap().port());
        Self(to, tokio::net::TcpListener::from_std(listener).unwrap())
    }

    /// The sources of so many connections, without those that do not come about on both sides.
    async fn sources(&self, from: &Netns, count: u8) -> BTreeSet<IpAddr> {
        let mut seen = BTreeSet::new();
        for _ in 0..count {
            if from.run(|| TcpStream::connect_timeout(&self.0, SOON)).unwrap().is_ok()
                && let Ok(accepted) = timeout(SOON, self.1.accept()).await
            {
                seen.insert(accepted.unwrap().1.ip());
            }
        }
        seen
    }

    /// Waits until connections come from exactly these nodes.
    async fn settles(&self, from: &Netns, nodes: &[Place]) {
        let wanted: BTreeSet<IpAddr> = nodes.iter().map(|node| node.address().unwrap().into()).collect();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let seen = self.sources(from, 24).await;
            if seen == wanted {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{seen:?}, not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Waits until the nodes have agreed on how often they ask each other: sessions begin slowly (RFC 5880, section 6.8.3).
async fn sessions_are_fast(nodes: &Nodes<'_>) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for node in [NODE1, NODE2, NODE3] {
        let shown = || nodes.lab.ok(&["node", &node.to_string(), "--", "ovs-appctl", "bfd/show"]);
        while shown().matches("Remote Minimum TX Interval: 100ms").count() < 2 {
            assert!(tokio::time::Instant::now() < deadline, "{node}: {}", shown());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Ports that the cluster has besides.
const CROWD: usize = 1_000;
/// Pods that leave by both gateways.
const STREAMS: usize = 8;

/// Pods on no node, whose ports there are all the same.
async fn crowd(nodes: &Nodes<'_>) {
    let pods = Api::<Pod>::namespaced(nodes.client.clone(), "default");
    let made = (0..CROWD).map(|number| pod(&format!("crowd{number}"), "default", json!({})));
    let made = futures::stream::iter(made).map(|pod| {
        let pods = &pods;
        async move { pods.create(&PostParams::default(), &pod).await.unwrap() }
    });
    assert_eq!(made.buffer_unordered(32).count().await, CROWD);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let ports = || nodes.lab.ok(&["node", "central", "--", "ovn-nbctl", "lsp-list", "ovn-default"]).matches("crowd").count();
    while ports() < CROWD {
        assert!(tokio::time::Instant::now() < deadline, "{} ports", ports());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    nodes.lab.ok(&["node", "central", "--", "ovn-nbctl", "--wait=hv", "sync"]);
}

/// Processor time that `ovn-northd` has taken, in ms: proc_pid_schedstat, whose first number is in nanoseconds.
fn northd(nodes: &Nodes<'_>) -> u64 {
    let process = nodes.component("northd").process(&nodes.opened.layout).unwrap();
    let text = std::fs::read_to_string(format!("/proc/{}/schedstat", process.pid())).unwrap();
    text.split(' ').next().unwrap().parse::<u64>().unwrap() / 1_000_000
}

async fn subnet(nodes: &Nodes<'_>, name: &str, third: u8, ecmp: bool, count: usize) -> Vec<Attachment> {
    nodes.lab.apply(&format!(
        "
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {{name: {name}}}
spec: {{cidrBlock: 10.92.{third}.0/24, natOutgoing: true, gatewayType: centralized, gatewayNode: 'node1,node2', enableEcmp: {ecmp}}}
"
    ));
    nodes.lab.kubectl(&["wait", "--for=condition=Ready", &format!("subnet/{name}"), "--timeout=30s"]);
    let on = json!({ "ovn.kubernetes.io/logical_switch": name });
    let pods = (0..count).map(|number| pod(&format!("{name}{number}"), "default", on.clone()));
    let pods = nodes.runtime(NODE3).admit(&nodes.client, pods.collect()).await.unwrap();
    for pod in &pods {
        nodes.attach(NODE3, pod).await;
    }
    pods
}

#[test]
fn pods_leave_by_their_subnets_gateway_and_by_the_next_one_within_a_second_when_it_is_gone() {
    with_nodes(3, async |nodes| {
        let outside: IpAddr = OUTSIDE.address().unwrap().into();
        let witness = Witness::new(&nodes);
        let one = subnet(&nodes, "one", 1, false, 1).await.remove(0).sandbox().unwrap();
        let shared: Vec<Netns> = subnet(&nodes, "both", 2, true, STREAMS).await.iter().map(|pod| pod.sandbox().unwrap()).collect();
        let both = &shared[0];
        let from: Vec<Endpoint> = [&one].into_iter().chain(&shared).map(|pod| Endpoint::open("pod", pod).unwrap()).collect();
        for from in &from {
            answers(from, outside, "before").await;
        }
        witness.settles(&one, &[NODE1]).await;
        witness.settles(both, &[NODE1, NODE2]).await;
        // Pods of other subnets leave by their own nodes, and those of these reach them as ever.
        let other = nodes.pods(NODE2, "other", 1).await.remove(0);
        let address = nodes.attach(NODE2, &other).await[0];
        witness.settles(&other.sandbox().unwrap(), &[NODE2]).await;
        answers(&from[0], address, "inside").await;
        answers(&from[0], NODE1.address().unwrap().into(), "a node").await;

        crowd(&nodes).await;
        sessions_are_fast(&nodes).await;
        let before = northd(&nodes);
        let lost = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            nodes.opened.partition(NODE1, Cut::Everybody).await.unwrap();
            tokio::time::sleep(Duration::from_secs(4)).await;
        };
        let done = tokio::sync::Notify::new();
        let pace = Duration::from_millis(10);
        let streams = futures::future::join_all(from.iter().map(|from| from.stream(outside, pace, done.notified())));
        let (streams, ()) = tokio::join!(streams, async {
            lost.await;
            done.notify_waiters();
        });
        let streams: Vec<_> = streams.into_iter().map(Result::unwrap).collect();
        println!("a gateway is lost beside {CROWD} ports: ovn-northd took {} ms of processor time", northd(&nodes) - before);
        println!("active-backup: {}", streams[0]);
        for stream in &streams[1..] {
            println!("ECMP: {stream}");
        }
        assert!(streams.iter().all(|stream| stream.gap <= Duration::from_secs(1)));
        // Who left by the other one did not notice.
        let unnoticed = streams[1..].iter().filter(|stream| stream.gap < Duration::from_millis(50)).count();
        assert!((1..STREAMS).contains(&unnoticed), "{unnoticed} of {STREAMS} streams went on");
        witness.settles(&one, &[NODE2]).await;
        witness.settles(both, &[NODE2]).await;
        nodes.opened.heal(Some(NODE1)).await.unwrap();
        witness.settles(&one, &[NODE1]).await;
        witness.settles(both, &[NODE1, NODE2]).await;
    });
}

#[test]
fn pods_leave_under_the_address_that_their_subnet_has_for_its_gateway() {
    with_nodes(2, async |nodes| {
        let witness = Witness::new(&nodes);
        nodes.lab.apply(
            "
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: fixed}
spec: {cidrBlock: 10.92.3.0/24, natOutgoing: true, gatewayType: centralized, gatewayNode: 'node1:10.9.0.211'}
",
        );
        nodes.lab.kubectl(&["wait", "--for=condition=Ready", "subnet/fixed", "--timeout=30s"]);
        let sandbox = nodes.member(NODE2, "fixed", "fixed").await.pod.sandbox().unwrap();
        // An address that the node does not have is told there.
        nodes.told("Node", "node1", "pods leave under 10.9.0.211").await;
        nodes.lab.ok(&["node", "node1", "--", "ip", "address", "add", "10.9.0.211/32", "dev", "br-phy"]);
        let wanted = BTreeSet::from([IpAddr::from([10, 9, 0, 211])]);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while witness.sources(&sandbox, 4).await != wanted {
            assert!(tokio::time::Instant::now() < deadline, "pods do not leave under their subnet's address");
        }
    });
}
