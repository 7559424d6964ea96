//! What a pod may send, and when: its first packet arrives, and its rate is what it was given.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use lab::probe::{Endpoint, rate};
use lab::runtime::Attachment;
use serde_json::json;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{NODE1, NODE2, Nodes, answers, pod, with_nodes};

/// How long after it was sent the last datagram may arrive.
const LATE: Duration = Duration::from_secs(3);

/// A pod on node2 that receives datagrams.
struct Receiver {
    address: SocketAddr,
    socket: UdpSocket,
}

impl Receiver {
    async fn attach(nodes: &Nodes<'_>, namespace: &str) -> Self {
        let pods = vec![pod("receiver", namespace, json!({}))];
        let one = nodes.runtime(NODE2).admit(&nodes.client, pods).await.unwrap().remove(0);
        let address = nodes.attach(NODE2, &one).await[0];
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let socket = one.sandbox().unwrap().run(|| std::net::UdpSocket::bind(any)).unwrap().unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = UdpSocket::from_std(socket).unwrap();
        Self { address: SocketAddr::new(address, socket.local_addr().unwrap().port()), socket }
    }

    /// Those of the numbers that do not arrive.
    async fn missing(&self, mut numbers: BTreeSet<u32>) -> BTreeSet<u32> {
        let all = async {
            let mut buffer = [0; 16];
            while !numbers.is_empty() {
                let (length, _) = self.socket.recv_from(&mut buffer).await.unwrap();
                numbers.remove(&u32::from_be_bytes(buffer[..length].try_into().unwrap()));
            }
        };
        let _ = timeout(LATE, all).await;
        numbers
    }
}

/// Has a packet pass from node to node: the first one to a tunnel's peer is lost while Open vSwitch resolves its MAC in userspace,
/// which is not what is asked here.
async fn join_tunnel(nodes: &Nodes<'_>) {
    let ends = [(NODE1, "near"), (NODE2, "far")];
    let [near, far] = ends.map(async |(node, name)| {
        let pod = nodes.pods(node, name, 1).await.remove(0);
        (nodes.attach(node, &pod).await[0], Endpoint::open(name, &pod.sandbox().unwrap()).unwrap())
    });
    let ((near, from_near), (far, from_far)) = (near.await, far.await);
    answers(&from_near, far, "before").await;
    answers(&from_far, near, "before").await;
}

/// Attaches a fresh pod to node1, and has it send one datagram as soon as it can.
async fn sends_at_once(nodes: &Nodes<'_>, fresh: &Attachment, number: u32, to: SocketAddr) {
    let sandbox = fresh.sandbox().unwrap();
    nodes.attach(NODE1, fresh).await;
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let sent = sandbox.run(|| std::net::UdpSocket::bind(any)?.send_to(&number.to_be_bytes(), to)).unwrap();
    assert_eq!(sent.unwrap(), 4);
}

#[test]
fn the_first_packet_after_an_add_reaches_another_node() {
    with_nodes(2, async |nodes| {
        join_tunnel(&nodes).await;
        let receiver = Receiver::attach(&nodes, "default").await;
        let fresh = nodes.pods(NODE1, "fresh", 100).await;
        for (number, fresh) in (0..).zip(&fresh) {
            sends_at_once(&nodes, fresh, number, receiver.address).await;
        }
        let missing = receiver.missing((0..100).collect()).await;
        println!("{} of 100 first packets arrive on another node", 100 - missing.len());
        assert_eq!(missing, BTreeSet::new());
    });
}

