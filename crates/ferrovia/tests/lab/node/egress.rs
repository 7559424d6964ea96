//! The way out: through the node that a pod is on, under that node's address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use lab::probe::Endpoint;
use lab::{Gateway, Place};
use serde_json::{Value, json};

use super::{NODE1, NODE2, Nodes, PATIENCE, answers, pod, with_nodes, with_nodes_of};

const OUTSIDE: Place = Place::Outside(1);
const TRANSFER: usize = 10_000_000;

fn outside(nodes: &Nodes<'_>) -> (IpAddr, Endpoint) {
    let netns = nodes.opened.layout.netns(OUTSIDE).unwrap();
    (OUTSIDE.address().unwrap().into(), Endpoint::open("outside", &netns).unwrap())
}

/// A pod of the first node that leaves, and the address outside that it reaches.
async fn leaving(nodes: &Nodes<'_>) -> (Endpoint, IpAddr) {
    let (address, _) = outside(nodes);
    let pod = nodes.pods(NODE1, "one", 1).await.remove(0);
    nodes.attach(NODE1, &pod).await;
    let from = Endpoint::open("one", &pod.sandbox().unwrap()).unwrap();
    answers(&from, address, "before").await;
    (from, address)
}

/// Waits until what is shown is as it was before somebody changed it.
async fn is_put_back<T: std::fmt::Debug>(change: &str, shown: impl Fn() -> T, as_before: impl Fn(&T) -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let shown = shown();
        if as_before(&shown) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{change}: {shown:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn pods_leave_through_their_own_node_under_its_address() {
    with_nodes(2, async |nodes| {
        let (address, host) = outside(&nodes);
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let netns = nodes.opened.layout.netns(OUTSIDE).unwrap();
        let receiver = netns.run(|| std::net::UdpSocket::bind(any)).unwrap().unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let to = SocketAddr::new(address, receiver.local_addr().unwrap().port());
        for (node, name) in [(NODE1, "one"), (NODE2, "two")] {
            let pod = nodes.pods(node, name, 1).await.remove(0);
            nodes.attach(node, &pod).await;
            let sandbox = pod.sandbox().unwrap();
            let from = Endpoint::open(name, &sandbox).unwrap();
            answers(&from, address, name).await;
            sandbox.run(|| std::net::UdpSocket::bind(any)?.send_to(name.as_bytes(), to)).unwrap().unwrap();
            let mut buffer = [0; 16];
            let (length, source) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], source.ip()), (name.as_bytes(), IpAddr::from(node.address().unwrap())));
            from.tcp(&host, address, TRANSFER).await.unwrap();
        }
        // Neither side asked for the other's MAC, and nothing was learned of it.
        let learned = nodes.lab.ok(&["node", "central", "--", "ovn-sbctl", "--bare", "--columns=ip", "list", "mac_binding"]);
        assert_eq!(learned.trim(), "");
    });
}

#[test]
fn addresses_that_are_not_translated_stay_and_other_vpcs_do_not_leave() {
    with_nodes(1, async |nodes| {
        let (address, host) = outside(&nodes);
        nodes.lab.apply(
            "
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: blue}
spec: {}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: blue}
spec: {vpc: blue, cidrBlock: 10.90.0.0/24, natOutgoing: true}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: routed}
spec: {cidrBlock: 10.91.0.0/24}
",
        );
        nodes.lab.kubectl(&["wait", "--for=condition=Ready", "subnet/blue", "subnet/routed", "--timeout=30s"]);
        let on = |subnet: &str| json!({ "ovn.kubernetes.io/logical_switch": subnet });
        let pods = vec![pod("routed", "default", on("routed")), pod("blue", "default", on("blue"))];
        let pods = nodes.runtime(NODE1).admit(&nodes.client, pods).await.unwrap();
        for one in &pods {
            nodes.attach(NODE1, one).await;
        }
        // Whoever routes to the node reaches the pod, and sees its own address.
        let node = NODE1.address().unwrap().to_string();
        nodes.lab.ok(&["outside", "--", "ip", "route", "add", "10.91.0.0/24", "via", &node]);
        let routed = Endpoint::open("routed", &pods[0].sandbox().unwrap()).unwrap();
        answers(&routed, address, "a pod that is routed to").await;
        let inward = IpAddr::from([10, 91, 0, 2]);
        answers(&host, inward, "from outside").await;
        let blue = Endpoint::open("blue", &pods[1].sandbox().unwrap()).unwrap();
        let leak = lab::probe::Ping { seen_by: Some(&host), answered: false, payload: 56 };
        let leaked = tokio::time::timeout(Duration::from_secs(1), blue.ping(address, leak)).await;
        assert!(!matches!(leaked, Ok(Ok(()))), "VPC blue reaches the outside");
    });
}

