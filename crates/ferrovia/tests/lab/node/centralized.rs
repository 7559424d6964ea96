//! Subnets whose pods leave by chosen nodes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use lab::probe::{Endpoint, Streamed};
use lab::runtime::Attachment;
use lab::{Cut, Place};
use linux::Netns;
use serde_json::json;
use tokio::time::timeout;

use super::{NODE1, NODE2, Nodes, PATIENCE, answers, is_cut_off, pod, with_nodes, with_nodes_of};

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
        self.comes_from(from, nodes.iter().map(|node| node.address().unwrap().into()).collect()).await;
    }

    /// The same with their addresses.
    async fn comes_from(&self, from: &Netns, wanted: BTreeSet<IpAddr>) {
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

/// Waits until a subnet shows a gateway.
async fn shows(nodes: &Nodes<'_>, subnet: &str, gateway: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let shown = || nodes.lab.kubectl(&["get", "subnet", subnet, "-o", "jsonpath={.status.activateGateway}"]);
    while shown() != gateway {
        assert!(tokio::time::Instant::now() < deadline, "subnet {subnet} leaves by {:?}, not by {gateway:?}", shown());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Ports that the cluster has besides.
const CROWD: usize = 1_000;
/// Pods that leave by both gateways: so many that they hardly ever all have the same.
const STREAMS: usize = 12;

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
    let ports = || nodes.lab.nb(&["lsp-list", "ovn-default"]).matches("crowd").count();
    while ports() < CROWD {
        assert!(tokio::time::Instant::now() < deadline, "{} ports", ports());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    nodes.lab.nb(&["--wait=hv", "sync"]);
}

/// Processor time that `ovn-northd` has taken, in ms: proc_pid_schedstat, whose first number is in nanoseconds.
fn northd(nodes: &Nodes<'_>) -> u64 {
    let process = nodes.component("northd").process(&nodes.opened.layout).unwrap();
    let text = std::fs::read_to_string(format!("/proc/{}/schedstat", process.pid())).unwrap();
    text.split(' ').next().unwrap().parse::<u64>().unwrap() / 1_000_000
}

/// What becomes of pings while the first node is cut off from everybody.
async fn lose_node1(nodes: &Nodes<'_>, from: &[Endpoint], to: IpAddr) -> Vec<Streamed> {
    let lost = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        nodes.opened.partition(NODE1, Cut::Everybody).await.unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
    };
    let done = tokio::sync::Notify::new();
    let pace = Duration::from_millis(10);
    let streams = futures::future::join_all(from.iter().map(|from| from.stream(to, pace, done.notified())));
    let (streams, ()) = tokio::join!(streams, async {
        lost.await;
        done.notify_waiters();
    });
    streams.into_iter().map(Result::unwrap).collect()
}

/// The first node is cut off: streams to the outside go on within a second, and these pods leave by the second one.
async fn fail_over(nodes: &Nodes<'_>, witness: &Witness, from: &[Endpoint], pods: [&Netns; 2]) {
    let streams = lose_node1(nodes, from, OUTSIDE.address().unwrap().into()).await;
    for stream in &streams {
        println!("{stream}");
    }
    assert!(streams.iter().all(|stream| stream.gap <= Duration::from_secs(1)));
    for pod in pods {
        witness.settles(pod, &[NODE2]).await;
    }
}

async fn subnet(nodes: &Nodes<'_>, name: &str, third: u8, ecmp: bool, count: usize) -> Vec<Attachment> {
    subnet_of(nodes, "", name, &format!("10.92.{third}.0/24"), ecmp, count).await.into_iter().map(|(pod, _)| pod).collect()
}

/// Pods of a subnet of a VPC that leave by the first two nodes, with their addresses, on the third.
async fn subnet_of(nodes: &Nodes<'_>, vpc: &str, name: &str, range: &str, ecmp: bool, count: usize) -> Vec<(Attachment, IpAddr)> {
    nodes.lab.apply(&format!(
        "
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {{name: {name}}}
spec:
  vpc: '{vpc}'
  cidrBlock: {range}
  natOutgoing: true
  gatewayType: centralized
  gatewayNode: 'node1,node2'
  enableEcmp: {ecmp}
"
    ));
    nodes.lab.kubectl(&["wait", "--for=condition=Ready", &format!("subnet/{name}"), "--timeout=30s"]);
    let on = json!({ "ovn.kubernetes.io/logical_switch": name });
    let pods = (0..count).map(|number| pod(&format!("{name}{number}"), "default", on.clone()));
    let mut attached = Vec::new();
    for pod in nodes.runtime(NODE3).admit(&nodes.client, pods.collect()).await.unwrap() {
        let address = nodes.attach(NODE3, &pod).await[0];
        attached.push((pod, address));
    }
    attached
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
        shows(&nodes, "one", "node1").await;
        // Pods of other subnets leave by their own nodes, and those of these reach them as ever.
        let other = nodes.pods(NODE2, "other", 1).await.remove(0);
        let address = nodes.attach(NODE2, &other).await[0];
        witness.settles(&other.sandbox().unwrap(), &[NODE2]).await;
        answers(&from[0], address, "inside").await;
        answers(&from[0], NODE1.address().unwrap().into(), "a node").await;

        crowd(&nodes).await;
        sessions_are_fast(&nodes).await;
        let before = northd(&nodes);
        let streams = lose_node1(&nodes, &from, outside).await;
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
        shows(&nodes, "one", "node2").await;
        nodes.opened.heal(Some(NODE1)).await.unwrap();
        witness.settles(&one, &[NODE1]).await;
        shows(&nodes, "one", "node1").await;
        shows(&nodes, "both", "").await;
        witness.settles(both, &[NODE1, NODE2]).await;
    });
}