#[test]
fn the_first_packet_of_a_node_that_is_new_to_the_subnet_arrives_too() {
    with_nodes(2, async |nodes| {
        join_tunnel(&nodes).await;
        let mut missing = BTreeSet::new();
        for number in 0..10 {
            let name = format!("lake{number}");
            nodes.lab.apply(&format!(
                "
apiVersion: v1
kind: Namespace
metadata: {{name: {name}}}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {{name: {name}}}
spec: {{cidrBlock: 10.30.{number}.0/24, namespaces: [{name}]}}
"
            ));
            nodes.lab.kubectl(&["wait", "--for=condition=Ready", &format!("subnet/{name}"), "--timeout=30s"]);
            let receiver = Receiver::attach(&nodes, &name).await;
            let fresh = vec![pod("fresh", &name, json!({}))];
            let fresh = nodes.runtime(NODE1).admit(&nodes.client, fresh).await.unwrap();
            sends_at_once(&nodes, &fresh[0], number, receiver.address).await;
            missing.extend(receiver.missing(BTreeSet::from([number])).await);
        }
        println!("{} of 10 first packets arrive from a node that is new to the subnet", 10 - missing.len());
        assert_eq!(missing, BTreeSet::new());
    });
}

#[test]
fn a_pods_rates_are_what_its_annotations_say() {
    with_nodes(1, async |nodes| {
        let (ingress, egress) = (20.0, 40.0); // Mbit/s
        let annotations = json!({
            "ovn.kubernetes.io/ingress_rate": ingress.to_string(),
            "ovn.kubernetes.io/egress_rate": egress.to_string(),
        });
        let pods = vec![pod("limited", "default", annotations), pod("free", "default", json!({}))];
        let pods = nodes.runtime(NODE1).admit(&nodes.client, pods).await.unwrap();
        let mut ends = Vec::new();
        for pod in &pods {
            let address: IpAddr = nodes.attach(NODE1, pod).await[0];
            ends.push((pod.sandbox().unwrap(), address));
        }
        let [limited, free] = [&ends[0], &ends[1]];
        // It removes what it does not know when it opens ports.
        nodes.restart("ovs-vswitchd@node1").await;
        let free_end = Endpoint::open("free", &free.0).unwrap();
        answers(&free_end, limited.1, "after the switch was restarted").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        for (what, wanted, from, to) in [("ingress", ingress, free, limited), ("egress", egress, limited, free)] {
            let reached = rate(&from.0, &to.0, to.1, Duration::from_secs(3), Duration::from_secs(6)).await.unwrap() * 8.0 / 1e6;
            println!("{what}: {reached:.1} of {wanted} Mbit/s");
            assert!((reached / wanted - 1.0).abs() <= 0.1, "{what}: {reached:.1} of {wanted} Mbit/s");
        }
    });
}

#[test]
fn what_passes_a_mirrored_pod_is_copied_to_a_port_of_the_node() {
    with_nodes(1, async |nodes| {
        let mirrored = json!({ "ovn.kubernetes.io/mirror": "true" });
        let pods = vec![pod("watched", "default", mirrored), pod("one", "default", json!({})), pod("two", "default", json!({}))];
        let pods = nodes.runtime(NODE1).admit(&nodes.client, pods).await.unwrap();
        let node = nodes.opened.layout.netns(NODE1).unwrap();
        // Packets that came to the port for tools; `None` without one.
        let copied = || -> Option<u64> {
            let table = node.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
            let row = table.lines().find_map(|line| line.trim_start().strip_prefix("mirror0:").map(str::to_owned))?;
            row.split_whitespace().nth(1)?.parse().ok()
        };
        let becomes = async |there: bool| {
            for _ in 0..100 {
                if copied().is_some() == there {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            panic!("port for tools: there {:?}, wanted {there}", copied());
        };
        let mut ends = Vec::new();
        for pod in &pods {
            ends.push((nodes.attach(NODE1, pod).await[0], Endpoint::open("pod", &pod.sandbox().unwrap()).unwrap()));
        }
        becomes(true).await;
        // The port is raised after it is made.
        let mut asked = 0;
        while copied().unwrap() < 2 {
            answers(&ends[1].1, ends[0].0, "the one that is mirrored").await;
            asked += 1;
            assert!(asked < 100, "question and answer are not copied: {:?}", copied());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let before = copied().unwrap();
        for _ in 0..20 {
            answers(&ends[1].1, ends[2].0, "two that are not").await;
        }
        let others = copied().unwrap() - before;
        assert!(others < 20, "{others} packets of others are copied");
        nodes.detach(NODE1, &pods[0]).await;
        becomes(false).await;
    });
}