/// A root directory with this machine's programs, and the schema of a northbound database that has no table `Static_MAC_Binding`.
fn before_static_bindings() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("usr/share/ovn")).unwrap();
    for path in ["bin", "sbin", "lib", "lib64", "usr/bin", "usr/sbin", "usr/lib", "usr/share/openvswitch", "usr/share/ovn/ovn-sb.ovsschema"]
    {
        std::os::unix::fs::symlink(Path::new("/").join(path), root.path().join(path)).unwrap();
    }
    let mut schema: Value = serde_json::from_slice(&std::fs::read("/usr/share/ovn/ovn-nb.ovsschema").unwrap()).unwrap();
    assert!(schema["tables"].as_object_mut().unwrap().remove("Static_MAC_Binding").is_some());
    std::fs::write(root.path().join("usr/share/ovn/ovn-nb.ovsschema"), schema.to_string()).unwrap();
    root
}

#[test]
fn where_ovn_has_no_static_bindings_routers_ask_and_every_node_answers_alike() {
    let root = before_static_bindings();
    with_nodes_of(2, &["--dual-stack", "--ovn", root.path().to_str().unwrap()], async |nodes| {
        nodes.lab.apply(
            "
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: amber, annotations: {ferrovia.io/egress: localnet}}
spec: {}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: amber}
spec: {vpc: amber, cidrBlock: '10.95.0.0/24,fd95::/64', natOutgoing: true}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: chosen}
spec: {vpc: amber, cidrBlock: '10.96.0.0/24,fd96::/64', natOutgoing: true, gatewayType: centralized, gatewayNode: node1}
",
        );
        nodes.lab.kubectl(&[
            "wait",
            "--for=condition=Ready",
            "vpc/ovn-cluster",
            "vpc/amber",
            "subnet/amber",
            "subnet/chosen",
            "--timeout=30s",
        ]);
        for subnet in ["ovn-default", "amber", "chosen"] {
            for node in [NODE1, NODE2] {
                let name = format!("{subnet}-{node}");
                let member = nodes.member(node, &name, subnet).await;
                for outside in OUTSIDE.addresses() {
                    answers(&member.end, outside.address(), &name).await;
                }
            }
        }
        // One answer of each family for each of the three ways out, whoever asked.
        let learned = nodes.lab.ok(&["node", "central", "--", "ovn-sbctl", "--bare", "--columns=mac", "list", "mac_binding"]);
        let macs: Vec<&str> = learned.split_whitespace().collect();
        assert_eq!(macs, [api::Transit::NODE_MAC.to_string().as_str(); 6], "{learned}");
        let told = nodes.lab.kubectl(&["get", "events", "--all-namespaces"]);
        assert!(!told.contains("Static_MAC_Binding"), "{told}");
    });
}

