//! The network that a manifest makes, to be read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;

use cluster::{Cluster, DEFAULT};

fn network(manifest: &str) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(manifest);
    cluster.round();
    cluster
}

#[test]
fn a_pod_in_the_default_subnet() {
    let cluster = network(&format!("{DEFAULT}---\nkind: Pod\nmetadata: {{name: web-0, namespace: default, uid: p}}\nspec: {{}}\n"));
    insta::assert_snapshot!(cluster.northbound());
}

#[test]
fn a_dual_stack_subnet_in_a_custom_vpc_with_static_addresses() {
    let cluster = network(
        "
kind: Vpc
metadata: {name: blue, uid: v}
spec: {}
---
kind: Subnet
metadata: {name: blue-net, uid: s}
spec: {vpc: blue, cidrBlock: '10.0.0.0/24,fd00::/64', gateway: '10.0.0.254,fd00::1', namespaces: [blue]}
---
kind: Namespace
metadata: {name: blue}
---
kind: Pod
metadata:
  name: db
  namespace: blue
  uid: p
  annotations: {ovn.kubernetes.io/ip_address: '10.0.0.9,fd00::9', ovn.kubernetes.io/mac_address: '02:00:00:00:00:09'}
",
    );
    insta::assert_snapshot!(cluster.northbound());
}

#[test]
fn no_end_of_a_link_between_switch_and_router_has_the_name_of_another() {
    let mut cluster = network(DEFAULT);
    // Named alike; each named as the other's VPC; and with dashes that read two ways.
    for (vpc, subnet, third) in [("same", "same", 1), ("x", "y", 2), ("y", "x", 3), ("a", "b-c", 4), ("b", "c-a", 5)] {
        cluster.apply(&format!(
            "
kind: Vpc
metadata: {{name: {vpc}}}
spec: {{}}
---
kind: Subnet
metadata: {{name: {subnet}}}
spec: {{vpc: {vpc}, cidrBlock: 10.0.{third}.0/24}}
"
        ));
    }
    cluster.round();
    let names = cluster.port_names();
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!((names.len(), distinct.len()), (12, 12), "{names:?}");
    for name in ["same-same", "same_same", "y_x", "x_y", "b-c_a", "c-a-b", "ovn-default-ovn-cluster"] {
        assert!(distinct.contains(&name.to_owned()), "{name}: {names:?}");
    }
}

#[test]
fn what_cannot_work_is_told_and_the_rest_goes_on() {
    let mut cluster = network(DEFAULT);
    cluster.apply(
        "
kind: Subnet
metadata: {name: younger, uid: a, creationTimestamp: 2026-02-01T00:00:00Z}
spec: {cidrBlock: 10.16.8.0/24}
---
kind: Subnet
metadata: {name: orphan, uid: b}
spec: {vpc: nowhere, cidrBlock: 10.0.0.0/24}
---
kind: Subnet
metadata: {name: malformed, uid: c}
spec: {cidrBlock: 10.0.0.0/33}
---
kind: Subnet
metadata: {name: outside, uid: d}
spec: {cidrBlock: 10.1.0.0/24, gateway: 10.2.0.1}
---
kind: Subnet
metadata: {name: excludes, uid: e}
spec: {cidrBlock: 10.3.0.0/24, excludeIps: [10.3.0.9..10.3.0.1]}
---
kind: Pod
metadata: {name: lost, namespace: default, uid: p, annotations: {ovn.kubernetes.io/logical_switch: orphan}}
---
kind: Pod
metadata: {name: odd, namespace: default, uid: q, annotations: {ovn.kubernetes.io/ip_address: 10.16.0.300}}
---
kind: Pod
metadata: {name: fine, namespace: default, uid: r}
",
    );
    cluster.round();
    insta::assert_snapshot!(cluster.told());
    assert!(cluster.northbound().contains("Logical_Switch_Port fine.default"));
}

