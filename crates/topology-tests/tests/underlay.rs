//! Subnets on physical networks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;

use cluster::Cluster;

const LAN: &str = "
kind: Vpc
metadata: {name: ovn-cluster, uid: v}
spec: {}
---
kind: Namespace
metadata: {name: default}
---
kind: ProviderNetwork
metadata: {name: net1, uid: n}
spec: {defaultInterface: eth1, excludeNodes: [n9]}
---
kind: Vlan
metadata: {name: vlan7, uid: w, creationTimestamp: 2026-01-01T00:00:00Z}
spec: {id: 7, provider: net1}
---
kind: Vlan
metadata: {name: untagged, uid: x}
spec: {id: 0, provider: net1}
---
kind: Subnet
metadata: {name: lan, uid: s, creationTimestamp: 2026-01-01T00:00:00Z}
spec: {cidrBlock: 192.0.2.0/24, gateway: 192.0.2.254, vlan: vlan7, namespaces: [default]}
---
kind: Subnet
metadata: {name: routed, uid: t, creationTimestamp: 2026-01-01T00:00:00Z}
spec: {cidrBlock: 198.51.100.0/24, vlan: untagged, logicalGateway: true}
";

const POD: &str = "
kind: Pod
metadata: {name: vm, namespace: default, uid: p}
spec: {nodeName: n1}
";

fn network(manifest: &str) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(manifest);
    cluster.round();
    cluster
}