#[test]
fn an_agent_that_restarts_loses_nothing_that_leaves_and_a_switch_that_restarts_is_told_again() {
    with_nodes(1, async |nodes| {
        let (from, address) = leaving(&nodes).await;
        for (component, times, watched) in [("agent@node1", 5, 500), ("ovs-vswitchd@node1", 1, 5000)] {
            let restarts = async {
                for _ in 0..times {
                    nodes.restart(component).await;
                    tokio::time::sleep(Duration::from_millis(watched)).await;
                }
            };
            let streamed = from.stream(address, Duration::from_millis(2), restarts).await.unwrap();
            println!("{component} restarted {times} times: {streamed}");
            if component.starts_with("agent") {
                assert_eq!(streamed.lost(), 0, "{streamed}");
            }
            answers(&from, address, component).await;
        }
    });
}

#[test]
fn rules_that_somebody_takes_away_are_put_back_at_once() {
    with_nodes(1, async |nodes| {
        let (from, address) = leaving(&nodes).await;
        let nft = |command: &str| nodes.lab.ok(&[&["node", "node1", "--", "nft"][..], &command.split(' ').collect::<Vec<_>>()].concat());
        let whole = nft("list table inet ferrovia");
        for command in ["flush table inet ferrovia", "delete table inet ferrovia"] {
            nft(command);
            is_put_back(command, || nft("list ruleset"), |shown| shown.contains(&whole)).await;
        }
        answers(&from, address, "after").await;
    });
}

#[test]
fn flows_that_somebody_changes_are_put_back_at_once() {
    with_nodes(1, async |nodes| {
        let (from, address) = leaving(&nodes).await;
        let ofctl = |words: &[&str]| nodes.lab.ok(&[&["node", "node1", "--", "ovs-ofctl", "-O", "OpenFlow14"], words].concat());
        let flows = || {
            let shown = ofctl(&["--no-stats", "--names", "dump-flows", "br-ex"]);
            let mut flows: Vec<String> = shown.lines().map(|line| line.trim().to_owned()).collect();
            flows.sort();
            flows
        };
        let whole = flows();
        let stranger = ["add-flow", "br-ex", "priority=999,ip,actions=drop"];
        for words in [&["del-flows", "br-ex"][..], &stranger, &["del-flows", "br-ex", "ipv6"]] {
            ofctl(words);
            is_put_back(&words.join(" "), flows, |shown| *shown == whole).await;
            answers(&from, address, "after").await;
        }
    });
}

#[test]
fn a_range_that_holds_the_nodes_own_address_takes_no_route_and_is_told() {
    with_nodes(1, async |nodes| {
        let (address, host) = outside(&nodes);
        let before = nodes.observe(NODE1).await.lines("route 10.9.0.0/24").map(str::to_owned).collect::<Vec<_>>();
        nodes.lab.apply("{apiVersion: kubeovn.io/v1, kind: Subnet, metadata: {name: wrong}, spec: {cidrBlock: 10.9.0.0/24}}");
        nodes.told("Node", "node1", "a subnet has the range 10.9.0.0/24, in which this node's own address is").await;
        assert_eq!(nodes.observe(NODE1).await.lines("route 10.9.0.0/24").collect::<Vec<_>>(), before);
        answers(&host, NODE1.address().unwrap().into(), "the node").await;
        // And the others go on.
        let pod = nodes.pods(NODE1, "one", 1).await.remove(0);
        let own = nodes.attach(NODE1, &pod).await[0];
        let node = Endpoint::open("node1", &nodes.opened.layout.netns(NODE1).unwrap()).unwrap();
        answers(&node, own, "a pod").await;
        answers(&node, address, "outside").await;
    });
}