#[test]
fn a_vpc_that_leaves_through_each_node_has_one_port_and_one_route_for_all() {
    let mut cluster = network(DEFAULT);
    let before = cluster.northbound();
    let set = |cluster: &mut Cluster, transit: Option<&str>| {
        let egress = transit.map(|transit| topology::Egress::Localnet(transit.parse().unwrap()));
        cluster.engine.set::<topology::Egress>(&"ovn-cluster".into(), egress, engine::Age(0));
        cluster.round();
    };
    set(&mut cluster, Some(api::Transit::DEFAULT));
    insta::assert_snapshot!(cluster.northbound());
    // Nothing of it is left when it is switched off.
    set(&mut cluster, None);
    assert_eq!(cluster.northbound(), before);
}

#[test]
fn further_vpcs_leave_through_hosts_by_links_of_their_own_and_of_two_ranges_that_overlap_one_leaves() {
    let mut cluster = network(DEFAULT);
    let egress = topology::Egress::Localnet(api::Transit::DEFAULT.parse().unwrap());
    cluster.engine.set::<topology::Egress>(&"ovn-cluster".into(), Some(egress), engine::Age(0));
    cluster.round();
    let vpc = |name: &str, note: &str| {
        format!("kind: Vpc\nmetadata: {{name: {name}, uid: {name}, annotations: {{ferrovia.io/egress: {note}}}}}\nspec: {{}}\n")
    };
    let subnet = |name: &str, cidr: &str| {
        format!("kind: Subnet\nmetadata: {{name: {name}-net, uid: {name}}}\nspec: {{vpc: {name}, cidrBlock: {cidr}}}\n")
    };
    for (name, note, cidr) in [("blue", "localnet", "10.20.0.0/24"), ("odd", "nat", "10.20.0.0/24"), ("red", "localnet", "10.16.128.0/24")]
    {
        cluster.apply(&format!("{}---\n{}", vpc(name, note), subnet(name, cidr)));
    }
    cluster.round();
    insta::assert_snapshot!(format!("{}\n{}", cluster.northbound(), cluster.told()));
}

const NODES: &str = "
kind: Subnet
metadata: {name: join, uid: j}
spec: {cidrBlock: '100.64.0.0/16,fd00:100:64::/112'}
---
kind: Node
metadata: {name: n-1.example.org, uid: n1}
status: {addresses: [{type: Hostname, address: n-1}, {type: InternalIP, address: fd00:10::11}, {type: InternalIP, address: 10.9.0.11}]}
---
kind: Node
metadata:
  name: n2
  uid: n2
  annotations:
    ovn.kubernetes.io/allocated: 'true'
    ovn.kubernetes.io/logical_switch: join
    ovn.kubernetes.io/ip_address: 100.64.0.77,fd00:100:64::77
    ovn.kubernetes.io/mac_address: '02:00:00:00:00:77'
    ovn.kubernetes.io/cidr: 100.64.0.0/16,fd00:100:64::/112
    ovn.kubernetes.io/gateway: 100.64.0.1,fd00:100:64::1
status: {addresses: [{type: InternalIP, address: 10.9.0.12}]}
---
kind: Pod
metadata: {name: web-0, namespace: default, uid: p}
spec: {nodeName: n-1.example.org}
";

#[test]
fn a_node_has_a_port_and_a_policy_and_pods_may_leave_by_it() {
    let mut cluster = network(&format!("{DEFAULT}---\n{NODES}"));
    let before = cluster.northbound();
    insta::assert_snapshot!(before);
    let nodes = |cluster: &Cluster| cluster.engine.facts().filter(|(fact, _)| matches!(fact, topology::Fact::Node(_))).count();
    assert_eq!(nodes(&cluster), 1, "what is recorded is not written again");
    let set = |cluster: &mut Cluster, egress: Option<topology::Egress>| {
        cluster.engine.set::<topology::Egress>(&"ovn-cluster".into(), egress, engine::Age(0));
        cluster.round().difference
    };
    set(&mut cluster, Some(topology::Egress::Join));
    insta::assert_snapshot!(cluster.northbound());
    set(&mut cluster, None);
    assert_eq!(cluster.northbound(), before);
    cluster.engine.set::<topology::Node>(&"n2".into(), None, engine::Age(0));
    cluster.round();
    assert!(!cluster.northbound().contains("n2"), "{}", cluster.northbound());
    assert_eq!(cluster.ipam.holders("join").len(), 1);
}

