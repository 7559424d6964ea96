//! Subnets whose pods leave by chosen nodes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

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

async fn subnet(nodes: &Nodes<'_>, name: &str, third: u8, ecmp: bool) -> Attachment {
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
    let pod = nodes.runtime(NODE3).admit(&nodes.client, vec![pod(name, "default", on)]).await.unwrap().remove(0);
    nodes.attach(NODE3, &pod).await;
    pod
}

#[test]
fn pods_leave_by_their_subnets_gateway_and_by_the_next_one_within_a_second_when_it_is_gone() {
    with_nodes(3, async |nodes| {
        let outside: IpAddr = OUTSIDE.address().unwrap().into();
        let witness = Witness::new(&nodes);
        let (one, both) = (subnet(&nodes, "one", 1, false).await, subnet(&nodes, "both", 2, true).await);
        let (one, both) = (one.sandbox().unwrap(), both.sandbox().unwrap());
        let from = [Endpoint::open("one", &one).unwrap(), Endpoint::open("both", &both).unwrap()];
        for from in &from {
            answers(from, outside, "before").await;
        }
        witness.settles(&one, &[NODE1]).await;
        witness.settles(&both, &[NODE1, NODE2]).await;
        // Pods of other subnets leave by their own nodes, and those of these reach them as ever.
        let other = nodes.pods(NODE2, "other", 1).await.remove(0);
        let address = nodes.attach(NODE2, &other).await[0];
        witness.settles(&other.sandbox().unwrap(), &[NODE2]).await;
        answers(&from[0], address, "inside").await;
        answers(&from[0], NODE1.address().unwrap().into(), "a node").await;

        sessions_are_fast(&nodes).await;
        let lost = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            nodes.opened.partition(NODE1, Cut::Everybody).await.unwrap();
            tokio::time::sleep(Duration::from_secs(4)).await;
        };
        let done = tokio::sync::Notify::new();
        let pace = Duration::from_millis(10);
        let (single, shared, ()) =
            tokio::join!(from[0].stream(outside, pace, done.notified()), from[1].stream(outside, pace, done.notified()), async {
                lost.await;
                done.notify_waiters();
            });
        let (single, shared) = (single.unwrap(), shared.unwrap());
        println!("gateway lost: active-backup {single}; ECMP {shared}");
        assert!(single.gap <= Duration::from_secs(1) && shared.gap <= Duration::from_secs(1), "{single}; {shared}");
        witness.settles(&one, &[NODE2]).await;
        witness.settles(&both, &[NODE2]).await;
        nodes.opened.heal(Some(NODE1)).await.unwrap();
        witness.settles(&one, &[NODE1]).await;
        witness.settles(&both, &[NODE1, NODE2]).await;
    });
}
