//! Subnets on a VLAN of a physical network, by the nodes' second NIC, which has an address of the node's own.

use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use api::v1::{ProviderNetwork, ProviderNetworkSpec};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use lab::probe::{Endpoint, Ping};
use lab::{Gateway, Place, Vlans};
use linux::{Handle, IpPrefix, Route};
use serde_json::json;

use super::{Member, NODE1, NODE2, Nodes, PATIENCE, answers, pod, refused, with_nodes};
use crate::harness::{LAN, VLAN100, counted};

const TRANSFER: usize = 3_000_000;
/// MTU of pods that tunnels carry, in bytes.
const OVERLAY_MTU: usize = 1400;
/// What the VLAN's gateway leads to besides.
const BEYOND6: &str = "fd99::1/128";

/// Another one on the same VLAN, of both families.
const LAN6: &str = "
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: lan6}
spec: {cidrBlock: '172.31.6.0/24,fd31::/64', gateway: '172.31.6.1,fd31::1', vlan: vlan100}
";

impl Nodes<'_> {
    /// Waits until a provider network shows something.
    async fn network_shows(&self, name: &str, what: &str, is: impl Fn(&ProviderNetwork) -> bool) {
        let networks: Api<ProviderNetwork> = Api::all(self.client.clone());
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let network = networks.get(name).await.unwrap();
            if is(&network) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what}: {:#?}", network.status);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Creates the provider network.
    pub(super) async fn give_nics(&self, exchanged: bool) {
        let spec = ProviderNetworkSpec { default_interface: "eth1".to_owned(), exchange_link_name: Some(exchanged), ..Default::default() };
        let network = ProviderNetwork::new("net1", spec);
        Api::all(self.client.clone()).create(&PostParams::default(), &network).await.unwrap();
    }

    /// Deletes it, and waits until no node says anything of it any more.
    async fn take_nics_back(&self) {
        Api::<ProviderNetwork>::all(self.client.clone()).delete("net1", &DeleteParams::default()).await.unwrap();
        let nodes: Api<Node> = Api::all(self.client.clone());
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let says = |node: &Node| node.metadata.labels.iter().flatten().any(|(key, _)| key.starts_with("net1."));
        while nodes.list(&ListParams::default()).await.unwrap().items.iter().any(says) {
            assert!(tokio::time::Instant::now() < deadline, "nodes still have a part in the network");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What `ip` shows in a node.
    fn ip(&self, node: &str, arguments: &[&str]) -> String {
        self.lab.ok(&[&["node", node, "--", "ip"], arguments].concat())
    }

    /// Waits until a link has, or has not, the node's address on the second network, and the route by it.
    async fn is_reached_by(&self, node: Place, link: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let (name, address) = (node.to_string(), Vlans::address(node).to_string());
        loop {
            let (addresses, route) = (self.ip(&name, &["-o", "-4", "addr", "show"]), self.ip(&name, &["route", "show", "198.51.100.0/24"]));
            let with: Vec<_> = addresses.lines().filter(|line| line.contains(&address)).collect();
            if with.len() == 1
                && with[0].contains(&format!("{link} "))
                && route.trim() == format!("198.51.100.0/24 via 172.30.0.1 dev {link} src {address} metric 50")
            {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{node} is not reached by {link}: {addresses}\n{route}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[test]
fn pods_are_on_a_vlan_and_the_node_is_reached_by_the_nic_that_they_share() {
    with_nodes(2, async |nodes| {
        nodes.opened.add_vlans(Vlans { vlan: 100 }).await.unwrap();
        let open = |place: Place| Endpoint::open(&place.to_string(), &nodes.opened.layout.netns(place).unwrap()).unwrap();
        let (gateway, host, neighbour) = (open(Vlans::GATEWAY), open(Vlans::HOST), open(Vlans::NEIGHBOUR));
        let of = |place: Place| IpAddr::from(Vlans::address(place));
        for node in [NODE1, NODE2] {
            let address = Vlans::address(node).to_string();
            nodes.ip(&node.to_string(), &["route", "add", "198.51.100.0/24", "via", "172.30.0.1", "metric", "50", "src", &address]);
            answers(&neighbour, of(node), "before").await;
        }

        let moves = async {
            nodes.give_nics(false).await;
            let all = ["node1".to_owned(), "node2".to_owned()];
            let ready = |n: &ProviderNetwork| n.status.as_ref().is_some_and(|s| s.ready_nodes.as_deref() == Some(&all));
            nodes.network_shows("net1", "both nodes are ready", ready).await;
        };
        let streamed = neighbour.stream(of(NODE1), Duration::from_millis(2), moves).await.unwrap();
        nodes.lab.apply(&[VLAN100, LAN].concat());
        println!("the node's own address while its NIC passes into the bridge: {streamed}");
        for node in [NODE1, NODE2] {
            nodes.is_reached_by(node, "br-net1").await;
        }
        assert!(streamed.gap < Duration::from_secs(1), "{streamed}");

        nodes.lab.kubectl(&["wait", "--for=condition=Ready", "subnet/lan", "--timeout=30s"]);
        let on = json!({ "ovn.kubernetes.io/logical_switch": "lan" });
        let mut pods = Vec::new();
        for (node, name) in [(NODE1, "one"), (NODE2, "two")] {
            let pod = nodes.runtime(node).admit(&nodes.client, vec![pod(name, "default", on.clone())]).await.unwrap().remove(0);
            let address = nodes.attach(node, &pod).await[0];
            pods.push((node, Endpoint::open(name, &pod.sandbox().unwrap()).unwrap(), address, pod));
        }
        for (_, from, address, _) in &pods {
            answers(from, of(Vlans::GATEWAY), "the gateway").await;
            answers(from, of(Vlans::HOST), "the host on the VLAN").await;
            answers(from, Vlans::BEYOND.into(), "what the gateway leads to").await;
            answers(&gateway, *address, "from the gateway").await;
            // As long as any on the VLAN: nobody there would say that a packet is too long.
            let long = Ping { seen_by: Some(&host), answered: true, payload: 1472 };
            tokio::time::timeout(PATIENCE, from.ping(of(Vlans::HOST), long)).await.unwrap().unwrap();
            from.tcp(&host, of(Vlans::HOST), TRANSFER).await.unwrap();
            host.tcp(from, *address, TRANSFER).await.unwrap();
            tokio::time::timeout(PATIENCE, from.udp(&host, of(Vlans::HOST))).await.unwrap().unwrap();
        }
        let ((_, one, _, _), (_, two, at_two, _)) = (&pods[0], &pods[1]);
        answers(one, *at_two, "the pod on the other node").await;
        one.tcp(two, *at_two, TRANSFER).await.unwrap();
        tokio::time::timeout(PATIENCE, one.udp(two, *at_two)).await.unwrap().unwrap();
        // The node itself is on no VLAN.
        let leak = Ping { seen_by: Some(&neighbour), answered: false, payload: 56 };
        assert!(tokio::time::timeout(Duration::from_secs(1), one.ping(of(Vlans::NEIGHBOUR), leak)).await.is_err(), "a VLAN leaks");

        // Started again, the agent finds everything as it is to be.
        let (before, counting) = (nodes.ip("node1", &["-o", "addr"]), nodes.lab.writes("node1", "db"));
        let again = async {
            nodes.restart("agent@node1").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let streamed = neighbour.stream(of(NODE1), Duration::from_millis(2), again).await.unwrap();
        println!("the same while the agent starts again: {streamed}");
        assert_eq!((streamed.lost(), counted(counting), nodes.ip("node1", &["-o", "addr"])), (0, 0, before));
        // A userspace switch takes its links with it, and what they had.
        nodes.restart("ovs-vswitchd@node1").await;
        nodes.is_reached_by(NODE1, "br-net1").await;
        answers(&neighbour, of(NODE1), "with a switch that was started again").await;
        answers(one, of(Vlans::GATEWAY), "with a switch that was started again").await;

        // A NIC that is not there is named, and nothing else happens.
        let wrong = "{name: wrong}\nspec: {defaultInterface: eth9, excludeNodes: [node2]}\n";
        nodes.lab.apply(&format!("apiVersion: kubeovn.io/v1\nkind: ProviderNetwork\nmetadata: {wrong}"));
        let named = |network: &ProviderNetwork| {
            let status = network.status.clone().unwrap_or_default();
            let says =
                status.conditions.iter().flatten().any(|c| c.status == "False" && c.message == "node node1: link eth9 does not exist");
            says && status.not_ready_nodes == Some(vec!["node1".to_owned()])
        };
        nodes.network_shows("wrong", "the NIC is named", named).await;
        let labels = nodes.lab.kubectl(&["get", "node", "node1", "node2", "-o", "jsonpath={.items[*].metadata.labels}"]);
        for (key, value) in
            [("wrong", "ready\":\"false"), ("wrong", "exclude\":\"true"), ("net1", "interface\":\"eth1"), ("net1", "mtu\":\"1500")]
        {
            assert!(labels.contains(&format!("{key}.provider-network.kubernetes.io/{value}")), "{labels}");
        }
        assert!(!nodes.ip("node1", &["-o", "link"]).contains("br-wrong"));
        answers(&neighbour, of(NODE1), "with a wrong NIC").await;
        nodes.lab.kubectl(&["delete", "provider-network", "wrong"]);
        // Neither a bridge of somebody else is taken, nor a NIC that another network has.
        nodes.lab.ok(&["node", "node1", "--", "ovs-vsctl", "add-br", "br-mine"]);
        let mine = "{name: mine}\nspec: {defaultInterface: eth1, excludeNodes: [node2]}\n";
        nodes.lab.apply(&format!("apiVersion: kubeovn.io/v1\nkind: ProviderNetwork\nmetadata: {mine}"));
        let says = |network: &ProviderNetwork, why: &str| {
            let conditions = network.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            conditions.iter().any(|c| c.status == "False" && c.message == format!("node node1: {why}"))
        };
        let foreign = |network: &ProviderNetwork| says(network, "bridge br-mine is there already and not ours");
        nodes.network_shows("mine", "the bridge is named", foreign).await;
        nodes.lab.ok(&["node", "node1", "--", "ovs-vsctl", "del-br", "br-mine"]);
        let taken = |network: &ProviderNetwork| says(network, "link eth1 is a port of bridge br-net1 already");
        nodes.network_shows("mine", "the other network's bridge is named", taken).await;
        nodes.lab.kubectl(&["delete", "provider-network", "mine"]);
        answers(&neighbour, of(NODE1), "with networks that cannot be").await;

        // What was taken is given back.
        for (node, _, _, pod) in &pods {
            nodes.detach(*node, pod).await;
        }
        nodes.lab.kubectl(&["delete", "pod", "one", "two", "--force"]);
        nodes.lab.kubectl(&["delete", "subnet/lan", "vlan/vlan100", "--timeout=30s"]);
        let streamed = neighbour.stream(of(NODE1), Duration::from_millis(2), nodes.take_nics_back()).await.unwrap();
        for node in [NODE1, NODE2] {
            nodes.is_reached_by(node, "eth1").await;
        }
        println!("the node's own address while its NIC is given back: {streamed}");
        assert!(streamed.gap < Duration::from_secs(1), "{streamed}");
        answers(&neighbour, of(NODE1), "given back").await;
        assert!(!nodes.ip("node1", &["-o", "link"]).contains("br-net1"));
        let mappings = nodes.lab.ok(&["node", "node1", "--", "ovs-vsctl", "get", "open", ".", "external_ids"]);
        assert!(!mappings.contains("net1"), "{mappings}");
    });
}

#[test]
fn an_agent_that_is_killed_while_a_nic_passes_goes_on_where_it_was() {
    with_nodes(1, async |nodes| {
        nodes.opened.add_vlans(Vlans { vlan: 100 }).await.unwrap();
        let neighbour = Endpoint::open("neighbour", &nodes.opened.layout.netns(Vlans::NEIGHBOUR).unwrap()).unwrap();
        let address = IpAddr::from(Vlans::address(NODE1));
        nodes.ip("node1", &["route", "add", "198.51.100.0/24", "via", "172.30.0.1", "metric", "50", "src", &address.to_string()]);
        let ready = |n: &ProviderNetwork| n.status.as_ref().is_some_and(|s| s.ready_nodes == Some(vec!["node1".to_owned()]));
        for (round, pause) in [0, 10, 20, 40, 80, 120, 200].into_iter().enumerate() {
            let exchanged = round % 2 == 1;
            let kill = async || {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                nodes.kill("agent@node1").await;
                nodes.restart("agent@node1").await;
            };
            nodes.give_nics(exchanged).await;
            kill().await;
            nodes.network_shows("net1", "the node is ready", ready).await;
            let (bridge, nic) = if exchanged { ("eth1", "br-net1") } else { ("br-net1", "eth1") };
            nodes.is_reached_by(NODE1, bridge).await;
            assert!(nodes.ip("node1", &["-d", "link", "show", nic]).contains("veth"), "{nic} is the NIC");
            answers(&neighbour, address, &format!("killed {pause} ms after the network came")).await;
            tokio::join!(nodes.take_nics_back(), kill());
            nodes.is_reached_by(NODE1, "eth1").await;
            assert!(nodes.ip("node1", &["-d", "link", "show", "eth1"]).contains("veth"), "eth1 is the NIC");
            answers(&neighbour, address, &format!("killed {pause} ms after the network went")).await;
            assert!(!nodes.ip("node1", &["-o", "link"]).contains("br-net1"));
        }
    });
}

#[test]
fn what_a_nic_is_given_while_it_passes_into_its_bridge_goes_with_it() {
    with_nodes(1, async |nodes| {
        for round in 1..=12 {
            let (nic, bridge) = (format!("late{round}"), format!("br-late{round}"));
            let spec = ProviderNetworkSpec { default_interface: nic.clone(), ..Default::default() };
            Api::all(nodes.client.clone()).create(&PostParams::default(), &ProviderNetwork::new(&nic, spec)).await.unwrap();
            nodes
                .network_shows(&nic, "it lacks the NIC", |network| {
                    network.status.as_ref().is_some_and(|status| status.not_ready_nodes.is_some())
                })
                .await;
            // As a person or a network manager does, one after the other, and not for long on the link that it was.
            let script = format!(
                "ip link add {nic} type veth peer name x{round} && ip link set {nic} up && ip link set x{round} up
                 ip address add 172.29.{round}.5/24 dev {nic}; ip address add fd29:{round}::5/64 dev {nic}
                 ip route add 198.51.{round}.0/24 via 172.29.{round}.1 dev {nic} && ip -6 route add fd30:{round}::/64 via fd29:{round}::1 dev {nic} \
                 || echo already elsewhere"
            );
            let refused = nodes.lab.ok(&["node", "node1", "--", "sh", "-c", &script]);
            let mut wanted = vec![format!("172.29.{round}.5/24"), format!("fd29:{round}::5/64")];
            if refused.is_empty() {
                wanted.extend([format!("198.51.{round}.0/24"), format!("fd30:{round}::/64")]);
            }
            let script = format!("ip address show dev {bridge}; ip -4 route show dev {bridge}; ip -6 route show dev {bridge}; true");
            // The bridge is not there at first, and goes again when it fails.
            let shown = || nodes.lab.ok(&["node", "node1", "--", "sh", "-c", &script]);
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while wanted.iter().any(|one| !shown().contains(one)) {
                assert!(tokio::time::Instant::now() < deadline, "{wanted:?}: {}\n{}", shown(), nodes.ip("node1", &["address"]));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
}

/// A subnet of each VPC on one VLAN, connected with an overlay subnet: in the default VPC of both families; the other VPC has no way out.
const INTERCONNECTED: &str = "
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: blue}
spec: {}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: lan}
spec:
  cidrBlock: 172.31.0.0/24,fd31::/64
  gateway: 172.31.0.1,fd31::1
  excludeIps: [172.31.0.1..172.31.0.9, 'fd31::1..fd31::9']
  vlan: vlan100
  u2oInterconnection: true
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: over}
spec: {cidrBlock: '10.50.0.0/24,fd50::/64', natOutgoing: true}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: blue-lan}
spec:
  vpc: blue
  cidrBlock: 172.31.1.0/24
  gateway: 172.31.1.1
  vlan: vlan100
  u2oInterconnection: true
  u2oInterconnectionIP: 172.31.1.77
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: blue-over}
spec: {vpc: blue, cidrBlock: 10.60.0.0/24}
";

impl Nodes<'_> {
    /// The VLAN's gateway and host have IPv6, too, and the gateway is in the other VPC's subnet.
    async fn dual_vlans(&self) {
        let open = |place: Place| Handle::open(&self.opened.layout.netns(place).unwrap()).unwrap();
        let (gateway, host) = (open(Vlans::GATEWAY), open(Vlans::HOST));
        let (at_gateway, at_host) = (gateway.index("eth1").await.unwrap(), host.index("eth1").await.unwrap());
        for address in ["fd31::1/64", "172.31.1.1/24"] {
            gateway.add_address(at_gateway, address.parse().unwrap()).await.unwrap();
        }
        gateway.add_address(gateway.index("lo").await.unwrap(), BEYOND6.parse().unwrap()).await.unwrap();
        host.add_address(at_host, "fd31::9/64".parse().unwrap()).await.unwrap();
    }

    /// Lets the VLAN's gateway speak to an address as what is beyond it.
    async fn speaks_from_beyond(&self, to: IpAddr) {
        let gateway = Handle::open(&self.opened.layout.netns(Vlans::GATEWAY).unwrap()).unwrap();
        let device = gateway.index("eth1").await.unwrap();
        gateway.replace_route(&Route::new(IpPrefix::host(to)).dev(device).src(Vlans::BEYOND.into())).await.unwrap();
    }

    /// What the status of a subnet shows of the router there.
    fn router(&self, subnet: &str) -> String {
        let path = "jsonpath={.status.u2oInterconnectionIP} {.status.u2oInterconnectionMAC} {.status.u2oInterconnectionVPC}";
        self.lab.kubectl(&["get", "subnet", subnet, "-o", path])
    }

    /// Waits until the default route of a pod is by the router of the VPC, or by the physical gateway.
    async fn has_gateway(&self, member: &Member, router: bool) {
        let inside = Handle::open(&member.pod.sandbox().unwrap()).unwrap();
        let physical: IpAddr = Vlans::address(Vlans::GATEWAY).into();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let routes = inside.routes().await.unwrap();
            let by = routes.iter().find(|route| route.destination == IpPrefix::DEFAULT_V4).and_then(|route| route.via);
            if by.is_some_and(|by| (by == physical) != router) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{}: {routes:?}", member.end.id());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What ports of the physical switch the routers' own addresses were seen on.
    fn seen_on_the_wire(&self, macs: &[String]) -> Vec<String> {
        let table = self.lab.ok(&["node", "fabric", "--", "ovs-appctl", "fdb/show", "vlans"]);
        table.lines().filter(|line| macs.iter().any(|mac| line.contains(mac))).map(str::to_owned).collect()
    }
}

/// Of both families, in both directions, in datagrams and streams, and as long as tunnels carry.
async fn reach_each_other(one: &Member, other: &Member) {
    for (from, to) in [(one, other), (other, one)] {
        for address in &to.addresses {
            let what = format!("from {} to {}", from.end.id(), to.end.id());
            answers(&from.end, *address, &what).await;
            let headers = if address.is_ipv4() { 28 } else { 48 };
            let long = Ping { seen_by: Some(&to.end), answered: true, payload: OVERLAY_MTU - headers };
            tokio::time::timeout(PATIENCE, from.end.ping(*address, long)).await.expect(&what).expect(&what);
            from.end.tcp(&to.end, *address, TRANSFER).await.expect(&what);
            tokio::time::timeout(PATIENCE, from.end.udp(&to.end, *address)).await.expect(&what).expect(&what);
        }
    }
}

/// The addresses under which a pod comes to what is beyond the gateway, of each family that it has.
async fn comes_as(nodes: &Nodes<'_>, from: &Member) -> Vec<IpAddr> {
    let gateway = nodes.opened.layout.netns(Vlans::GATEWAY).unwrap();
    let mut seen = Vec::new();
    for own in &from.addresses {
        let beyond: IpAddr = if own.is_ipv4() { Vlans::BEYOND.into() } else { BEYOND6.trim_end_matches("/128").parse().unwrap() };
        let listener = gateway.run(|| TcpListener::bind((beyond, 0))).unwrap().unwrap();
        let to = listener.local_addr().unwrap();
        let sandbox = from.pod.sandbox().unwrap();
        let connected = sandbox.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(10))).unwrap();
        connected.unwrap_or_else(|error| panic!("{} does not reach {to}: {error}", from.end.id()));
        seen.push(listener.accept().unwrap().1.ip());
    }
    seen
}

#[test]
fn pods_on_a_vlan_and_overlay_pods_reach_each_other_and_the_rest_leaves_by_the_physical_gateway() {
    with_nodes(2, async |nodes| {
        nodes.opened.add_vlans(Vlans { vlan: 100 }).await.unwrap();
        nodes.dual_vlans().await;
        nodes.give_nics(false).await;
        let all = ["node1".to_owned(), "node2".to_owned()];
        let ready = |n: &ProviderNetwork| n.status.as_ref().is_some_and(|s| s.ready_nodes.as_deref() == Some(&all));
        nodes.network_shows("net1", "both nodes are ready", ready).await;
        nodes.lab.apply(&[VLAN100, INTERCONNECTED].concat());
        nodes.lab.kubectl(&[
            "wait",
            "--for=condition=Ready",
            "subnet/lan",
            "subnet/over",
            "subnet/blue-lan",
            "subnet/blue-over",
            "--timeout=30s",
        ]);
        let open = |place: Place| Endpoint::open(&place.to_string(), &nodes.opened.layout.netns(place).unwrap()).unwrap();
        let (gateway, host) = (open(Vlans::GATEWAY), open(Vlans::HOST));

        let mut members = Vec::new();
        for (vpc, lan, over) in [("default", "lan", "over"), ("blue", "blue-lan", "blue-over")] {
            for (number, node) in [(1, NODE1), (2, NODE2)] {
                members.push(nodes.member(node, &format!("{vpc}-lan{number}"), lan).await);
                members.push(nodes.member(node, &format!("{vpc}-over{number}"), over).await);
            }
        }
        let [lan1, over1, lan2, over2, blue_lan1, blue_over1, blue_lan2, blue_over2] = &members[..] else { panic!("eight pods") };
        for (lan, over) in
            [(lan1, over2), (lan2, over1), (lan1, over1), (blue_lan1, blue_over2), (blue_lan2, blue_over2), (blue_lan2, blue_over1)]
        {
            reach_each_other(lan, over).await;
        }
        // What is longer than tunnels carry is refused at once, and not lost on the way.
        let long = Ping { seen_by: None, answered: true, payload: 1472 };
        let refused = tokio::time::timeout(PATIENCE, lan1.end.ping(over2.addresses[0], long)).await.unwrap();
        assert!(refused.as_ref().is_err_and(|why| why.contains("too long")), "{refused:?}");

        // The VLAN is as it was: as long as any there, to neighbours, and beyond the gateway under the pods' own addresses.
        for lan in [lan1, lan2] {
            let long = Ping { seen_by: Some(&host), answered: true, payload: 1472 };
            tokio::time::timeout(PATIENCE, lan.end.ping(Vlans::address(Vlans::HOST).into(), long)).await.unwrap().unwrap();
            answers(&lan.end, "fd31::9".parse().unwrap(), "the host on the VLAN").await;
            host.tcp(&lan.end, lan.addresses[0], TRANSFER).await.unwrap();
            answers(&lan.end, Vlans::address(Vlans::GATEWAY).into(), "the gateway").await;
            lan.end.tcp(&gateway, Vlans::BEYOND.into(), TRANSFER).await.unwrap();
            gateway.tcp(&lan.end, lan.addresses[0], TRANSFER).await.unwrap();
            nodes.speaks_from_beyond(lan.addresses[0]).await;
            gateway.tcp(&lan.end, lan.addresses[0], TRANSFER).await.unwrap();
            assert_eq!(comes_as(&nodes, lan).await, lan.addresses);
        }
        reach_each_other(lan1, lan2).await;
        assert_eq!(comes_as(&nodes, blue_lan1).await, blue_lan1.addresses);
        // Nobody else leaves by that gateway: without a way out of its own a VPC has none, and the other VPC is another one.
        for (from, to) in [(blue_over1, Vlans::BEYOND.into()), (over1, blue_lan1.addresses[0]), (blue_over1, lan1.addresses[0])] {
            let leak = Ping { seen_by: Some(&gateway), answered: false, payload: 56 };
            let leak = if to == IpAddr::from(Vlans::BEYOND) { leak } else { Ping { seen_by: None, answered: true, payload: 56 } };
            let leaked = tokio::time::timeout(Duration::from_secs(1), from.end.ping(to, leak)).await;
            assert!(leaked.is_err(), "{} reaches {to}", from.end.id());
        }
        // Nodes and overlay pods reach each other as ever.
        answers(&over1.end, NODE2.address().unwrap().into(), "the node").await;

        let (lan, blue) = (nodes.router("lan"), nodes.router("blue-lan"));
        assert!(blue.starts_with("172.31.1.77 ") && blue.ends_with(" blue"), "{blue}");
        let macs: Vec<String> = [&lan, &blue].iter().map(|shown| shown.split(' ').nth(1).unwrap().to_owned()).collect();
        assert_eq!(nodes.seen_on_the_wire(&macs), Vec::<String>::new());
        let object =
            nodes.lab.kubectl(&["get", "ip", "u2o-interconnection.ovn-cluster.lan", "-o", "jsonpath={.spec.ipAddress} {.spec.macAddress}"]);
        assert_eq!(lan, format!("{object} ovn-cluster"));
        let notes = nodes.lab.kubectl(&["get", "pod", "default-lan1", "-o", "jsonpath={.metadata.annotations}"]);
        let first = object.split(' ').next().unwrap();
        assert!(notes.contains(&format!("\"ovn.kubernetes.io/gateway\":\"{first}\"")), "{notes}");
        nodes.restart("controller").await;
        answers(&lan1.end, over2.addresses[0], "with a controller that was started again").await;
        assert_eq!((nodes.router("lan"), nodes.router("blue-lan")), (lan, blue));

        // The same where pods leave by the ports of their nodes.
        nodes.opened.leave_by(Gateway::Join).await.unwrap();
        answers(&lan1.end, over2.addresses[0], "with another way out of the VPC").await;
        reach_each_other(lan1, over2).await;
        assert_eq!(comes_as(&nodes, lan1).await, lan1.addresses);
        nodes.opened.leave_by(Gateway::Localnet).await.unwrap();

        // Switched off and on, pods that run go along.
        for (on, what) in [(false, "off"), (true, "on")] {
            let switched = async {
                let patch = format!("{{\"spec\":{{\"u2oInterconnection\":{on}}}}}");
                nodes.lab.kubectl(&["patch", "subnet", "lan", "--type=merge", "-p", &patch]);
                nodes.has_gateway(lan1, on).await;
                nodes.has_gateway(lan2, on).await;
            };
            let streamed = lan1.end.stream(Vlans::BEYOND.into(), Duration::from_millis(5), switched).await.unwrap();
            println!("a pod on the VLAN while the interconnection is switched {what}: {streamed}");
            assert_eq!(comes_as(&nodes, lan1).await, lan1.addresses);
            if on {
                reach_each_other(lan1, over2).await;
            } else {
                let apart = Ping { seen_by: None, answered: true, payload: 56 };
                assert!(tokio::time::timeout(Duration::from_secs(1), lan1.end.ping(over2.addresses[0], apart)).await.is_err());
                assert_eq!(nodes.router("lan").trim(), "");
            }
        }

        for member in &members {
            nodes.detach(member.node, &member.pod).await;
        }
        nodes.lab.kubectl(&["delete", "pod", "--all", "--force"]);
        nodes.lab.kubectl(&["delete", "subnet", "lan", "over", "blue-lan", "blue-over", "--timeout=30s"]);
        assert_eq!(nodes.lab.kubectl(&["get", "ip", "-o", "name"]).lines().filter(|line| line.contains("u2o")).count(), 0);
        nodes.lab.kubectl(&["delete", "vlan/vlan100", "vpc/blue", "--timeout=30s"]);
        nodes.take_nics_back().await;
    });
}

#[test]
fn an_address_that_somebody_on_the_vlan_has_is_no_pods_until_it_is_free() {
    with_nodes(1, async |nodes| {
        nodes.opened.add_vlans(Vlans { vlan: 100 }).await.unwrap();
        nodes.give_nics(false).await;
        let ready = |n: &ProviderNetwork| n.status.as_ref().is_some_and(|s| s.ready_nodes == Some(vec!["node1".to_owned()]));
        nodes.network_shows("net1", "the node is ready", ready).await;
        nodes.lab.apply(&[VLAN100, LAN].concat());
        nodes.lab.kubectl(&["wait", "--for=condition=Ready", "subnet/lan", "--timeout=30s"]);
        let host = Handle::open(&nodes.opened.layout.netns(Vlans::HOST).unwrap()).unwrap();
        let eth1 = host.link("eth1").await.unwrap().unwrap();
        let (address, mac) = ("172.31.0.50", linux::display_mac(eth1.mac.unwrap()));
        let prefix = format!("{address}/32").parse().unwrap();
        host.add_address(eth1.index, prefix).await.unwrap();

        let on = json!({ "ovn.kubernetes.io/logical_switch": "lan", "ovn.kubernetes.io/ip_address": address });
        let first = nodes.runtime(NODE1).admit(&nodes.client, vec![pod("first", "default", on)]).await.unwrap().remove(0);
        // The very first pod of the subnet on the node: what the switch does for it is new, too.
        let answer = nodes.runtime(NODE1).add(&nodes.network(), &first).await.unwrap();
        let refusal = refused(&answer).to_string();
        let told = format!("address {address} is in use by {mac} in subnet lan");
        assert!(refusal.contains(&told), "{refusal}");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let events =
                nodes.lab.kubectl(&["get", "events", "-o", "jsonpath={range .items[*]}{.involvedObject.name}: {.message}{'\\n'}{end}"]);
            if events.lines().any(|line| line == format!("first: {told}")) {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "no event: {events}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        host.delete_address(eth1.index, prefix).await.unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(nodes.attach(NODE1, &first).await, [address.parse::<IpAddr>().unwrap()]);
        println!("a pod whose address nobody else has is there after {:?}", began.elapsed());
        let end = Endpoint::open("first", &first.sandbox().unwrap()).unwrap();
        answers(&end, Vlans::address(Vlans::HOST).into(), "the host that had the address").await;
        nodes.detach(NODE1, &first).await;

        // The same over IPv6.
        nodes.lab.apply(LAN6);
        nodes.lab.kubectl(&["wait", "--for=condition=Ready", "subnet/lan6", "--timeout=30s"]);
        let prefix = "fd31::50/64".parse().unwrap();
        host.add_address(eth1.index, prefix).await.unwrap();
        let on = json!({ "ovn.kubernetes.io/logical_switch": "lan6", "ovn.kubernetes.io/ip_address": "172.31.6.50,fd31::50" });
        let second = nodes.runtime(NODE1).admit(&nodes.client, vec![pod("second", "default", on)]).await.unwrap().remove(0);
        let told = format!("address fd31::50 is in use by {mac} in subnet lan6");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        // The host itself looks for duplicates before it answers.
        loop {
            match nodes.runtime(NODE1).add(&nodes.network(), &second).await.unwrap().ok() {
                Err(refusal) if refusal.to_string().contains(&told) => break,
                Err(refusal) => panic!("{refusal}"),
                Ok(_) => nodes.detach(NODE1, &second).await,
            }
            assert!(tokio::time::Instant::now() < deadline, "a pod gets an IPv6 address that somebody has");
        }
        host.delete_address(eth1.index, prefix).await.unwrap();
        nodes.attach(NODE1, &second).await;
    });
}