#[test]
fn pods_of_a_centralized_subnet_leave_by_a_port_that_is_bound_to_chosen_nodes() {
    let mut cluster = network(&format!("{DEFAULT}---\n{NODES}"));
    let egress = topology::Egress::Localnet(api::Transit::DEFAULT.parse().unwrap());
    cluster.engine.set::<topology::Egress>(&"ovn-cluster".into(), Some(egress), engine::Age(0));
    cluster.round();
    let before = cluster.northbound();
    let subnet = |name: &str, third: u8, more: &str| {
        let nodes = "gatewayType: centralized, gatewayNode: 'n-1.example.org, n2'";
        format!("kind: Subnet\nmetadata: {{name: {name}, uid: {name}}}\nspec: {{cidrBlock: 10.20.{third}.0/24, {nodes}{more}}}\n")
    };
    cluster.apply(&subnet("central", 0, ""));
    cluster.round();
    assert!(cluster.told().contains("NoGateway: spec.gatewayNode: no chassis on n-1.example.org, n2"), "{}", cluster.told());
    let first = NODES.replace("uid: n1}", "uid: n1, annotations: {ovn.kubernetes.io/chassis: c-n1}}");
    cluster.apply(&first.replace("uid: n2\n  annotations:", "uid: n2\n  annotations:\n    ovn.kubernetes.io/chassis: c-n2"));
    cluster.round();
    insta::assert_snapshot!(cluster.northbound());
    assert!(!cluster.told().contains("NoGateway"), "{}", cluster.told());
    // Where it is follows what is observed of its port.
    let group = ["c-n1", "c-n2"].map(std::sync::Arc::from);
    let port = topology::gateway_port(&"ovn-cluster".into(), None, &group);
    let mut moved = |to: Option<&str>| {
        let binding = to.map(|chassis| topology::PortBinding { chassis: chassis.into() });
        cluster.engine.set::<topology::PortBinding>(&port, binding, engine::Age(0));
        let round = cluster.round();
        let told = cluster.engine.desired(&topology::Fact::ActiveGateway("central".into()));
        let told = told.map(|told| if let topology::FactValue::ActiveGateway(node) = told { node.to_string() } else { String::new() });
        (told, round.difference.rows(), round.facts)
    };
    assert_eq!(moved(Some("c-n1")), (Some("n-1.example.org".to_owned()), 0, 1));
    assert_eq!(moved(Some("c-n1")), (Some("n-1.example.org".to_owned()), 0, 0));
    assert_eq!(moved(Some("c-n2")), (Some("n2".to_owned()), 0, 1));
    assert_eq!(moved(Some("c-n3")), (None, 0, 1));
    moved(None);
    // Another one with the same nodes shares the port; one that uses both at once needs a second one, in the other order.
    let ports = |cluster: &Cluster| cluster.northbound().matches("Gateway_Chassis ovn-cluster-").count();
    cluster.apply(&subnet("second", 1, ""));
    cluster.round();
    assert_eq!(ports(&cluster), 2);
    cluster.apply(&subnet("both", 2, ", enableEcmp: true"));
    cluster.round();
    assert_eq!(ports(&cluster), 4);
    // By their labels, in the order of names: n2 alone, and then both, which is the list of the others.
    let selecting = "kind: Subnet\nmetadata: {name: labels, uid: labels}\nspec: {cidrBlock: 10.20.3.0/24, gatewayType: centralized, \
                     gatewayNodeSelectors: [{matchLabels: {gateway: 'yes'}}]}\n";
    cluster.apply(selecting);
    cluster.round();
    assert!(cluster.told().contains("subnet labels: NoGateway: spec.gatewayNode: no node is named, and gatewayNodeSelectors select none"));
    let label = |cluster: &mut Cluster, node: &str| {
        let reports = topology::NodeReports { labels: [("gateway".to_owned(), "yes".to_owned())].into(), ..Default::default() };
        cluster.engine.set::<topology::NodeReports>(&node.into(), Some(reports), engine::Age(0));
        cluster.round();
    };
    label(&mut cluster, "n2");
    assert_eq!(ports(&cluster), 5);
    label(&mut cluster, "n-1.example.org");
    assert_eq!(ports(&cluster), 4);
    for name in ["central", "second", "both", "labels"] {
        cluster.engine.set::<topology::Subnet>(&name.into(), None, engine::Age(0));
    }
    cluster.round();
    assert_eq!(cluster.northbound(), before);
}