#[test]
fn a_subnet_on_a_vlan_is_a_switch_with_a_port_to_the_physical_network() {
    let cluster = network(&format!("{LAN}---\n{POD}"));
    insta::assert_snapshot!(cluster.northbound());
    let record = cluster.engine.facts().find_map(|(fact, value)| match (fact, value) {
        (topology::Fact::Record(..), topology::FactValue::Record { vpc, record, .. }) => {
            Some((vpc.clone(), record.segment.clone().unwrap()))
        }
        _ => None,
    });
    let (vpc, segment) = record.unwrap();
    assert_eq!((vpc, &*segment.network, segment.vlan), (None, "net1", 7));
    // The gateway is a host of the physical network: its address is no pod's.
    let pod = cluster.ipam.holding("vm.default").unwrap();
    assert_eq!(pod.addresses, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn what_is_wrong_with_a_vlan_is_told_on_all_that_depends_on_it() {
    let mut cluster = network(LAN);
    cluster.apply(
        "
kind: Vlan
metadata: {name: younger, uid: y, creationTimestamp: 2026-02-01T00:00:00Z}
spec: {vlanId: 7, provider: net1}
---
kind: Vlan
metadata: {name: elsewhere, uid: z}
spec: {id: 7, provider: nowhere}
---
kind: Subnet
metadata: {name: a-conflict, uid: a}
spec: {cidrBlock: 10.1.0.0/24, vlan: younger}
---
kind: Subnet
metadata: {name: b-elsewhere, uid: b}
spec: {cidrBlock: 10.2.0.0/24, vlan: elsewhere}
---
kind: Subnet
metadata: {name: c-missing, uid: c}
spec: {cidrBlock: 10.3.0.0/24, vlan: missing}
---
kind: ProviderNetwork
metadata: {name: much-too-long, uid: m}
spec: {defaultInterface: eth1}
---
kind: Node
metadata:
  name: n1
  labels: {net1.provider-network.kubernetes.io/ready: 'true'}
---
kind: Node
metadata:
  name: n2
  labels: {net1.provider-network.kubernetes.io/ready: 'false'}
  annotations: {net1.provider-network.kubernetes.io/err_mesg: link eth1 does not exist}
---
kind: Node
metadata: {name: n9}
",
    );
    cluster.round();
    insta::assert_snapshot!(cluster.told());
    for subnet in ["a-conflict", "b-elsewhere", "c-missing"] {
        assert!(!cluster.northbound().contains(subnet), "{}", cluster.northbound());
    }
    // Once the older one is gone, the younger one has the identifier.
    cluster.engine.set::<topology::Vlan>(&"vlan7".into(), None, engine::Age(0));
    cluster.round();
    assert!(cluster.northbound().contains("localnet.a-conflict") && !cluster.northbound().contains("localnet.lan"));
}

#[test]
fn a_vlan_waits_for_its_subnets_and_a_network_for_its_vlans() {
    let mut cluster = network(LAN);
    let before = cluster.northbound();
    let going = "deletionTimestamp: 2026-03-01T00:00:00Z, uid: ";
    cluster.apply(&LAN.replace("uid: n}", &format!("{going}n}}")).replace("uid: w,", &format!("{going}w,")));
    cluster.round();
    assert_eq!(cluster.northbound(), before);
    let told = cluster.told();
    assert!(told.contains("vlan vlan7: [lan]; deletion waits for subnets lan"), "{told}");
    let state = |cluster: &Cluster| match cluster.engine.desired(&topology::Fact::ProviderNetwork("net1".into())) {
        Some(topology::FactValue::ProviderNetwork(state)) => (state.finalizer, state.waiting.clone().map(|p| p.message)),
        _ => panic!("no state"),
    };
    assert_eq!(state(&cluster), (true, Some("deletion waits for Vlans untagged, vlan7".to_owned())));
    for vlan in ["vlan7", "untagged"] {
        cluster.engine.set::<topology::Vlan>(&vlan.into(), None, engine::Age(0));
    }
    cluster.round();
    assert_eq!(state(&cluster), (false, None));
}

/// A subnet on a Vlan that is connected with the overlay subnet of its VPC.
const INTERCONNECTED: &str = "
kind: Subnet
metadata: {name: lan, uid: s, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  cidrBlock: 192.0.2.0/24,2001:db8::/64
  gateway: 192.0.2.254,2001:db8::ff
  vlan: vlan7
  namespaces: [default]
  u2oInterconnection: true
  u2oInterconnectionIP: 192.0.2.9
---
kind: Subnet
metadata: {name: overlay, uid: o}
spec: {cidrBlock: 10.16.0.0/16}
";

fn interconnection(cluster: &Cluster, subnet: &str) -> Option<Result<(String, String), String>> {
    let Some(topology::FactValue::Subnet(state)) = cluster.engine.desired(&topology::Fact::Subnet(subnet.into())) else { return None };
    Some(match state.interconnection.clone()? {
        Ok(found) => Ok(found.held.map(|held| (api::annotations::join(&held.addresses), held.mac.to_string())).unwrap_or_default()),
        Err(problem) => Err(problem.message),
    })
}

fn gateways(cluster: &Cluster) -> String {
    let records = cluster.engine.facts().filter_map(|(_, value)| match value {
        topology::FactValue::Record { vpc, record, .. } => {
            Some(format!("{} of {}", api::annotations::join(&record.gateways), vpc.as_deref().unwrap_or("none")))
        }
        _ => None,
    });
    records.collect::<Vec<_>>().join("; ")
}

#[test]
fn an_interconnected_subnet_has_a_port_of_the_router_beside_its_gateway() {
    let mut cluster = network(&format!("{LAN}---\n{INTERCONNECTED}---\n{POD}"));
    insta::assert_snapshot!(cluster.northbound());
    let (addresses, mac) = interconnection(&cluster, "lan").unwrap().unwrap();
    assert_eq!(addresses, "192.0.2.9,2001:db8::1");
    assert_eq!(gateways(&cluster), "192.0.2.9,2001:db8::1 of ovn-cluster");
    assert_eq!(cluster.ipam.holding("u2o-interconnection.ovn-cluster.lan").unwrap().mac.to_string(), mac);

    // Recorded, it is the same whoever else comes, and after the wish for that address was dropped.
    let shown =
        format!("status: {{u2oInterconnectionIP: '{addresses}', u2oInterconnectionMAC: '{mac}', u2oInterconnectionVPC: ovn-cluster}}");
    let recorded = INTERCONNECTED.replacen("---", &format!("{shown}\n---"), 1).replace("  u2oInterconnectionIP: 192.0.2.9\n", "");
    let before = cluster.northbound();
    let mut restarted = network(&format!("{LAN}---\n{recorded}---\n{POD}"));
    assert_eq!(interconnection(&restarted, "lan").unwrap().unwrap(), (addresses, mac));
    assert_eq!(restarted.northbound(), before);

    // With a way out of the VPC there is no route to nowhere.
    let way_out = topology::Egress::Localnet(api::Transit::DEFAULT.parse().unwrap());
    restarted.engine.set::<topology::Egress>(&"ovn-cluster".into(), Some(way_out), engine::Age(0));
    restarted.round();
    assert!(!restarted.northbound().contains("nexthop: \"192.0.2.9\""), "{}", restarted.northbound());

    // Switched off, all is as it was, and the gateway is the physical one.
    let off = INTERCONNECTED.replace("u2oInterconnection: true", "u2oInterconnection: false");
    cluster.apply(&off);
    cluster.round();
    assert_eq!(gateways(&cluster), "192.0.2.254,2001:db8::ff of none");
    // Of the addresses, the pod keeps what it has.
    let never = network(&format!("{LAN}---\n{off}---\n{POD}")).northbound().replace("2001:db8::1", "2001:db8::2");
    assert_eq!(cluster.northbound(), never);
    assert!(cluster.ipam.holding("u2o-interconnection.ovn-cluster.lan").is_none());
}

#[test]
fn interconnected_subnets_reach_each_other_by_the_router_unless_it_is_for_overlay_subnets_alone() {
    let second = "
kind: Subnet
metadata: {name: second, uid: e}
spec: {cidrBlock: 203.0.113.0/24, vlan: untagged, u2oInterconnection: true}
";
    let same = |cluster: &Cluster| {
        let rows = cluster.northbound();
        let lines: Vec<&str> =
            rows.lines().filter(|line| line.contains("match: ") && line.contains("src") && line.contains("dst")).collect();
        lines.iter().map(|line| line.trim().replace('"', "")).collect::<Vec<_>>()
    };
    let mut cluster = network(&format!("{LAN}---\n{INTERCONNECTED}---\n{second}"));
    let both = "ip4.src == {192.0.2.0/24, 203.0.113.0/24}";
    let mut found = same(&cluster);
    found.sort();
    let v6 = "match: ip6.src == 2001:db8::/64 && ip6.dst == 2001:db8::/64";
    assert_eq!(found, [&format!("match: {both} && ip4.dst == 192.0.2.0/24"), &format!("match: {both} && ip4.dst == 203.0.113.0/24"), v6]);
    cluster.apply(&second.replace("u2oInterconnection: true", "u2oInterconnection: true, u2oFeatures: {overlayOnlyRouting: true}"));
    cluster.round();
    let mut found = same(&cluster);
    found.sort();
    let own = |range: &str| format!("match: ip4.src == {range} && ip4.dst == {range}");
    assert_eq!(found, [own("192.0.2.0/24"), own("203.0.113.0/24"), v6.to_owned()]);
}

#[test]
fn an_interconnection_that_cannot_be_is_told_and_the_subnet_works_without() {
    for (change, why) in [
        ("vlan: vlan7", "spec.u2oInterconnection: true: has no meaning without spec.vlan"),
        ("gateway: 192.0.2.254,2001:db8::ff", "spec.u2oInterconnectionIP: 192.0.2.9 is spec.gateway, which the physical network has"),
        ("u2oInterconnectionIP: 192.0.2.9", "spec.u2oInterconnectionIP: 192.0.3.9 lies outside cidrBlock 192.0.2.0/24,2001:db8::/64"),
        ("namespaces: [default]", "with spec.logicalGateway the router of the VPC is the gateway already"),
    ] {
        let with = match change {
            "vlan: vlan7" => "namespaces: [default]",
            "namespaces: [default]" => "namespaces: [default]\n  logicalGateway: true",
            "u2oInterconnectionIP: 192.0.2.9" => "u2oInterconnectionIP: 192.0.3.9",
            _ => "gateway: 192.0.2.9,2001:db8::ff",
        };
        let wrong = INTERCONNECTED.replacen(&format!("  {change}"), &format!("  {with}"), 1);
        let wrong = if change == "vlan: vlan7" { wrong.replacen("  namespaces: [default]\n", "", 1) } else { wrong };
        let cluster = network(&format!("{LAN}---\n{wrong}---\n{POD}"));
        let told = interconnection(&cluster, "lan").unwrap().unwrap_err();
        assert!(told.contains(why), "{told}");
        assert!(cluster.ipam.holding("vm.default").is_some());
    }
    // One that a pod has already is not taken from it.
    let mut cluster = network(&format!("{LAN}---\n{POD}"));
    cluster.apply(&INTERCONNECTED.replace("192.0.2.9", "192.0.2.1"));
    cluster.round();
    assert_eq!(interconnection(&cluster, "lan").unwrap(), Ok(Default::default()));
    assert_eq!(cluster.ipam.holding("vm.default").unwrap().addresses[0], "192.0.2.1".parse::<std::net::IpAddr>().unwrap());
    assert!(!cluster.northbound().contains("isU2ORoutePolicy"), "{}", cluster.northbound());
}

/// Two gateways of a physical network, by which all of a VPC leaves.
const TWO_GATEWAYS: &str = "
kind: ProviderNetwork
metadata: {name: net1, uid: n}
spec: {defaultInterface: eth1}
---
kind: Vlan
metadata: {name: lan7, uid: l}
spec: {id: 7, provider: net1}
---
kind: Vpc
metadata: {name: blue, uid: v}
spec:
  staticRoutes:
  - {cidr: 0.0.0.0/0, nextHopIP: 192.0.2.2}
  - {cidr: 0.0.0.0/0, nextHopIP: 192.0.2.3}
  - {cidr: 198.51.100.0/24, nextHopIP: 192.0.2.2, policy: policyDst}
---
kind: Subnet
metadata: {name: lan, uid: s}
spec: {vpc: blue, cidrBlock: 192.0.2.0/24, vlan: lan7, logicalGateway: true}
";

/// A node whose bridge is ready, and what does not answer there.
fn watcher(name: &str, unreachable: &str) -> String {
    let notes = format!("annotations: {{ferrovia.io/unreachable-next-hops: '{unreachable}'}}");
    format!(
        "---\nkind: Node\nmetadata: {{name: {name}, uid: {name}, labels: {{net1.provider-network.kubernetes.io/ready: 'true'}}, {notes}}}\n"
    )
}

/// The routes of all routers.
fn routes(cluster: &Cluster) -> Vec<String> {
    use ovsdb_types::nb::logical_router_static_route as route;
    let rows = cluster.replica.rows(route::TABLE);
    let mut routes: Vec<_> = rows.map(|row| format!("{} via {}", row.text(route::IP_PREFIX), row.text(route::NEXTHOP))).collect();
    routes.sort();
    routes
}

#[test]
fn next_hops_share_what_is_for_a_prefix_and_one_that_most_watchers_miss_gets_nothing() {
    let lost = "net1.7/192.0.2.3";
    let nodes = |missing: usize| (1..=4).map(|n| watcher(&format!("n{n}"), if n <= missing { lost } else { "" })).collect::<String>();
    let mut cluster = network(&format!("{TWO_GATEWAYS}{}", nodes(0)));
    insta::assert_snapshot!(cluster.northbound());
    let all = routes(&cluster);
    assert_eq!(all.len(), 3, "{all:?}");
    // One of three may be wrong, and who is no watcher is not asked.
    for (said, left) in [(nodes(1), 3), (watcher("n4", lost), 3), (nodes(2), 2), (nodes(3), 2), (nodes(1), 3)] {
        cluster.apply(&said);
        cluster.round();
        assert_eq!(routes(&cluster).len(), left, "{said}");
    }
    // Who alone is for a prefix is kept, and so are all where all are lost.
    let both = "net1.7/192.0.2.3,net1.7/192.0.2.2";
    cluster.apply(&(1..=3).map(|n| watcher(&format!("n{n}"), both)).collect::<String>());
    cluster.round();
    assert_eq!(routes(&cluster), all);
    insta::assert_snapshot!(cluster.told());
}

#[test]
fn routes_that_cannot_be_are_told_and_the_others_are_there() {
    let cluster = network(
        "
kind: Vpc
metadata: {name: blue, uid: v}
spec:
  staticRoutes:
  - {cidr: 10.9.0.0/16, nextHopIP: 10.1.0.9}
  - {cidr: 10.8.0.0/16, nextHopIP: 172.16.0.1}
  - {cidr: 10.7.0.0/16, nextHopIP: fd00::1}
---
kind: Subnet
metadata: {name: blue-net, uid: s}
spec: {vpc: blue, cidrBlock: 10.1.0.0/16}
",
    );
    assert_eq!(routes(&cluster).len(), 2);
    insta::assert_snapshot!(cluster.told());
}

/// The MTU that each router port keeps to, if any.
fn mtus(cluster: &Cluster) -> Vec<String> {
    use ovsdb_types::nb::logical_router_port as lrp;
    let rows = cluster.replica.rows(lrp::TABLE);
    let mtu = |row: ovsdb_types::Row<'_>| Some(format!("{} {}", row.text(lrp::NAME), row.get(lrp::OPTIONS)?.get("gateway_mtu")?));
    let mut mtus: Vec<_> = rows.filter_map(mtu).collect();
    mtus.sort();
    mtus
}

#[test]
fn routers_keep_to_the_mtu_of_the_narrowest_way_out_by_a_physical_network() {
    let asks =
        |value: &str| LAN.replace("{name: net1, uid: n}", &format!("{{name: net1, uid: n, annotations: {{ferrovia.io/exit: '{value}'}}}}"));
    let node = |name: &str, ready: bool, mtu: u16| {
        let key = "net1.provider-network.kubernetes.io";
        let notes = format!("labels: {{{key}/ready: '{ready}'}}, annotations: {{{key}/exit_mtu: '{mtu}'}}");
        format!("---\nkind: Node\nmetadata: {{name: {name}, uid: {name}, {notes}}}\n")
    };
    let nodes = [node("n1", true, 1400), node("n2", true, 1300), node("n3", false, 1200)].concat();
    let mut cluster = network(&format!("{}{nodes}", asks("true")));
    assert!(cluster.told().contains("; metadata.annotations[ferrovia.io/exit]: pods leave by a network only with"), "{}", cluster.told());
    let egress = topology::Egress::Localnet(api::Transit::DEFAULT.parse().unwrap());
    cluster.engine.set::<topology::Egress>(&"ovn-cluster".into(), Some(egress), engine::Age(0));
    cluster.round();
    assert_eq!(mtus(&cluster), ["ovn-cluster-public_ovn-cluster 1300"]);
    assert!(!cluster.told().contains("ferrovia.io/exit"), "{}", cluster.told());
    cluster.apply(&asks("everywhere"));
    cluster.round();
    assert_eq!(mtus(&cluster), Vec::<String>::new());
    assert!(cluster.told().contains("annotation ferrovia.io/exit: \"everywhere\" is not an IP address"), "{}", cluster.told());
}

const ALONE: &str = "
kind: Subnet
metadata: {name: alone, uid: a, creationTimestamp: 2026-01-02T00:00:00Z}
spec: {vlan: vlan7, protocol: Mac}
---
kind: Subnet
metadata: {name: more, uid: m}
spec: {vlan: vlan7, provider: more.default.ovn}
---
kind: NetworkAttachmentDefinition
metadata: {name: more, namespace: default}
spec: {config: '{\"type\": \"ferrovia\"}'}
---
kind: NetworkAttachmentDefinition
metadata: {name: foreign, namespace: default}
spec: {config: '{\"type\": \"macvlan\", \"ipam\": {\"type\": \"ferrovia\"}}'}
";

/// A pod in a subnet that gives MACs alone, with a MAC of its own.
fn alone(name: &str, notes: &str) -> String {
    format!(
        "kind: Pod\nmetadata: {{name: {name}, namespace: default, uid: {name}, annotations: {{ovn.kubernetes.io/logical_switch: alone{notes}}}}}\nspec: {{nodeName: n1}}\n"
    )
}

#[test]
fn in_a_subnet_without_a_range_ports_have_macs_alone_and_so_have_their_records() {
    let secured = ", k8s.v1.cni.cncf.io/networks: more, ovn.kubernetes.io/mac_address: '02:00:00:00:00:01', ovn.kubernetes.io/port_security: 'true', ovn.kubernetes.io/port_vips: 192.0.2.9, more.default.ovn.kubernetes.io/mac_address: '02:00:00:00:00:02'";
    let mut cluster = network(&format!("{LAN}---\n{ALONE}---\n{}", alone("pod", secured)));
    insta::assert_snapshot!(cluster.northbound());
    assert!(!cluster.told().contains("pod "), "{}", cluster.told());
    let records: Vec<_> = cluster
        .engine
        .facts()
        .filter_map(|(fact, value)| match (fact, value) {
            (topology::Fact::Record(..), topology::FactValue::Record { vpc, record, .. }) => Some((vpc.clone(), record.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(records.len(), 2);
    for (vpc, record) in records {
        assert_eq!((vpc, record.addresses.len(), record.cidrs, record.gateways.len()), (None, 0, None, 0));
        assert_eq!(record.segment.unwrap().vlan, 7);
    }
    // A MAC is one's in the VPC, whatever the subnet.
    cluster.apply(&alone("twin", ", ovn.kubernetes.io/mac_address: '02:00:00:00:00:01'"));
    cluster.round();
    assert_eq!(cluster.northbound().matches("Logical_Switch_Port twin").count(), 0);
}

#[test]
fn what_a_subnet_without_a_range_cannot_give_is_told_who_asks_for_it() {
    let mut cluster = network(&format!("{LAN}---\n{ALONE}"));
    cluster.apply(&alone("chosen", ", ovn.kubernetes.io/ip_address: 192.0.2.9"));
    cluster.apply(&alone("family", ", ovn.kubernetes.io/ip_family: IPv4"));
    cluster.apply(&alone("listed", ", ovn.kubernetes.io/ip_pool: '192.0.2.7;192.0.2.8'"));
    cluster.apply(&alone("foreign", ", k8s.v1.cni.cncf.io/networks: foreign, foreign.default.kubernetes.io/logical_switch: alone"));
    cluster.apply(
        "
kind: Subnet
metadata: {name: wrong, uid: w}
spec: {vlan: vlan7, enableDHCP: true}
---
kind: Vip
apiVersion: kubeovn.io/v1
metadata: {name: shared}
spec: {subnet: alone}
---
kind: IP
apiVersion: kubeovn.io/v1
metadata: {name: kept.default}
spec: {subnet: alone, v4IpAddress: 192.0.2.9, macAddress: '02:00:00:00:00:07'}
---
kind: IP
apiVersion: kubeovn.io/v1
metadata: {name: mac.default}
spec: {subnet: alone, macAddress: '02:00:00:00:00:08'}
",
    );
    let pool = topology::Pool {
        created: 0,
        spec: Ok(topology::PoolSpec {
            subnet: "alone".into(),
            ranges: vec![("192.0.2.1".parse().unwrap(), "192.0.2.9".parse().unwrap())],
            namespaces: Vec::new(),
        }),
    };
    cluster.engine.set::<topology::Pool>(&"pool".into(), Some(pool), engine::Age(0));
    cluster.round();
    insta::assert_snapshot!(cluster.told());
    let refused = cluster.engine.facts().filter(|(_, value)| {
        let problem =
            if let topology::FactValue::PoolState(problem) | topology::FactValue::VipState(problem) = value { problem } else { &None };
        problem.as_ref().is_some_and(|problem| problem.message.starts_with("spec.subnet: subnet \"alone\" gives MACs alone"))
    });
    assert_eq!(refused.count(), 2);
    // A MAC that is kept for a pod is its own.
    cluster.apply(&alone("mac", ""));
    cluster.round();
    let held = cluster.ipam.holding("mac.default").unwrap();
    assert_eq!((held.mac.to_string().as_str(), held.addresses.len()), ("02:00:00:00:00:08", 0));
}
