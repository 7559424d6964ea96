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
kind: Subnet
metadata: {name: d-later, uid: d}
spec: {cidrBlock: 10.4.0.0/24, vlan: vlan7, u2oInterconnection: true}
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