#[test]
fn where_pods_leave_by_their_nodes_ports_those_of_a_centralized_subnet_leave_by_its_gateway() {
    let nodes = NODES.replace("uid: n1}", "uid: n1, annotations: {ovn.kubernetes.io/chassis: c-n1}}");
    let mut cluster = network(&format!("{DEFAULT}---\n{nodes}"));
    cluster.engine.set::<topology::Egress>(&"ovn-cluster".into(), Some(topology::Egress::Join), engine::Age(0));
    cluster.round();
    let before = cluster.northbound();
    cluster.apply(
        "
kind: Subnet
metadata: {name: central, uid: c}
spec: {cidrBlock: 10.20.0.0/24, gatewayType: centralized, gatewayNode: n-1.example.org}
---
kind: Pod
metadata: {name: away, namespace: default, uid: a, annotations: {ovn.kubernetes.io/logical_switch: central}}
spec: {nodeName: n2}
",
    );
    cluster.round();
    let rows = cluster.northbound();
    insta::assert_snapshot!(rows);
    assert!(!cluster.told().contains("NoGateway"), "{}", cluster.told());
    cluster.apply("kind: Subnet\nmetadata: {name: central, uid: c}\nspec: {cidrBlock: 10.20.0.0/24}\n");
    cluster.round();
    let distributed = cluster.northbound();
    assert!(!distributed.contains("Gateway_Chassis") && !distributed.contains("public_"), "{distributed}");
    cluster.engine.set::<topology::Pod>(&topology::PodKey { namespace: "default".into(), name: "away".into() }, None, engine::Age(0));
    cluster.engine.set::<topology::Subnet>(&"central".into(), None, engine::Age(0));
    cluster.round();
    assert_eq!(cluster.northbound(), before);
}

#[test]
fn subnets_of_further_vpcs_may_be_centralized_and_hosts_know_their_vpc() {
    let nodes = NODES.replace("uid: n1}", "uid: n1, annotations: {ovn.kubernetes.io/chassis: c-n1}}");
    let nodes = nodes.replace("uid: n2\n  annotations:", "uid: n2\n  annotations:\n    ovn.kubernetes.io/chassis: c-n2");
    let mut cluster = network(&format!("{DEFAULT}---\n{nodes}"));
    let egress = topology::Egress::Localnet(api::Transit::DEFAULT.parse().unwrap());
    cluster.engine.set::<topology::Egress>(&"ovn-cluster".into(), Some(egress), engine::Age(0));
    cluster.round();
    let vpc = |name: &str, note: &str| {
        format!("kind: Vpc\nmetadata: {{name: {name}, uid: {name}, annotations: {{ferrovia.io/egress: {note}}}}}\nspec: {{}}\n")
    };
    let subnet = |vpc: &str, name: &str, cidr: &str, more: &str| {
        format!("kind: Subnet\nmetadata: {{name: {name}, uid: {name}}}\nspec: {{vpc: {vpc}, cidrBlock: '{cidr}'{more}}}\n")
    };
    let central = ", gatewayType: centralized, gatewayNode: 'n2:192.0.2.9,n-1.example.org'";
    cluster.apply(&format!("{}---\n{}", vpc("blue", "localnet"), subnet("blue", "plain", "10.30.0.0/24", "")));
    cluster.round();
    let before = cluster.northbound();
    cluster.apply(&subnet("blue", "central", "10.30.1.0/24,fd30::/64", central));
    cluster.round();
    let rows = cluster.northbound();
    insta::assert_snapshot!(rows);
    assert!(!cluster.told().contains("NoGateway"), "{}", cluster.told());
    // One that does not leave through hosts has no gateways either.
    cluster.apply(&format!("{}---\n{}", vpc("shut", "none"), subnet("shut", "shut", "10.31.0.0/24", central)));
    cluster.round();
    let why =
        "subnet shut: NoGateway: spec.gatewayType: centralized: pods leave by chosen nodes only where VPC \"shut\" leaves through hosts";
    assert!(cluster.told().contains(why), "{}", cluster.told());
    for name in ["central", "shut"] {
        cluster.engine.set::<topology::Subnet>(&name.into(), None, engine::Age(0));
    }
    cluster.engine.set::<topology::Vpc>(&"shut".into(), None, engine::Age(0));
    cluster.round();
    assert_eq!(cluster.northbound(), before);
}

