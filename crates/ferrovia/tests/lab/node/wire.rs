//! Pods whose addresses are kept leave by the NIC of a provider network, past the host's stack.

use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use lab::probe::{Endpoint, Ping};
use lab::{Place, Vlans};
use linux::{Handle, IpPrefix};
use tokio::time::{Instant, sleep, timeout};

use super::{Member, NODE1, NODE2, Nodes, PATIENCE, answers, with_nodes};
use crate::harness::NET1;

/// The physical gateway, which has what is beyond it.
const GATEWAY: Place = Vlans::NEIGHBOUR;
const BEYOND: [&str; 2] = ["203.0.113.9", "fd99::9"];
const TRANSFER: usize = 5_000_000;

const SUBNETS: &str = "
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: routed}
spec: {cidrBlock: '10.91.0.0/24,fd91::/64'}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: translated}
spec: {cidrBlock: 10.92.0.0/24, natOutgoing: true}
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: violet, annotations: {ferrovia.io/egress: localnet}}
spec: {}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: violet}
spec: {vpc: violet, cidrBlock: 10.93.0.0/24}
";

/// Counts what a host's stack sees of pods that leave by the wire.
const SEEN: &str = "table inet seen {
chain in {
type filter hook prerouting priority -400
ip saddr { 10.91.0.0/24, 10.93.0.0/24 } counter
ip daddr { 10.91.0.0/24, 10.93.0.0/24 } counter
ip6 saddr fd91::/64 counter
ip6 daddr fd91::/64 counter
}
}";

