//! The node's own port: nodes and pods reach each other, and pods may leave by it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use lab::probe::{Endpoint, Ping};
use lab::{Gateway, Place};

use super::{Member, NODE1, NODE2, Nodes, answers, with_nodes_of};

const NODE3: Place = Place::Node(3);
const OUTSIDE: Place = Place::Outside(1);

fn endpoint(nodes: &Nodes<'_>, place: Place) -> (IpAddr, Endpoint) {
    (place.address().unwrap().into(), Endpoint::open(&place.to_string(), &nodes.opened.layout.netns(place).unwrap()).unwrap())
}

/// By TCP with as many bytes, UDP, and an unfragmented echo of this size.
async fn reaches(from: &Endpoint, to: &Endpoint, address: IpAddr, bytes: usize, mtu: u32) {
    answers(from, address, &format!("{} to {}", from.id(), to.id())).await;
    from.tcp(to, address, bytes).await.unwrap_or_else(|why| panic!("{} to {address}: {why}", from.id()));
    from.udp(to, address).await.unwrap_or_else(|why| panic!("{} to {address}: {why}", from.id()));
    let headers = if address.is_ipv4() { 28 } else { 48 };
    let whole = Ping { seen_by: None, answered: true, payload: mtu as usize - headers };
    from.ping(address, whole).await.unwrap_or_else(|why| panic!("{} to {address}, {mtu} bytes: {why}", from.id()));
}

/// Under which address a pod's datagram arrives outside.
fn source(nodes: &Nodes<'_>, pod: &Member, outside: IpAddr) -> IpAddr {
    let netns = nodes.opened.layout.netns(OUTSIDE).unwrap();
    let receiver = netns.run(|| UdpSocket::bind((outside, 0))).unwrap().unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let to = receiver.local_addr().unwrap();
    let any: IpAddr = if outside.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    pod.pod.sandbox().unwrap().run(|| UdpSocket::bind((any, 0))?.send_to(b"me", to)).unwrap().unwrap();
    receiver.recv_from(&mut [0; 8]).unwrap().1.ip()
}

/// The first line of what is to be true of ways in and out, with one of the schemes over one of the tunnels, in both families.
fn nodes_and_pods_reach_each_other(tunnel: &str, gateway: &str) {
    with_nodes_of(3, &["--dual-stack", "--tunnel", tunnel, "--gateway", gateway], async |nodes| {
        nodes.lab.apply(
            "{apiVersion: kubeovn.io/v1, kind: Subnet, metadata: {name: routed}, spec: {cidrBlock: '10.91.0.0/24,fd00:10:91::/64'}}",
        );
        nodes.lab.kubectl(&["wait", "--for=condition=Ready", "subnet/routed", "--timeout=30s"]);
        let mtu = nodes.opened.parameters.tunnel.pod_mtu();
        // The third node has no pod.
        let (one, two) = (nodes.member(NODE1, "one", "ovn-default").await, nodes.member(NODE2, "two", "ovn-default").await);
        let routed = nodes.member(NODE2, "routed", "routed").await;
        let (_, outside) = endpoint(&nodes, OUTSIDE);
        for v6 in [false, true] {
            let of = |addresses: &[IpAddr]| *addresses.iter().find(|address| address.is_ipv6() == v6).unwrap();
            let at = |place: Place| of(&place.addresses().iter().map(|own| own.address()).collect::<Vec<_>>());
            for place in [NODE1, NODE2, NODE3] {
                let (_, node) = endpoint(&nodes, place);
                for pod in [&one, &two] {
                    reaches(&node, &pod.end, of(&pod.addresses), 3_000_000, mtu).await;
                    reaches(&pod.end, &node, at(place), 3_000_000, mtu).await;
                }
            }
            // As a NodePort does it: to the node's address, translated to a pod on another node, and under the node's own address there.
            let (ip, sender) = (if v6 { "ip6" } else { "ip" }, at(OUTSIDE));
            for place in [NODE1, NODE3] {
                let (from, to, pod) = (format!("{ip} saddr {sender} {ip} daddr {}", at(place)), place.to_string(), of(&two.addresses));
                let rules = format!(
                    "table {ip} nodeport {{
                        chain in {{ type nat hook prerouting priority dstnat; {from} meta l4proto {{ tcp, udp }} dnat to {pod}; }}
                        chain out {{ type nat hook postrouting priority srcnat; {ip} saddr {sender} oifname ovn0 masquerade; }}
                    }}"
                );
                nodes.lab.ok(&["node", &to, "--", "nft", &rules]);
                outside.tcp(&two.end, at(place), 3_000_000).await.unwrap_or_else(|why| panic!("by {place}: {why}"));
                outside.udp(&two.end, at(place)).await.unwrap_or_else(|why| panic!("by {place}: {why}"));
                nodes.lab.ok(&["node", &to, "--", "nft", &format!("delete table {ip} nodeport")]);
            }
            // Out by their own node, under its address or their own, and in to those that are routed.
            for pod in [&one, &two] {
                reaches(&pod.end, &outside, sender, 3_000_000, mtu).await;
                assert_eq!(source(&nodes, pod, sender), at(pod.node));
            }
            let range = if v6 { "fd00:10:91::/64" } else { "10.91.0.0/24" };
            nodes.lab.ok(&["outside", "--", "ip", "route", "add", range, "via", &at(routed.node).to_string()]);
            reaches(&routed.end, &outside, sender, 3_000_000, mtu).await;
            assert_eq!(source(&nodes, &routed, sender), of(&routed.addresses));
            reaches(&outside, &routed.end, of(&routed.addresses), 3_000_000, mtu).await;
        }
        // Nothing was learned of anybody: all of it is known.
        let learned = nodes.lab.ok(&["node", "central", "--", "ovn-sbctl", "--bare", "--columns=ip", "list", "mac_binding"]);
        assert_eq!(learned.trim(), "");
    });
}