#[test]
fn the_way_out_is_the_same_for_few_and_many_pods_and_subnets() {
    let rows = |subnets: usize, pods: usize| {
        let mut manifest = DEFAULT.to_owned();
        for subnet in 0..subnets {
            manifest += &format!(
                "---\nkind: Subnet\nmetadata: {{name: s{subnet}, uid: s{subnet}}}\nspec: {{cidrBlock: 10.{}.0.0/16}}\n",
                20 + subnet
            );
        }
        for pod in 0..pods {
            let subnet = format!("annotations: {{ovn.kubernetes.io/logical_switch: s{}}}", pod % subnets);
            manifest += &format!("---\nkind: Pod\nmetadata: {{name: p{pod}, namespace: default, uid: p{pod}, {subnet}}}\nspec: {{}}\n");
        }
        let mut cluster = Cluster::default();
        cluster.apply(&manifest);
        let egress = topology::Egress::Localnet(api::Transit::DEFAULT.parse().unwrap());
        cluster.engine.set::<topology::Egress>(&"ovn-cluster".into(), Some(egress), engine::Age(0));
        cluster.round();
        let northbound = cluster.northbound();
        let count = |prefix: &str| northbound.lines().filter(|line| line.starts_with(prefix)).count();
        assert_eq!(count("Logical_Switch_Port p") - count("Logical_Switch_Port public_"), pods);
        [
            "Logical_Router_Static_Route",
            "Logical_Router_Policy",
            "Port_Group",
            "Address_Set",
            "Static_MAC_Binding",
            "Logical_Switch_Port public_",
        ]
        .map(count)
    };
    let few = rows(1, 10);
    assert_eq!(few, [2, 0, 0, 0, 2, 2]);
    assert_eq!(rows(5, 2000), few);
}

#[test]
fn a_vpc_waits_for_its_subnets_and_a_subnet_for_its_pods() {
    let mut cluster = network(&format!("{DEFAULT}---\nkind: Pod\nmetadata: {{name: web-0, namespace: default, uid: p}}\nspec: {{}}\n"));
    let before = cluster.northbound();
    cluster.engine.set::<topology::Usage>(&"ovn-default".into(), Some(topology::Usage { holders: 1 }), engine::Age(0));
    cluster.apply(
        &DEFAULT
            .replace("uid: v", "uid: v, deletionTimestamp: 2026-03-01T00:00:00Z")
            .replace("uid: s,", "uid: s, deletionTimestamp: 2026-03-01T00:00:00Z,"),
    );
    cluster.round();
    assert_eq!(cluster.northbound(), before);
    insta::assert_snapshot!(cluster.told());
}

const ATTACHED: &str = "
kind: Vpc
metadata: {name: blue, uid: b}
spec: {}
---
kind: Subnet
metadata: {name: blue-net, uid: bs}
spec: {vpc: blue, cidrBlock: '10.16.0.0/24,fd00::/64', provider: data.default.ovn}
---
kind: Subnet
metadata: {name: lan, uid: ls}
spec: {cidrBlock: 10.16.0.0/24, provider: lan.default}
---
kind: Vip
apiVersion: kubeovn.io/v1
metadata: {name: shared}
spec: {subnet: blue-net, v4ip: 10.16.0.100, macAddress: '00:00:5e:00:01:01'}
---
kind: NetworkAttachmentDefinition
metadata: {name: data, namespace: default}
spec: {config: '{\"type\": \"kube-ovn\", \"provider\": \"data.default.ovn\"}'}
---
kind: NetworkAttachmentDefinition
metadata: {name: lan, namespace: default}
spec: {config: '{\"type\": \"macvlan\", \"ipam\": {\"type\": \"kube-ovn\", \"provider\": \"lan.default\"}}'}
---
kind: Pod
metadata:
  name: router
  namespace: default
  uid: p
  annotations:
    k8s.v1.cni.cncf.io/networks: 'data,data@second,lan'
    ovn.kubernetes.io/port_security: 'true'
    data.default.ovn.kubernetes.io/ip_address: 10.16.0.20,fd00::20
    data.default.kubernetes.io/mac_address.second: '02:00:00:00:00:02'
    data.default.ovn.second.kubernetes.io/port_security: 'true'
    data.default.ovn.second.kubernetes.io/port_vips: 10.16.0.200
    data.default.ovn.second.kubernetes.io/aaps: shared
