//! Pods on a VLAN that leave by two gateways of the physical network, of which one is lost and comes back.

use std::net::IpAddr;
use std::time::Duration;

use lab::{Place, Vlans};
use linux::{Handle, IpPrefix, LinkChange};

use super::{Member, NODE1, NODE2, Nodes, PATIENCE, answers, with_nodes};
use crate::harness::VLAN100;

/// A VPC that leaves by both gateways, and a subnet whose gateway is its router.
const MANIFEST: &str = "
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: machines}
spec:
  staticRoutes:
  - {cidr: 0.0.0.0/0, nextHopIP: 172.31.0.1}
  - {cidr: 0.0.0.0/0, nextHopIP: 172.31.0.2}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: lan}
spec:
  vpc: machines
  cidrBlock: 172.31.0.0/24
  gateway: 172.31.0.254
  excludeIps: [172.31.0.1..172.31.0.9]
  vlan: vlan100
  logicalGateway: true
";

/// As many addresses of the host behind the gateways; each flow to one of them has its gateway, and so many hardly ever all the same.
const STREAMS: u8 = 16;

impl Nodes<'_> {
    /// The next hops that the router of the VPC has for all.
    fn next_hops(&self) -> Vec<String> {
        let list = self.lab.nb(&["lr-route-list", "machines"]);
        let hops = list.lines().filter(|line| line.trim().starts_with("0.0.0.0/0"));
        let mut hops: Vec<String> = hops.filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect();
        hops.sort();
        hops
    }

    /// Waits until the router has these next hops.
    async fn leaves_by(&self, hops: &[&str]) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.next_hops() != hops {
            assert!(tokio::time::Instant::now() < deadline, "not {hops:?}, but {:?}", self.next_hops());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Takes the link of a gateway on the VLAN down, or up again.
    async fn gateway_is(&self, gateway: Place, up: bool) {
        let handle = Handle::open(&self.opened.layout.netns(gateway).unwrap()).unwrap();
        let change = LinkChange { up: Some(up), ..LinkChange::default() };
        handle.change(handle.index("eth1").await.unwrap(), change).await.unwrap();
    }
}

#[test]
fn flows_by_one_of_two_physical_gateways_go_on_by_the_other_when_it_is_lost() {
    with_nodes(3, async |nodes| {
        nodes.opened.add_vlans(Vlans { vlan: 100 }).await.unwrap();
        let far = Handle::open(&nodes.opened.layout.netns(Vlans::FAR).unwrap()).unwrap();
        let link = far.index("eth1").await.unwrap();
        let addresses: Vec<IpAddr> = (0..STREAMS).map(|n| IpAddr::from([198, 18, 0, 9 + n])).collect();
        for address in &addresses[1..] {
            far.add_address(link, IpPrefix::host(*address)).await.unwrap();
        }
        nodes.give_nics(false).await;
        nodes.lab.apply(&[VLAN100, MANIFEST].concat());
        nodes.lab.kubectl(&["wait", "--for=condition=Ready", "subnet/lan", "--timeout=30s"]);
        let members = [nodes.member(NODE1, "one", "lan").await, nodes.member(NODE2, "two", "lan").await];
        for Member { end, .. } in &members {
            for address in &addresses {
                answers(end, *address, "behind the gateways").await;
            }
        }
        nodes.leaves_by(&["172.31.0.1", "172.31.0.2"]).await;

        let end = &members[0].end;
        let lost = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            nodes.gateway_is(Vlans::SECOND, false).await;
            tokio::time::sleep(Duration::from_secs(4)).await;
        };
        let done = tokio::sync::Notify::new();
        let pace = Duration::from_millis(10);
        let streams = futures::future::join_all(addresses.iter().map(|address| end.stream(*address, pace, done.notified())));
        let (streams, ()) = tokio::join!(streams, async {
            lost.await;
            done.notify_waiters();
        });
        let streams: Vec<_> = streams.into_iter().map(Result::unwrap).collect();
        for (address, stream) in addresses.iter().zip(&streams) {
            println!("one of two physical gateways is lost, to {address}: {stream}");
        }
        nodes.leaves_by(&["172.31.0.1"]).await;
        let unnoticed = streams.iter().filter(|stream| stream.gap < Duration::from_millis(50)).count();
        assert!((1..usize::from(STREAMS)).contains(&unnoticed), "{unnoticed} of {STREAMS} streams went on");
        assert!(streams.iter().all(|stream| stream.gap < Duration::from_secs(3)), "a stream did not go on");
        nodes.told("Vpc", "machines", "next hops that do not answer: net1.100/172.31.0.2").await;

        // Who watches may start anew.
        nodes.restart("agent@node1").await;
        nodes.restart("agent@node2").await;
        for address in &addresses {
            answers(end, *address, "by the gateway that is left").await;
        }
        nodes.leaves_by(&["172.31.0.1"]).await;
        nodes.gateway_is(Vlans::SECOND, true).await;
        nodes.leaves_by(&["172.31.0.1", "172.31.0.2"]).await;

        // Where nobody answers, nobody is taken away.
        for gateway in [Vlans::GATEWAY, Vlans::SECOND] {
            nodes.gateway_is(gateway, false).await;
        }
        nodes.told("Vpc", "machines", "172.31.0.1, net1.100/172.31.0.2").await;
        nodes.leaves_by(&["172.31.0.1", "172.31.0.2"]).await;
    });
}