#[test]
fn nodes_and_pods_reach_each_other_over_geneve_and_pods_leave_by_their_own_switch() {
    nodes_and_pods_reach_each_other("geneve", "localnet");
}

#[test]
fn nodes_and_pods_reach_each_other_over_geneve_and_pods_leave_by_the_nodes_port() {
    nodes_and_pods_reach_each_other("geneve", "join");
}

#[test]
fn nodes_and_pods_reach_each_other_over_vxlan_and_pods_leave_by_their_own_switch() {
    nodes_and_pods_reach_each_other("vxlan", "localnet");
}

#[test]
fn nodes_and_pods_reach_each_other_over_vxlan_and_pods_leave_by_the_nodes_port() {
    nodes_and_pods_reach_each_other("vxlan", "join");
}

#[test]
fn a_running_cluster_changes_from_one_way_out_to_the_other_and_back() {
    with_nodes_of(2, &[], async |nodes| {
        let mut pods = Vec::new();
        for (node, name) in [(NODE1, "one"), (NODE2, "two")] {
            let pod = nodes.pods(node, name, 1).await.remove(0);
            let address = nodes.attach(node, &pod).await[0];
            pods.push((address, Endpoint::open(name, &pod.sandbox().unwrap()).unwrap()));
        }
        let (outside, _) = endpoint(&nodes, OUTSIDE);
        let (node, _) = endpoint(&nodes, NODE2);
        let (east, from) = (pods[1].0, &pods[0].1);
        for address in [east, outside, node] {
            answers(from, address, "before").await;
        }
        let pace = Duration::from_millis(5);
        for gateway in [Gateway::Join, Gateway::Localnet] {
            let change = async {
                nodes.opened.leave_by(gateway).await.unwrap();
                tokio::time::sleep(Duration::from_secs(2)).await;
            };
            let done = tokio::sync::Notify::new();
            let (change, east, out, own) = tokio::join!(
                async {
                    change.await;
                    done.notify_waiters();
                },
                from.stream(east, pace, done.notified()),
                from.stream(outside, pace, done.notified()),
                from.stream(node, pace, done.notified()),
            );
            let ((), east, out, own) = (change, east.unwrap(), out.unwrap(), own.unwrap());
            println!("to {gateway:?}: pod to pod {east}; to the outside {out}; to the other node {own}");
            // Where tunnels are in userspace, packets are lost while Open vSwitch reads all routes anew, as whenever one changes.
            let unnoticed = Duration::from_millis(50);
            assert!(east.gap < unnoticed && own.gap < unnoticed, "{east}; {own}");
            answers(from, outside, "after").await;
        }
    });
}

#[test]
fn what_somebody_takes_from_the_nodes_port_is_put_back_at_once() {
    with_nodes_of(1, &["--gateway", "none"], async |nodes| {
        let (node_address, node) = endpoint(&nodes, NODE1);
        let pod = nodes.pods(NODE1, "one", 1).await.remove(0);
        let address = nodes.attach(NODE1, &pod).await[0];
        // Whether or not pods have a way to the outside.
        let pod = Endpoint::open("one", &pod.sandbox().unwrap()).unwrap();
        answers(&node, address, "a pod").await;
        answers(&pod, node_address, "its node").await;
        let before = nodes.observe(NODE1).await;
        assert!(before.lines("link br-ex").next().is_none(), "there is no gateway bridge without a way out");
        for command in [
            &["ip", "route", "del", "10.16.0.0/16"][..],
            &["ip", "address", "flush", "dev", "ovn0"],
            &["ip", "link", "set", "ovn0", "down"],
            &["ovs-vsctl", "del-port", "ovn0"],
            &["ovs-vsctl", "set", "interface", "ovn0", "external_ids:iface-id=other"],
        ] {
            nodes.lab.ok(&[&["node", "node1", "--"][..], command].concat());
            nodes.settles(NODE1).await;
            nodes.comes_back(NODE1, &before).await;
        }
    });
}