";

#[test]
fn a_pod_with_nics_in_two_vpcs_and_one_of_another_plugin() {
    let cluster = network(&format!("{DEFAULT}---\n{ATTACHED}"));
    insta::assert_snapshot!(cluster.northbound());
    assert!(!cluster.told().contains("pod "), "{}", cluster.told());
    // A subnet of another plugin is only a set of addresses, and may be that of anybody else.
    assert!(cluster.ipam.holding("router.default.lan.default").is_some());
}

#[test]
fn nics_that_cannot_be_served_are_told_and_the_others_are() {
    let mut cluster = network(&format!("{DEFAULT}---\n{ATTACHED}"));
    cluster.apply(
        "
kind: NetworkAttachmentDefinition
metadata: {name: odd, namespace: default}
spec: {config: '{'}
---
kind: NetworkAttachmentDefinition
metadata: {name: alone, namespace: default}
spec: {config: '{\"type\": \"macvlan\", \"ipam\": {\"type\": \"ferrovia\"}}'}
---
kind: Pod
metadata:
  name: lost
  namespace: default
  uid: q
  annotations:
    k8s.v1.cni.cncf.io/networks: 'data,nowhere,odd,alone,data@wrong'
    data.default.ovn.wrong.kubernetes.io/logical_switch: lan
    ovn.kubernetes.io/port_security: 'yes'
---
kind: Pod
metadata:
  name: loose
  namespace: default
  uid: s
  annotations: {ovn.kubernetes.io/port_security: 'true', ovn.kubernetes.io/port_vips: '10.16.0.300,10.16.9.9', ovn.kubernetes.io/aaps: later}
---
kind: Pod
metadata: {name: misspelled, namespace: default, uid: t, annotations: {k8s.v1.cni.cncf.io/networks: 'a/b/c'}}
---
kind: Pod
metadata: {name: strayed, namespace: default, uid: u, annotations: {ovn.kubernetes.io/logical_switch: lan}}
",
    );
    cluster.round();
    insta::assert_snapshot!(cluster.told());
    for port in ["lost.default", "lost.default.data.default.ovn", "loose.default", "misspelled.default"] {
        assert!(cluster.northbound().contains(&format!("Logical_Switch_Port {port}\n")), "{port}");
    }
    // Once the `Vip` is there, the port lets its addresses through.
    cluster.apply("kind: Vip\napiVersion: kubeovn.io/v1\nmetadata: {name: later}\nspec: {v4ip: 10.16.7.7}\n");
    cluster.round();
    assert!(cluster.northbound().contains("10.16.9.9 10.16.7.7"), "{}", cluster.northbound());
    assert!(!cluster.told().contains("\"later\""), "{}", cluster.told());
}