impl Nodes<'_> {
    fn on(&self, place: Place, words: &[&str]) -> String {
        let name = place.to_string();
        let verb = if matches!(place, Place::Node(_)) { "node" } else { "outside" };
        self.lab.ok(&[&[verb, name.as_str(), "--"], words].concat())
    }

    /// Flows of ours in the network's bridge of a node.
    fn flows(&self, node: Place) -> usize {
        let flows = self.on(node, &["ovs-ofctl", "dump-flows", "br-net1", "cookie=0xfe00000001/-1"]);
        flows.lines().filter(|line| line.contains("actions=")).count()
    }

    /// Waits until pods of both nodes leave by the wire, or by the host.
    async fn leave_past_the_host(&self, past: bool) {
        let deadline = Instant::now() + PATIENCE;
        let is = |node| {
            let flows = self.on(node, &["ovs-ofctl", "dump-flows", "br-ex"]);
            flows.contains("priority=300") == past && (self.flows(node) > 0) == past
        };
        while ![NODE1, NODE2].into_iter().all(is) {
            assert!(Instant::now() < deadline, "{}", self.on(NODE1, &["ovs-ofctl", "dump-flows", "br-ex"]));
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Counts anew what the hosts see.
    fn count(&self) {
        for node in [NODE1, NODE2] {
            self.on(node, &["nft", &format!("table inet seen\ndelete table inet seen\n{SEEN}")]);
        }
    }

    /// Packets that the hosts saw since.
    fn seen(&self) -> u64 {
        let counted = [NODE1, NODE2].map(|node| self.on(node, &["nft", "list", "table", "inet", "seen"]));
        let packets = counted.iter().flat_map(|text| text.split("packets ").skip(1));
        packets.map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// The address under which a pod comes to what is beyond the gateway.
    fn comes_as(&self, from: &Member, to: IpAddr) -> IpAddr {
        let gateway = self.opened.layout.netns(GATEWAY).unwrap();
        let listener = gateway.run(|| TcpListener::bind((to, 0))).unwrap().unwrap();
        let to = listener.local_addr().unwrap();
        from.pod.sandbox().unwrap().run(|| TcpStream::connect_timeout(&to, Duration::from_secs(10))).unwrap().unwrap();
        listener.accept().unwrap().1.ip()
    }

    fn annotate(&self, value: &str) {
        let note = if value == "-" { "ferrovia.io/exit-".to_owned() } else { format!("ferrovia.io/exit={value}") };
        self.lab.kubectl(&["annotate", "--overwrite", "provider-network", "net1", &note]);
    }
}

/// In both directions, in datagrams and streams, and as long as pods can.
async fn exchange(member: &Member, gateway: &Endpoint) {
    for own in &member.addresses {
        let beyond: IpAddr = BEYOND[usize::from(own.is_ipv6())].parse().unwrap();
        let what = format!("{} and {beyond}", member.end.id());
        answers(&member.end, beyond, &what).await;
        member.end.tcp(gateway, beyond, TRANSFER).await.expect(&what);
        gateway.tcp(&member.end, *own, TRANSFER).await.expect(&what);
        timeout(PATIENCE, member.end.udp(gateway, beyond)).await.expect(&what).expect(&what);
        timeout(PATIENCE, gateway.udp(&member.end, *own)).await.expect(&what).expect(&what);
        let headers = if own.is_ipv4() { 28 } else { 48 };
        let long = Ping { seen_by: Some(gateway), answered: true, payload: 1400 - headers };
        timeout(PATIENCE, member.end.ping(beyond, long)).await.expect(&what).expect(&what);
        // What is too long for pods is told to whoever sends it.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let long = Ping { seen_by: None, answered: true, payload: 1500 - headers };
            match timeout(Duration::from_secs(1), gateway.ping(*own, long)).await {
                Ok(Err(why)) if why.contains("too long") => break,
                answered => assert!(Instant::now() < deadline, "{what}: {answered:?}"),
            }
        }
    }
}

#[test]
fn pods_leave_by_the_wire_and_what_comes_back_passes_the_host_too() {
    with_nodes(2, async |nodes| {
        nodes.opened.add_vlans(Vlans { vlan: 100 }).await.unwrap();
        let netns = nodes.opened.layout.netns(GATEWAY).unwrap();
        let at_gateway = Handle::open(&netns).unwrap();
        let (lo, eth1) = (at_gateway.index("lo").await.unwrap(), at_gateway.index("eth1").await.unwrap());
        for beyond in BEYOND {
            at_gateway.add_address(lo, IpPrefix::host(beyond.parse().unwrap())).await.unwrap();
        }
        at_gateway.add_address(eth1, "fd30::1/64".parse().unwrap()).await.unwrap();
        // Whatever node a pod is on: nobody on the way remembers a connection.
        for (range, via, beyond) in
            [("10.91.0.0/24", "172.30.0.11", BEYOND[0]), ("10.93.0.0/24", "172.30.0.11", BEYOND[0]), ("fd91::/64", "fd30::11", BEYOND[1])]
        {
            nodes.on(GATEWAY, &["ip", "route", "add", range, "via", via, "src", beyond]);
        }
        let gateway = Endpoint::open("gateway", &netns).unwrap();
        nodes.lab.apply(NET1);
        nodes.annotate("yes");
        nodes.lab.apply(SUBNETS);
        let subnets = ["subnet/routed", "subnet/translated", "subnet/violet"];
        nodes.lab.kubectl(&[&["wait", "--for=condition=Ready", "--timeout=30s"], &subnets[..]].concat());
        nodes.told("ProviderNetwork", "net1", "annotation ferrovia.io/exit: \"yes\" is not an IP address").await;
        nodes.annotate("true");
        nodes.told("Node", "node1", "names no gateway, and this node has no default route by br-net1").await;

        let one = nodes.member(NODE1, "one", "routed").await;
        let two = nodes.member(NODE2, "two", "routed").await;
        let translated = nodes.member(NODE1, "translated", "translated").await;
        let violet = nodes.member(NODE1, "violet", "violet").await;
        for (node, address) in [(NODE1, "fd30::11/64"), (NODE2, "fd30::12/64")] {
            nodes.on(node, &["ip", "address", "add", address, "dev", "br-net1", "nodad"]);
            nodes.on(node, &["ip", "route", "add", "default", "via", "172.30.0.1", "dev", "br-net1"]);
            nodes.on(node, &["ip", "-6", "route", "add", "default", "via", "fd30::1", "dev", "br-net1"]);
        }
        nodes.leave_past_the_host(true).await;
        let beyond: IpAddr = BEYOND[0].parse().unwrap();
        answers(&one.end, beyond, "beyond the gateway").await;
        let path = nodes.lab.ok(&["path", "one", BEYOND[0]]);
        assert!(path.contains("NIC eth1") && !path.contains("host stack"), "{path}");
        nodes.count();
        for member in [&one, &two, &violet] {
            exchange(member, &gateway).await;
        }
        for own in &one.addresses {
            assert_eq!(nodes.comes_as(&one, BEYOND[usize::from(own.is_ipv6())].parse().unwrap()), *own);
        }
        assert_eq!(nodes.comes_as(&violet, beyond), violet.addresses[0]);
        assert_eq!(nodes.seen(), 0, "{}", nodes.on(NODE1, &["nft", "list", "table", "inet", "seen"]));
        // Flows that somebody takes away are put back.
        nodes.on(NODE1, &["ovs-ofctl", "del-flows", "br-net1", "cookie=0xfe00000001/-1"]);
        nodes.leave_past_the_host(true).await;
        // By the host goes what it must see: who leaves under its address, nodes, the network that it is on.
        assert_eq!(nodes.comes_as(&translated, beyond), IpAddr::from(Vlans::address(NODE1)));
        for (to, what) in [(NODE1.address().unwrap(), "its node"), (NODE2.address().unwrap(), "another node")] {
            answers(&one.end, to.into(), what).await;
        }
        one.end.tcp(&gateway, Vlans::address(GATEWAY).into(), TRANSFER).await.unwrap();
        assert!(nodes.seen() > 0);
        // Nor do VPCs reach each other.
        let across = Ping { seen_by: None, answered: true, payload: 56 };
        for (from, to) in [(&one, &violet), (&violet, &one), (&violet, &two)] {
            let reached = timeout(Duration::from_secs(1), from.end.ping(to.addresses[0], across)).await;
            assert!(!matches!(reached, Ok(Ok(()))), "{} reaches {}", from.end.id(), to.end.id());
        }

        // The gateway has another MAC.
        let moves = async {
            sleep(Duration::from_millis(500)).await;
            nodes.on(GATEWAY, &["ip", "link", "set", "eth1", "address", "02:00:5e:00:53:77"]);
            sleep(Duration::from_secs(2)).await;
        };
        let streamed = one.end.stream(beyond, Duration::from_millis(5), moves).await.unwrap();
        println!("the gateway's MAC changes: {streamed}");
        assert!(streamed.gap < Duration::from_secs(2), "{streamed}");
        nodes.count();
        for (component, times, watched) in [("agent@node1", 3, 1000), ("ovs-vswitchd@node1", 1, 5000)] {
            let restarts = async {
                for _ in 0..times {
                    nodes.restart(component).await;
                    sleep(Duration::from_millis(watched)).await;
                }
            };
            let streamed = one.end.stream(beyond, Duration::from_millis(2), restarts).await.unwrap();
            println!("{component} restarted {times} times: {streamed}");
            if component.starts_with("agent") {
                assert_eq!((streamed.lost(), nodes.seen()), (0, 0), "{streamed}");
            }
            nodes.leave_past_the_host(true).await;
            answers(&one.end, beyond, component).await;
        }

        // A gateway that does not answer is told, and pods leave as the node does.
        nodes.annotate("172.30.0.99");
        nodes.told("Node", "node1", "gateway 172.30.0.99 does not answer").await;
        nodes.leave_past_the_host(false).await;
        answers(&one.end, beyond, "by the host").await;
        nodes.annotate("172.30.0.1");
        nodes.leave_past_the_host(true).await;
        answers(&one.end, beyond, "by the wire again").await;
        let back = async {
            sleep(Duration::from_millis(300)).await;
            nodes.annotate("-");
            nodes.leave_past_the_host(false).await;
            sleep(Duration::from_secs(1)).await;
        };
        let streamed = one.end.stream(beyond, Duration::from_millis(5), back).await.unwrap();
        println!("from the wire to the host: {streamed}");
        nodes.count();
        assert_eq!(nodes.comes_as(&one, beyond), one.addresses[0]);
        one.end.tcp(&gateway, beyond, TRANSFER).await.unwrap();
        assert!(nodes.seen() > 0);
        let deadline = Instant::now() + PATIENCE;
        let left = || nodes.on(NODE1, &["ovs-vsctl", "--bare", "--columns=name", "find", "interface", "external_ids:exit=net1"]);
        let mtu = || nodes.lab.nb(&["--bare", "--columns=options", "list", "logical_router_port"]);
        while !left().trim().is_empty() || mtu().contains("gateway_mtu") {
            assert!(Instant::now() < deadline, "{}{}", left(), mtu());
            sleep(Duration::from_millis(100)).await;
        }
    });
}
