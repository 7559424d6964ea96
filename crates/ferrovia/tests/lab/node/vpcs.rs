//! VPCs that leave through the host stack of their pods' node: each under its own addresses or the node's, and none to another one.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::Place;
use lab::probe::Endpoint;
use linux::Handle;
use tokio::time::{Instant, sleep, timeout};

use super::{NODE1, PATIENCE, answers, is_cut_off, with_nodes};

const OUTSIDE: Place = Place::Outside(1);

const VPCS: &str = "
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: amber, annotations: {ferrovia.io/egress: localnet}}
spec: {}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: amber}
spec: {vpc: amber, cidrBlock: 10.90.0.0/24, natOutgoing: true}
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: violet, annotations: {ferrovia.io/egress: localnet}}
spec: {}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: violet}
spec: {vpc: violet, cidrBlock: 10.91.0.0/24}
";

/// One whose range the default VPC has, and one that cannot be read.
const WRONG: &str = "
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: same}
spec: {vpc: violet, cidrBlock: 10.16.5.0/24}
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: odd, annotations: {ferrovia.io/egress: nat}}
spec: {}
";

#[test]
fn each_leaves_and_none_reaches_another() {
    with_nodes(1, async |nodes| {
        let netns = nodes.opened.layout.netns(OUTSIDE).unwrap();
        let (outside_address, outside) = (IpAddr::from(OUTSIDE.address().unwrap()), Endpoint::open("outside", &netns).unwrap());
        let node_address = IpAddr::from(NODE1.address().unwrap());
        let node = Endpoint::open("node1", &nodes.opened.layout.netns(NODE1).unwrap()).unwrap();
        nodes.lab.apply(VPCS);
        nodes.lab.apply(WRONG);
        nodes.lab.kubectl(&["wait", "--for=condition=Ready", "subnet/amber", "subnet/violet", "vpc/amber", "--timeout=30s"]);
        let amber = nodes.member(NODE1, "amber", "amber").await;
        let violet = nodes.member(NODE1, "violet", "violet").await;
        let same = nodes.member(NODE1, "same", "same").await;

        // What cannot be is told where it was asked for.
        nodes.told("Subnet", "same", "10.16.5.0/24 overlaps with 10.16.0.0/16 of subnet \"ovn-default\"").await;
        let odd = nodes.lab.kubectl(&["get", "vpc", "odd", "-o", "jsonpath={.status.conditions[?(@.type==\"Ready\")].message}"]);
        assert!(odd.contains("ferrovia.io/egress: \"nat\" is neither"), "{odd}");

        // Under the node's address, or under their own.
        nodes.lab.ok(&["outside", "--", "ip", "route", "add", "10.91.0.0/24", "via", &node_address.to_string()]);
        let receiver = netns.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let to = SocketAddr::new(outside_address, receiver.local_addr().unwrap().port());
        for (from, source) in [(&amber, node_address), (&violet, violet.addresses[0])] {
            answers(&from.end, outside_address, "outside").await;
            from.end.tcp(&outside, outside_address, 3_000_000).await.unwrap();
            from.pod.sandbox().unwrap().run(|| std::net::UdpSocket::bind("0.0.0.0:0")?.send_to(b"me", to)).unwrap().unwrap();
            assert_eq!(receiver.recv_from(&mut [0; 8]).unwrap().1.ip(), source);
        }
        answers(&outside, violet.addresses[0], "a pod that is routed to").await;
        // As other hosts they reach their node, which reaches them.
        for of in [&amber, &violet] {
            answers(&of.end, node_address, "the node").await;
            answers(&node, of.addresses[0], "a pod of the node").await;
        }

        // Not each other, directly or by a port of the node.
        assert!(is_cut_off(&amber.end, violet.addresses[0]).await && is_cut_off(&violet.end, amber.addresses[0]).await);
        let dnat = format!(
            "table ip nodeport {{
                chain in {{ type nat hook prerouting priority dstnat; ip daddr {node_address} tcp dport 1024-65535 dnat to {}; }}
            }}",
            violet.addresses[0]
        );
        nodes.lab.ok(&["node", "node1", "--", "nft", &dnat]);
        outside.tcp(&violet.end, node_address, 1).await.unwrap();
        let by_node = timeout(Duration::from_secs(2), amber.end.tcp(&violet.end, node_address, 1)).await;
        assert!(!matches!(by_node, Ok(Ok(_))), "VPC violet is reached by a port of the node");
        nodes.lab.ok(&["node", "node1", "--", "nft", "delete table ip nodeport"]);
        // Nor under each other's addresses, nor where there is no way back.
        let stolen = "10.91.0.77";
        let in_amber = Handle::open(&amber.pod.sandbox().unwrap()).unwrap();
        let link = in_amber.link("eth0").await.unwrap().unwrap();
        in_amber.add_address(link.index, format!("{stolen}/32").parse().unwrap()).await.unwrap();
        let send = || std::net::UdpSocket::bind((stolen, 0))?.send_to(b"stolen", to);
        amber.pod.sandbox().unwrap().run(send).unwrap().unwrap();
        assert!(receiver.recv_from(&mut [0; 8]).is_err(), "a packet left under another VPC's address");
        assert!(is_cut_off(&same.end, outside_address).await);

        // Nothing of it stays when it is not asked for any more.
        nodes.lab.kubectl(&["annotate", "vpc", "amber", "ferrovia.io/egress-"]);
        let deadline = Instant::now() + PATIENCE;
        while nodes.observe(NODE1).await.lines("route 10.90.0.0/24 ").next().is_some() || !is_cut_off(&amber.end, outside_address).await {
            assert!(Instant::now() < deadline, "amber still leaves");
            sleep(Duration::from_millis(100)).await;
        }
        answers(&violet.end, outside_address, "outside").await;
    });
}