#[test]
fn ports_of_a_subnet_with_dhcp_are_answered_and_its_router_advertises() {
    let mut cluster = network(
        "
kind: Vpc
metadata: {name: blue, uid: v}
spec: {}
---
kind: Subnet
metadata: {name: blue-net, uid: s}
spec:
  vpc: blue
  cidrBlock: '10.0.0.0/24,fd00::/64'
  namespaces: [blue]
  enableDHCP: true
  dhcpV4Options: 'lease_time=600,dns_server={10.0.0.53,10.0.0.54}'
  dhcpV6Options: 'dns_server=fd00::53'
  enableIPv6RA: true
  mtu: 1300
---
kind: Namespace
metadata: {name: blue}
---
kind: Pod
metadata: {name: vm, namespace: blue, uid: p, annotations: {ovn.kubernetes.io/mac_address: '02:00:00:00:00:09'}}
",
    );
    insta::assert_snapshot!(cluster.northbound());
    // What is no longer wanted of it goes with it, and a router may advertise something else.
    cluster.apply(
        "
kind: Subnet
metadata: {name: blue-net, uid: s}
spec: {vpc: blue, cidrBlock: '10.0.0.0/24,fd00::/64', namespaces: [blue], enableIPv6RA: true, ipv6RAConfigs: 'address_mode=slaac'}
---
kind: Subnet
metadata: {name: wrong, uid: t}
spec: {vpc: blue, cidrBlock: 10.1.0.0/24, enableDHCP: true, dhcpV4Options: router}
",
    );
    cluster.round();
    let rows = cluster.northbound();
    assert!(!rows.contains("DHCP_Options") && !rows.contains("dhcpv"), "{rows}");
    assert!(rows.contains("  ipv6_ra_configs: address_mode=slaac\n"), "{rows}");
    assert!(cluster.told().contains("spec.dhcpV4Options: \"router\" is not key=value"), "{}", cluster.told());
    // What is named without a value is not told.
    cluster.apply(
        "
kind: Subnet
metadata: {name: blue-net, uid: s}
spec: {vpc: blue, cidrBlock: 10.0.0.0/24, namespaces: [blue], enableDHCP: true, dhcpV4Options: 'router=,mtu=,lease_time=60', mtu: 1300}
",
    );
    cluster.round();
    let rows = cluster.northbound();
    assert!(rows.contains("lease_time=60") && !rows.contains("router=") && !rows.contains("mtu="), "{rows}");
}

#[test]
fn a_pod_has_its_own_options_of_dhcp_for_each_nic_and_family_that_it_says_them_for() {
    let with = |notes: &str| {
        format!(
            "kind: Pod\nmetadata: {{name: vm, namespace: default, uid: p, annotations: {{k8s.v1.cni.cncf.io/networks: more, ovn.kubernetes.io/mac_address: '02:00:00:00:00:01', more.default.ovn.kubernetes.io/mac_address: '02:00:00:00:00:02'{notes}}}}}\n"
        )
    };
    let own = ", ovn.kubernetes.io/dhcp-v4-options: 'dns_server=10.0.0.99,router=', more.default.ovn.kubernetes.io/dhcp-v6-options: 'dns_server=fd01::99'";
    let mut cluster = network(&format!(
        "
kind: Vpc
metadata: {{name: ovn-cluster, uid: v}}
spec: {{}}
---
kind: Subnet
metadata: {{name: leased, uid: s}}
spec: {{cidrBlock: '10.0.0.0/24,fd00::/64', default: true, enableDHCP: true, dhcpV4Options: 'dns_server=10.0.0.53,lease_time=600', mtu: 1300}}
---
kind: Subnet
metadata: {{name: more, uid: t}}
spec: {{cidrBlock: '10.1.0.0/24,fd01::/64', provider: more.default.ovn}}
---
kind: Namespace
metadata: {{name: default}}
---
kind: NetworkAttachmentDefinition
metadata: {{name: more, namespace: default}}
spec: {{config: '{{\"type\": \"ferrovia\"}}'}}
---
{}",
        with(own)
    ));
    insta::assert_snapshot!(cluster.northbound());
    let rows = |cluster: &Cluster| cluster.northbound().matches("DHCP_Options").count();
    assert_eq!(rows(&cluster), 4);
    // What cannot be read is told, and counts as nothing.
    cluster.apply(&with(", ovn.kubernetes.io/dhcp-v4-options: 'dns_server', more.default.ovn.kubernetes.io/dhcp-v6-options: ''"));
    cluster.round();
    assert_eq!(rows(&cluster), 2);
    let told = cluster.told();
    assert!(told.contains("annotation ovn.kubernetes.io/dhcp-v4-options: \"dns_server\" is not key=value"), "{told}");
    // The pod takes its options with it.
    cluster.apply(&with(own));
    cluster.round();
    assert_eq!((rows(&cluster), cluster.told().contains("dhcp-v4")), (4, false));
    let key = topology::PodKey { namespace: "default".into(), name: "vm".into() };
    cluster.engine.set::<topology::Pod>(&key, None, engine::Age(0));
    cluster.round();
    cluster.round();
    assert_eq!(rows(&cluster), 2, "{}", cluster.northbound());
}