#[test]
fn where_pods_leave_by_their_nodes_ports_a_subnet_may_be_centralized_and_nobody_else_notices() {
    with_nodes_of(3, &["--gateway", "join"], async |nodes| {
        let outside: IpAddr = OUTSIDE.address().unwrap().into();
        let witness = Witness::new(&nodes);
        let bridged = async |there: bool| {
            for node in [NODE1, NODE2, NODE3] {
                let deadline = tokio::time::Instant::now() + PATIENCE;
                while nodes.observe(node).await.lines("link br-ex").next().is_some() != there {
                    assert!(tokio::time::Instant::now() < deadline, "{node}: br-ex is to be there: {there}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        bridged(false).await;
        let other = nodes.pods(NODE2, "other", 1).await.remove(0);
        nodes.attach(NODE2, &other).await;
        let other = other.sandbox().unwrap();
        let own = Endpoint::open("other", &other).unwrap();
        answers(&own, outside, "before").await;
        let done = tokio::sync::Notify::new();
        let made = async {
            let one = subnet(&nodes, "one", 1, false, 1).await.remove(0).sandbox().unwrap();
            let shared: Vec<Netns> = subnet(&nodes, "both", 2, true, STREAMS).await.iter().map(|pod| pod.sandbox().unwrap()).collect();
            witness.settles(&one, &[NODE1]).await;
            witness.settles(&shared[0], &[NODE1, NODE2]).await;
            done.notify_waiters();
            (one, shared)
        };
        let (stream, (one, shared)) = tokio::join!(own.stream(outside, Duration::from_millis(10), done.notified()), made);
        let stream = stream.unwrap();
        println!("by its node's port, while centralized subnets come: {stream}");
        assert_eq!(stream.lost(), 0);
        bridged(true).await;
        shows(&nodes, "one", "node1").await;
        witness.settles(&other, &[NODE2]).await;

        let from: Vec<Endpoint> = [&one].into_iter().chain(&shared).map(|pod| Endpoint::open("pod", pod).unwrap()).collect();
        answers(&from[0], NODE1.address().unwrap().into(), "a node").await;
        answers(&from[0], NODE3.address().unwrap().into(), "its node").await;
        sessions_are_fast(&nodes).await;
        fail_over(&nodes, &witness, &from, [&one, &shared[0]]).await;
        shows(&nodes, "one", "node2").await;
        nodes.opened.heal(Some(NODE1)).await.unwrap();
        witness.settles(&one, &[NODE1]).await;

        // The bridge goes with the last such subnet.
        let gone = async {
            for subnet in ["one", "both"] {
                nodes.lab.kubectl(&["patch", "subnet", subnet, "--type=merge", "-p", r#"{"spec":{"gatewayType":"distributed"}}"#]);
            }
            bridged(false).await;
            witness.settles(&one, &[NODE3]).await;
            done.notify_waiters();
        };
        let pace = Duration::from_millis(10);
        let (stream, moved, ()) =
            tokio::join!(own.stream(outside, pace, done.notified()), from[0].stream(outside, pace, done.notified()), gone);
        let (stream, moved) = (stream.unwrap(), moved.unwrap());
        println!("by its node's port, while centralized subnets go: {stream}; one of theirs: {moved}");
        assert_eq!(stream.lost(), 0);
        assert!(moved.lost() <= 10, "{moved}");
    });
}

const VPCS: &str = "
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: amber, annotations: {ferrovia.io/egress: localnet}}
spec: {}
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: violet, annotations: {ferrovia.io/egress: localnet}}
spec: {}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: plain}
spec: {vpc: amber, cidrBlock: 10.93.0.0/24, natOutgoing: true}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: fixed}
spec: {vpc: violet, cidrBlock: 10.94.0.0/24, natOutgoing: true, gatewayType: centralized, gatewayNode: 'node1:10.9.0.211'}
";

#[test]
fn pods_of_further_vpcs_leave_by_their_subnets_gateways_and_reach_no_other_vpc_by_them() {
    with_nodes(3, async |nodes| {
        let outside: IpAddr = OUTSIDE.address().unwrap().into();
        let witness = Witness::new(&nodes);
        nodes.lab.apply(VPCS);
        nodes.lab.kubectl(&["wait", "--for=condition=Ready", "subnet/plain", "subnet/fixed", "--timeout=30s"]);
        let (one, own) = subnet_of(&nodes, "amber", "one", "10.93.1.0/24", false, 1).await.remove(0);
        let one = one.sandbox().unwrap();
        let both = subnet_of(&nodes, "amber", "both", "10.93.2.0/24", true, STREAMS).await;
        let shared: Vec<Netns> = both.iter().map(|(pod, _)| pod.sandbox().unwrap()).collect();
        let from: Vec<Endpoint> = [&one].into_iter().chain(&shared).map(|pod| Endpoint::open("pod", pod).unwrap()).collect();
        for from in &from {
            answers(from, outside, "before").await;
        }
        witness.settles(&one, &[NODE1]).await;
        witness.settles(&shared[0], &[NODE1, NODE2]).await;
        // Others of the VPC leave by their own nodes, and another VPC by the address that its subnet has there.
        let plain = nodes.member(NODE2, "plain", "plain").await;
        witness.settles(&plain.pod.sandbox().unwrap(), &[NODE2]).await;
        nodes.lab.ok(&["node", "node1", "--", "ip", "address", "add", "10.9.0.211/32", "dev", "br-phy"]);
        let violet = nodes.member(NODE2, "violet", "fixed").await;
        witness.comes_from(&violet.pod.sandbox().unwrap(), [IpAddr::from([10, 9, 0, 211])].into()).await;
        // Within the VPC as ever, and with the node that a pod is on; not with other VPCs by the gateway.
        answers(&from[0], plain.addresses[0], "inside").await;
        let node3 = Endpoint::open("node3", &nodes.opened.layout.netns(NODE3).unwrap()).unwrap();
        answers(&node3, own, "a pod of the node").await;
        answers(&from[0], NODE3.address().unwrap().into(), "its node").await;
        answers(&from[0], NODE2.address().unwrap().into(), "another node").await;
        let other = nodes.pods(NODE2, "other", 1).await.remove(0);
        let other = nodes.attach(NODE2, &other).await[0];
        assert!(is_cut_off(&from[0], violet.addresses[0]).await, "VPC violet is reached by a gateway of amber's");
        assert!(is_cut_off(&from[0], other).await, "the default VPC is reached by a gateway of amber's");
        assert!(is_cut_off(&violet.end, own).await, "VPC amber is reached by a gateway of violet's");

        sessions_are_fast(&nodes).await;
        fail_over(&nodes, &witness, &from, [&one, &shared[0]]).await;
        nodes.opened.heal(Some(NODE1)).await.unwrap();
        witness.settles(&one, &[NODE1]).await;
        witness.settles(&shared[0], &[NODE1, NODE2]).await;
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
        witness.comes_from(&sandbox, [IpAddr::from([10, 9, 0, 211])].into()).await;
    });
}