#[test]
fn a_bridge_of_somebody_else_is_left_alone_and_told_at_the_node() {
    with_nodes_of(1, &["--gateway", "none"], async |nodes| {
        let ovs = |words: &[&str]| nodes.lab.ok(&[&["node", "node1", "--", "ovs-vsctl"], words].concat());
        ovs(&["add-br", "br-ex", "--", "set", "bridge", "br-ex", "datapath_type=netdev"]);
        nodes.opened.leave_by(Gateway::Localnet).await.unwrap();
        nodes.told("Node", "node1", "bridge br-ex is there already and not ours").await;
        assert!(!ovs(&["get", "bridge", "br-ex", "external_ids"]).contains("vendor"));
        // What does not need it works.
        let pod = nodes.pods(NODE1, "one", 1).await.remove(0);
        let address = nodes.attach(NODE1, &pod).await[0];
        let node = Endpoint::open("node1", &nodes.opened.layout.netns(NODE1).unwrap()).unwrap();
        answers(&node, address, "a pod").await;
    });
}

#[test]
fn a_subnet_leaves_by_a_next_hop_of_its_own_and_rules_that_somebody_takes_away_come_back() {
    leaves_by_a_next_hop("localnet");
}

#[test]
fn so_does_one_where_others_leave_by_their_nodes_ports() {
    leaves_by_a_next_hop("join");
}

fn leaves_by_a_next_hop(gateway: &str) {
    with_nodes_of(2, &["--gateway", gateway], async |nodes| {
        // The next hop, and an address behind it that the node itself would look for elsewhere.
        let (next_hop, behind) = ("outside1", IpAddr::from([203, 0, 113, 9]));
        let node = NODE1.address().unwrap().to_string();
        nodes.lab.ok(&["outside", next_hop, "--", "ip", "address", "add", "203.0.113.9/32", "dev", "lo"]);
        nodes.lab.ok(&["outside", next_hop, "--", "ip", "route", "add", "10.94.0.0/24", "via", &node]);
        nodes.lab.ok(&["node", "node1", "--", "ip", "route", "add", "default", "via", "10.9.0.250"]);
        let subnet = |gateway: &str| {
            format!(
                "
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {{name: apart}}
spec:
  cidrBlock: 10.94.0.0/24
  gatewayType: centralized
  gatewayNode: node1
  externalEgressGateway: {gateway}
  policyRoutingPriority: 1000
  policyRoutingTableID: 1000
"
            )
        };
        nodes.lab.apply(&subnet("10.9.0.101"));
        nodes.lab.kubectl(&["wait", "--for=condition=Ready", "subnet/apart", "--timeout=30s"]);
        let member = nodes.member(NODE2, "apart", "apart").await;
        answers(&member.end, behind, "behind the subnet's next hop").await;

        let rules = || nodes.lab.ok(&["node", "node1", "--", "ip", "rule"]);
        let is_there = || rules().contains("1000:\tfrom 10.94.0.0/24 iif br-ex lookup 1000");
        assert!(is_there(), "{}", rules());
        nodes.lab.ok(&["node", "node1", "--", "ip", "rule", "add", "from", "10.94.0.0/24", "priority", "2000", "lookup", "main"]);
        nodes.lab.ok(&["node", "node1", "--", "ip", "rule", "del", "priority", "1000"]);
        answers(&member.end, behind, "by a rule that was put back").await;
        assert!(!nodes.lab.ok(&["node", "node2", "--", "ip", "rule"]).contains("10.94.0.0"), "only the gateway has the rule");

        let refused = nodes.lab.apply_refused(&subnet("10.9.0.101").replace("  policyRoutingPriority: 1000\n", ""));
        assert!(refused.contains("externalEgressGateway needs a policyRoutingPriority"), "{refused}");
        nodes.lab.apply(&subnet("198.51.100.7"));
        nodes.told("Node", "node1", "externalEgressGateway 198.51.100.7 is on no network of this node").await;
        nodes.lab.apply(&subnet("''"));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while is_there() {
            assert!(tokio::time::Instant::now() < deadline, "{}", rules());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let table = nodes.lab.ok(&["node", "node1", "--", "ip", "route", "show", "table", "all"]);
        assert!(!table.contains("table 1000") && rules().contains("2000:"), "{table}\n{}", rules());
    });
}
