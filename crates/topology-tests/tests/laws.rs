//! Laws of the real rules: incremental equals from scratch, constant cost, nothing written twice, nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;

use std::collections::BTreeSet;

use cluster::Cluster;
use engine::Age;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use topology::{
    Allocation, DefinitionKey, Egress, Incoming, Instance, Ip, Keeper, Link, Migration, Namespace, NetworkDefinition, Networks, NicKey,
    NicNotes, Node, NodeReports, Pod, PodKey, Pool, PoolSpec, PortNotes, ProviderNetwork, Replicas, ReplicasKey, ReplicasKind, Report,
    Stage, Subnet, Vip, VipSpec, Vlan, Vpc, Workload, input,
};

fn pod(i: usize) -> String {
    format!("kind: Pod\nmetadata: {{name: p{i}, namespace: default, uid: u{i}}}\nspec: {{}}\n")
}

fn default_network() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(
        "kind: Vpc\nmetadata: {name: ovn-cluster, uid: v}\nspec: {}\n---\nkind: Subnet\nmetadata: {name: ovn-default, uid: s}\nspec: {cidrBlock: 10.0.0.0/8, default: true}\n---\nkind: Namespace\nmetadata: {name: default}\n",
    );
    cluster.round();
    cluster
}

#[test]
fn one_more_pod_costs_the_same_at_1_000_50_000_and_100_000() {
    let cost = |n: usize| {
        let mut cluster = default_network();
        for i in 0..n {
            let key = PodKey { namespace: "default".into(), name: format!("p{i}").into() };
            let (uid, asked) = (format!("u{i}").into(), Ok(Default::default()));
            let pod = Pod { uid, created: 0, node: None, workload: None, asked, recorded: None, port: None, incoming: None };
            cluster.engine.set::<Pod>(&key, Some(pod), Age(0));
        }
        cluster.round();
        cluster.apply(&pod(n));
        let round = cluster.round();
        println!(
            "{n} pods: one more takes {} runs, {} reads, {} facts, {} rows",
            round.runs,
            round.reads,
            round.facts,
            round.difference.rows()
        );
        // The group that it joins, here its switch's set of ports, is told of it alone, however many are in it.
        let told = round.difference.operations.iter().find_map(|operation| match operation {
            ovsdb_types::Operation::Mutate { mutations, .. } => Some(mutations.iter().map(|m| m.value.atoms().len()).sum::<usize>()),
            _ => None,
        });
        assert_eq!(told, Some(1));
        (round.runs, round.reads, round.facts, round.difference.operations.len(), round.difference.rows())
    };
    let few = cost(1_000);
    assert_eq!(few, cost(50_000));
    assert_eq!(few, cost(100_000));
    // One row and one membership; the runs are `nic` and `port`.
    assert_eq!((few.0, few.3, few.4), (2, 2, 2));
}

#[test]
fn one_more_nic_costs_the_same_among_few_and_many_pods() {
    let cost = |n: usize, nics: usize| {
        let mut cluster = default_network();
        cluster.apply(
            "kind: NetworkAttachmentDefinition\nmetadata: {name: d, namespace: default}\nspec: {config: '{\"type\": \"ferrovia\"}'}\n",
        );
        let list = vec!["d"; nics].join(",");
        let with_nics = |i: usize| pod(i).replace("uid:", &format!("annotations: {{k8s.v1.cni.cncf.io/networks: '{list}'}}, uid:"));
        for i in 0..n {
            cluster.apply(&with_nics(i));
        }
        cluster.round();
        cluster.apply(&with_nics(n));
        let round = cluster.round();
        [round.runs as usize, round.reads as usize, round.facts, round.difference.rows()]
    };
    let (one, two, four) = (cost(10, 1), cost(10, 2), cost(10, 4));
    assert_eq!(one, cost(2_000, 1));
    assert_eq!(four, cost(2_000, 4));
    // `nic`, `networks`, and `port` for each; a port for each, and the switch's set of ports.
    assert_eq!([(one[0], one[3]), (two[0], two[3]), (four[0], four[3])], [(4, 3), (5, 4), (7, 6)]);
    for at in 0..4 {
        assert_eq!(four[at] - two[at], 2 * (two[at] - one[at]), "{one:?} {two:?} {four:?}");
    }
}

#[test]
fn a_resync_of_an_unchanged_cluster_writes_nothing() {
    let mut cluster = default_network();
    for i in 0..100 {
        cluster.apply(&pod(i));
    }
    assert!(cluster.round().difference.inserted >= 100);
    for i in 0..100 {
        cluster.apply(&pod(i));
    }
    let again = cluster.round();
    assert_eq!((again.runs, again.difference.rows()), (0, 0));
    // Everything looked at anew, as at a restart.
    let ownership = topology::northbound::ownership();
    let diff = ovsdb_types::Diff {
        desired: &cluster.desired,
        replica: &cluster.replica,
        ownership: &ownership,
        skip: &BTreeSet::new(),
        vendor: api::VENDOR,
        claimed: &topology::northbound::claimed,
    };
    let all = diff.compute(&diff.everything(), &mut ovsdb_types::Bindings::default());
    assert_eq!((all.operations.len(), all.kept), (0, 0));
}

#[derive(Clone, Debug)]
enum Step {
    /// Whether it is there, is being deleted, and leaves through hosts.
    Vpc(u8, bool, bool, bool),
    /// How a VPC leaves: not at all, by a link, or by the nodes' ports.
    Egress(u8, u8),
    /// A node, its number in its address, and whether its port is recorded.
    Node {
        name: u8,
        there: bool,
        address: u8,
        recorded: bool,
    },
    Subnet {
        name: u8,
        there: bool,
        vpc: u8,
        range: u8,
        namespaces: u8,
        default: bool,
        deleting: bool,
        created: i64,
        /// Of primary NICs, of the first definition's, or of another plugin's.
        provider: u8,
        /// Vlan that it is on, and whether the router is its gateway there, or beside it: with any address, a chosen one, or the recorded one.
        vlan: (Option<u8>, bool, u8),
    },
    Namespace(u8, bool, Option<u8>),
    Pod {
        name: u8,
        there: bool,
        namespace: u8,
        subnet: Option<u8>,
        uid: u8,
        /// The definitions that it attaches.
        attached: Vec<u8>,
        /// Whether its ports let only through what a `Vip` of this number allows beside their own.
        security: Option<u8>,
    },
    /// Whether a network definition is there, and whether what it makes is ours.
    Definition(u8, bool, bool),
    /// What keeps addresses, of one name in each namespace: the StatefulSet's replicas, or whether the machine is there.
    Replicas {
        machine: bool,
        namespace: u8,
        replicas: u8,
    },
    /// Where the machine says that it runs; how far it says its last migration is, and whether that has settled.
    Instance {
        namespace: u8,
        there: bool,
        node: Option<u8>,
        migration: Option<(u8, bool)>,
    },
    /// A part of a subnet, for pods of one namespace.
    Pool {
        name: u8,
        there: bool,
        subnet: u8,
        first: u8,
        created: i64,
    },
    /// Addresses kept for the StatefulSet's pod, for the machine, for a plain pod by a user, or for nobody.
    Ip {
        of: u8,
        there: bool,
        namespace: u8,
        subnet: u8,
        address: u8,
        deleting: bool,
    },
    /// Addresses held for no single pod; as the user chose, or as the status shows.
    Vip {
        name: u8,
        there: bool,
        subnet: Option<u8>,
        address: u8,
        held: bool,
        deleting: bool,
    },
    /// By which of two nodes, or none, the port of a VPC is that is bound to the first, the second, or both.
    Binding(u8, u8, Option<u8>),
    /// A provider network, and which of two nodes it leaves out.
    ProviderNetwork(u8, bool, u8),
    /// A Vlan, its network, identifier and age.
    Vlan {
        name: u8,
        there: bool,
        network: u8,
        id: u8,
        created: i64,
        deleting: bool,
    },
    Round,
}

/// The names of subnets: one of them is that of the nodes.
fn subnet_name(n: u8) -> &'static str {
    ["s0", "s1", "s2", "join"][usize::from(n)]
}

/// The names of VPCs: the default one, and one with the name of a subnet.
fn vpc_name(n: u8) -> &'static str {
    ["ovn-cluster", "v1", "s2", "v3"][usize::from(n)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..3, any::<[bool; 3]>()).prop_map(|(n, [there, deleting, leaves])| Step::Vpc(n, there, deleting, leaves)),
        (0u8..3, 0u8..3).prop_map(|(n, scheme)| Step::Egress(n, scheme)),
        (0u8..3, prop::bool::weighted(0.8), 2u8..6, any::<bool>()).prop_map(|(name, there, address, recorded)| Step::Node {
            name,
            there,
            address,
            recorded
        }),
        (
            (0u8..4, prop::bool::weighted(0.8), 0u8..3, 0u8..7, 0u8..4, any::<bool>(), prop::bool::weighted(0.2), 0i64..4, 0u8..5),
            (prop::option::weighted(0.4, 0u8..3), prop::bool::weighted(0.3), 0u8..6)
        )
            .prop_map(|((name, there, vpc, range, namespaces, default, deleting, created, provider), vlan)| Step::Subnet {
                vlan,
                name,
                there,
                vpc,
                range,
                namespaces,
                default,
                deleting,
                created,
                provider
            }),
        (0u8..3, prop::bool::weighted(0.8), prop::option::of(0u8..4)).prop_map(|(n, there, s)| Step::Namespace(n, there, s)),
        (
            (0u8..6, prop::bool::weighted(0.7), 0u8..3, prop::option::of(0u8..4), 0u8..3),
            prop::collection::vec(0u8..2, 0..3),
            prop::option::of(0u8..2)
        )
            .prop_map(|((name, there, namespace, subnet, uid), attached, security)| Step::Pod {
                name,
                there,
                namespace,
                subnet,
                uid,
                attached,
                security
            }),
        (0u8..2, prop::bool::weighted(0.8), any::<bool>()).prop_map(|(n, there, ours)| Step::Definition(n, there, ours)),
        (0u8..2, prop::bool::weighted(0.8), 0u8..4, 2u8..8, 0i64..3).prop_map(|(name, there, subnet, first, created)| Step::Pool {
            name,
            there,
            subnet,
            first,
            created
        }),
        (any::<bool>(), 0u8..3, 0u8..2).prop_map(|(machine, namespace, replicas)| Step::Replicas { machine, namespace, replicas }),
        (0u8..3, prop::bool::weighted(0.8), prop::option::of(0u8..3), prop::option::of((0u8..4, any::<bool>())))
            .prop_map(|(namespace, there, node, migration)| Step::Instance { namespace, there, node, migration }),
        (0u8..6, prop::bool::weighted(0.8), 0u8..3, 0u8..4, 2u8..6, prop::bool::weighted(0.2))
            .prop_map(|(of, there, namespace, subnet, address, deleting)| Step::Ip { of, there, namespace, subnet, address, deleting }),
        (0u8..2, prop::bool::weighted(0.8), prop::option::of(0u8..4), 2u8..6, any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(name, there, subnet, address, held, deleting)| Step::Vip { name, there, subnet, address, held, deleting }),
        (0u8..2, 0u8..3, prop::option::weighted(0.8, 0u8..2)).prop_map(|(vpc, group, at)| Step::Binding(vpc, group, at)),
        (0u8..2, prop::bool::weighted(0.8), 0u8..3).prop_map(|(n, there, excluded)| Step::ProviderNetwork(n, there, excluded)),
        (0u8..3, prop::bool::weighted(0.8), 0u8..2, 0u8..2, 0i64..3, prop::bool::weighted(0.2))
            .prop_map(|(name, there, network, id, created, deleting)| Step::Vlan { name, there, network, id, created, deleting }),
        Just(Step::Round),
    ]
}

/// The NIC that is kept, and for whom.
fn kept(of: u8, namespace: u8) -> (NicKey, Keeper) {
    let (name, provider, keeper) = match of {
        0 => ("p0", None, Keeper::StatefulSet { name: "set".into(), ordinal: 0 }),
        1 => ("machine", None, Keeper::VirtualMachine),
        2 => ("p3", None, Keeper::User),
        3 => ("nobody", None, Keeper::User),
        4 => ("p0", Some("d0.n0.ovn"), Keeper::StatefulSet { name: "set".into(), ordinal: 0 }),
        _ => ("p3", Some("d0.n0"), Keeper::User),
    };
    let holder = PodKey { namespace: format!("n{namespace}").into(), name: name.into() };
    (NicKey { holder, provider: provider.map(Into::into) }, keeper)
}

/// A pod's list of definitions. The first link asks for a MAC of its own, and its port for security.
fn networks(attached: &[u8], security: Option<u8>) -> Option<Networks> {
    let list = attached.iter().map(|n| format!("n0/d{n}")).collect::<Vec<_>>().join(",");
    let notes = [(api::networks::NETWORKS.to_owned(), list)].into();
    let mut links = Vec::new();
    for selection in api::networks::selections(&notes, "n0").unwrap() {
        let mac = (*selection.interface == *"net1").then(|| "02:00:00:00:08:01".parse().unwrap());
        links.push(Link { selection, asked: Ok((Vec::new(), mac)) });
    }
    let notes = attached.iter().map(|n| {
        let notes = NicNotes { asked: Ok(Default::default()), recorded: None, port: guarded(security) };
        (format!("d{n}.n0.ovn").into(), notes)
    });
    (!links.is_empty()).then(|| Networks { links: Ok(links), notes: notes.collect() })
}

/// What is said of a port: who may send, and of one of two what it is told by DHCP, if that can be read.
fn guarded(security: Option<u8>) -> Option<Box<PortNotes>> {
    let security = security?;
    let mut notes = [("p.kubernetes.io/port_security", "true".to_owned()), ("p.kubernetes.io/aaps", format!("w{security}"))].to_vec();
    if security == 1 {
        let options = [("p.kubernetes.io/dhcp-v4-options", "lease_time=60"), ("p.kubernetes.io/dhcp-v6-options", "wrong")];
        notes.extend(options.map(|(key, value)| (key, value.to_owned())));
    }
    input::port_notes("p", &notes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// All by two next hops, and what is from one source by one of them.
fn two_ways() -> Vec<api::routes::Route> {
    let of = |policy: &str, cidr: &str, via: &str| api::v1::StaticRoute {
        policy: Some(policy.to_owned()),
        cidr: Some(cidr.to_owned()),
        next_hop_ip: Some(via.to_owned()),
        ..Default::default()
    };
    api::routes::parse(&[of("", "0.0.0.0/0", "10.0.0.5"), of("", "0.0.0.0/0", "10.0.0.9"), of("policySrc", "10.0.0.64/26", "10.0.0.5")]).0
}

fn apply(cluster: &mut Cluster, step: &Step) {
    let engine = &mut cluster.engine;
    match step {
        Step::Vpc(n, there, deleting, leaves) => {
            let routes = if *n == 2 || *leaves { two_ways() } else { Vec::new() };
            let vpc = Vpc {
                uid: "v".into(),
                deleting: *deleting,
                finalizer: true,
                created: 0,
                leaves: Ok(*leaves),
                routes,
                bad_routes: Vec::new(),
            };
            engine.set::<Vpc>(&vpc_name(*n).into(), there.then_some(vpc), Age(0));
        }
        Step::Egress(n, scheme) => {
            let egress = match scheme {
                0 => None,
                1 => Some(Egress::Localnet(api::Transit::DEFAULT.parse().unwrap())),
                _ => Some(Egress::Join),
            };
            engine.set::<Egress>(&vpc_name(*n).into(), egress, Age(0));
        }
        Step::Node { name, there, address, recorded } => {
            let record = || api::annotations::NicRecord {
                subnet: "join".into(),
                addresses: vec![format!("10.0.0.{}", 192 + address).parse().unwrap()],
                mac: format!("02:00:00:00:07:{address:02}").parse().unwrap(),
                cidrs: None,
                gateways: Vec::new(),
                segment: None,
            };
            let addresses = vec![format!("192.0.2.{address}").parse().unwrap()];
            let chassis = (*address != 5).then(|| format!("chassis{name}").into());
            let node = Node { uid: "n".into(), created: 0, addresses, chassis, recorded: Ok(recorded.then(record)) };
            engine.set::<Node>(&format!("node{name}").into(), there.then_some(node), Age(0));
            let exit_mtu = (*address > 2).then(|| 1400 + u32::from(*address));
            let report = Report { ready: *recorded, error: Some("why".into()), exit_mtu };
            // One of the next hops that share a prefix.
            let unreachable = [format!("l{}.{}/10.0.0.5", address % 2, address / 4).parse().unwrap()].into();
            let networks = [(format!("l{}", address % 2).into(), report)].into();
            let reports = NodeReports { networks, labels: Default::default(), unreachable };
            engine.set::<NodeReports>(&format!("node{name}").into(), there.then_some(reports), Age(0));
        }
        Step::Binding(vpc, group, at) => {
            let chassis = |n: &u8| std::sync::Arc::<str>::from(format!("chassis{n}"));
            let group: Vec<_> = [&[0][..], &[1], &[0, 1]][usize::from(*group)].iter().map(chassis).collect();
            let name = vpc_name(*vpc).into();
            let link = (*vpc > 0).then(|| api::host_links([(0, vpc_name(*vpc))])[vpc_name(*vpc)]);
            let binding = at.map(|at| topology::PortBinding { chassis: chassis(&at) });
            engine.set::<topology::PortBinding>(&topology::gateway_port(&name, link, &group), binding, Age(0));
        }
        Step::ProviderNetwork(n, there, excluded) => {
            let exclude_nodes = Some(vec![format!("node{excluded}")]);
            let spec = api::v1::ProviderNetworkSpec { default_interface: "eth1".to_owned(), exclude_nodes, ..Default::default() };
            let exit = if *excluded == 2 { Err("wrong".to_owned()) } else { Ok((*excluded == 1).then(Vec::new)) };
            let network = ProviderNetwork { deleting: false, spec, exit };
            engine.set::<ProviderNetwork>(&format!("l{n}").into(), there.then_some(network), Age(0));
        }
        Step::Vlan { name, there, network, id, created, deleting } => {
            let network = format!("l{network}").into();
            let vlan = Vlan { created: *created, deleting: *deleting, network, id: u16::from(*id) };
            engine.set::<Vlan>(&format!("w{name}").into(), there.then_some(vlan), Age(*created));
        }
        Step::Subnet { name, there, vpc, range, namespaces, default, deleting, created, provider, vlan } => {
            // Such a one has what a Vlan without a range can have, but for one of two.
            let alone = *range == 6 && *created > 0;
            let json = serde_json::json!({
                "apiVersion": "kubeovn.io/v1", "kind": "Subnet",
                "metadata": { "name": subnet_name(*name) },
                "spec": {
                    "vpc": vpc_name(*vpc),
                    // Ranges 0 to 3 are disjoint /26s, 4 covers two of them, 5 cannot be read, 6 is none.
                    "cidrBlock": match range {
                        4 => "10.0.0.0/25".to_owned(),
                        5 => "10.0.0.0/99".to_owned(),
                        6 => String::new(),
                        r => format!("10.0.0.{}/26", r * 64),
                    },
                    "namespaces": (0..2).filter(|i| namespaces & (1 << i) != 0).map(|i| format!("n{i}")).collect::<Vec<_>>(),
                    "default": default,
                    "gatewayType": if *range % 2 == 0 && !alone { "centralized" } else { "distributed" },
                    "gatewayNode": "node0,node1",
                    "enableEcmp": default,
                    "enableDHCP": *range % 3 == 0 && !alone,
                    "dhcpV4Options": if *default { "lease_time=60" } else { "" },
                    "vlan": vlan.0.map(|n| format!("w{n}")).unwrap_or_default(),
                    "logicalGateway": vlan.1 && !alone,
                    "u2oInterconnection": vlan.2 > 1 && !alone,
                    "u2oInterconnectionIP": if vlan.2 == 3 { "10.0.0.4" } else { "" },
                    "u2oFeatures": { "overlayOnlyRouting": vlan.2 == 4 },
                    "provider": match provider { 0 => "d0.n0.ovn", 1 => "d1.n0", _ => "ovn" },
                },
                "status": {
                    "u2oInterconnectionIP": if vlan.2 == 5 { "10.0.0.5" } else { "" },
                    "u2oInterconnectionMAC": if vlan.2 == 5 { "02:00:00:00:06:01" } else { "" },
                },
            });
            let (key, mut subnet, _) = input::subnet(&serde_json::from_value(json).unwrap());
            subnet.deleting = *deleting;
            subnet.created = *created;
            engine.set::<Subnet>(&key, there.then_some(subnet), Age(*created));
        }
        Step::Namespace(n, there, subnet) => {
            let namespace = Namespace { subnet: subnet.map(|s| subnet_name(s).into()), pools: vec!["q0".into()] };
            engine.set::<Namespace>(&format!("n{n}").into(), there.then_some(namespace), Age(0));
        }
        Step::Pod { name, there, namespace, subnet, uid, attached, security } => {
            let key = PodKey { namespace: format!("n{namespace}").into(), name: format!("p{name}").into() };
            // Two of the pods name a pool, one that may be of another subnet.
            let pool = (*name > 3).then(|| Box::new(api::annotations::PoolChoice::Named(vec![format!("q{}", name - 4).into()])));
            let asked = api::annotations::NicAnnotations { pool, subnet: subnet.map(|s| subnet_name(s).into()), ..Default::default() };
            // Of six pods one is of a StatefulSet, and two run one virtual machine.
            let workload = match name {
                0 => Some(Workload::StatefulSet("set".into())),
                1 | 2 => Some(Workload::VirtualMachine("machine".into())),
                _ => None,
            };
            let node = Some(format!("node{uid}").into());
            let (uid, port) = (format!("u{uid}").into(), guarded(*security));
            let incoming = (*name == 2).then(|| Box::new(Incoming { job: "job".into(), deleting: *security == Some(1) }));
            let asked = Ok(Some(Box::new(asked)));
            let pod = Pod { uid, created: 0, node, workload, asked, recorded: None, port, incoming };
            engine.set::<Pod>(&key, there.then_some(pod), Age(0));
            engine.set::<Networks>(&key, networks(attached, *security).filter(|_| *there), Age(0));
        }
        Step::Definition(n, there, ours) => {
            let key = DefinitionKey { namespace: "n0".into(), name: format!("d{n}").into() };
            let config = if *ours { r#"{"type":"ferrovia"}"# } else { r#"{"type":"macvlan","ipam":{"type":"ferrovia"}}"# };
            let definition = NetworkDefinition(api::networks::Definition::parse("n0", &key.name, config));
            engine.set::<NetworkDefinition>(&key, there.then_some(definition), Age(0));
        }
        Step::Pool { name, there, subnet, first, created } => {
            let (from, to) = (format!("10.0.0.{}", subnet * 64 + first), format!("10.0.0.{}", subnet * 64 + first + 2));
            let spec = PoolSpec {
                subnet: subnet_name(*subnet).into(),
                ranges: vec![(from.parse().unwrap(), to.parse().unwrap())],
                namespaces: vec!["n1".into()],
            };
            engine.set::<Pool>(&format!("q{name}").into(), there.then_some(Pool { created: *created, spec: Ok(spec) }), Age(*created));
        }
        Step::Replicas { machine, namespace, replicas } => {
            let (kind, name) = if *machine { (ReplicasKind::VirtualMachine, "machine") } else { (ReplicasKind::StatefulSet, "set") };
            let key = ReplicasKey { kind, namespace: format!("n{namespace}").into(), name: name.into() };
            engine.set::<Replicas>(&key, (*replicas > 0).then_some(Replicas { ordinals: 0..1 }), Age(0));
        }
        Step::Instance { namespace, there, node, migration } => {
            let migration = migration.map(|(stage, settling)| {
                let job = if stage == 3 { "another" } else { "job" };
                let stage = [Stage::UnderWay, Stage::Completed, Stage::Failed, Stage::Completed][usize::from(stage)];
                Migration { job: job.into(), stage, settling }
            });
            let instance = Instance { node: node.map(|node| format!("node{node}").into()), migration };
            let holder = PodKey { namespace: format!("n{namespace}").into(), name: "machine".into() };
            engine.set::<Instance>(&holder, there.then_some(instance), Age(0));
        }
        Step::Ip { of, there, namespace, subnet, address, deleting } => {
            let (nic, keeper) = kept(*of, *namespace);
            let name = nic.port();
            // Of a user's, one names neither address nor MAC.
            let given = *address != 5 || keeper != Keeper::User;
            let addresses = given.then(|| format!("10.0.0.{}", subnet * 64 + address).parse().unwrap()).into_iter().collect();
            let mac = given.then(|| format!("02:00:00:00:{namespace:02}:{address:02}").parse().unwrap());
            let ip = Ip { created: 0, deleting: *deleting, nic, subnet: subnet_name(*subnet).into(), addresses, mac, keeper };
            engine.set::<Ip>(&name, there.then_some(ip), Age(0));
        }
        Step::Vip { name, there, subnet, address, held, deleting } => {
            let given = *held || *address != 5;
            let addresses = given.then(|| format!("10.0.0.{}", subnet.unwrap_or(0) * 64 + address).parse().unwrap()).into_iter().collect();
            let mac = held.then(|| format!("02:00:00:00:09:{address:02}").parse().unwrap());
            let spec = VipSpec { subnet: subnet.map(|s| subnet_name(s).into()), addresses, mac, held: *held };
            let vip = Vip { created: 0, deleting: *deleting, spec: Ok(spec) };
            engine.set::<Vip>(&format!("w{name}").into(), there.then_some(vip), Age(0));
        }
        Step::Round => drop(cluster.round()),
    }
}

/// A rule takes part in the laws below if random histories make it run: a new one whose inputs they lack fails here.
#[test]
fn random_histories_run_every_rule() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = prop::collection::vec(step(), 30..60);
    let (mut ran, mut rules) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..20 {
        let mut cluster = Cluster::default();
        for step in strategy.new_tree(&mut runner).unwrap().current() {
            apply(&mut cluster, &step);
        }
        cluster.round();
        rules.extend(cluster.engine.rules());
        ran.extend(cluster.ran);
    }
    assert_eq!(ran, rules);
}

/// Every NIC that there can be.
fn nics() -> Vec<NicKey> {
    let names: Vec<String> = (0..6).map(|p| format!("p{p}")).chain(["machine".into(), "nobody".into()]).collect();
    let providers = (0..2).flat_map(|d| ["", ".net2"].map(|link| [format!("d{d}.n0.ovn{link}"), format!("d{d}.n0{link}")])).flatten();
    let providers: Vec<Option<String>> = std::iter::once(None).chain(providers.map(Some)).collect();
    let mut nics = vec![NicKey::of_vip("w0"), NicKey::of_vip("w1")];
    nics.extend((0..3).map(|n| NicKey::of_node(&format!("node{n}"))));
    nics.extend((0..4).flat_map(|v| (0..4).map(move |s| NicKey::of_interconnection(vpc_name(v), subnet_name(s)))));
    for name in &names {
        for n in 0..3 {
            let holder = PodKey { namespace: format!("n{n}").into(), name: name.as_str().into() };
            nics.extend(providers.iter().map(|p| NicKey { holder: holder.clone(), provider: p.as_deref().map(Into::into) }));
        }
    }
    nics
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn incremental_equals_from_scratch_given_equal_allocations(steps in prop::collection::vec(step(), 1..40)) {
        let mut cluster = Cluster::default();
        let mut last: Vec<(String, Step)> = Vec::new();
        for step in &steps {
            apply(&mut cluster, step);
            let name = match step {
                Step::Vpc(n, ..) => format!("v{n}"),
                Step::Egress(n, ..) => format!("egress {n}"),
                Step::ProviderNetwork(n, ..) => format!("network {n}"),
                Step::Binding(vpc, group, _) => format!("binding {vpc} {group}"),
                Step::Vlan { name, .. } => format!("vlan {name}"),
                Step::Node { name, .. } => format!("node {name}"),
                Step::Subnet { name, .. } => subnet_name(*name).to_owned(),
                Step::Namespace(n, ..) => format!("n{n}"),
                Step::Pod { name, namespace, .. } => format!("p{name}.{namespace}"),
                Step::Pool { name, .. } => format!("q{name}"),
                Step::Definition(n, ..) => format!("d{n}"),
                Step::Replicas { machine, namespace, .. } => format!("replicas {machine} {namespace}"),
                Step::Instance { namespace, .. } => format!("instance {namespace}"),
                Step::Ip { of, namespace, .. } => format!("ip {of} {namespace}"),
                Step::Vip { name, .. } => format!("w{name}"),
                Step::Round => continue,
            };
            last.retain(|(n, _)| *n != name);
            last.push((name, step.clone()));
        }
        cluster.round();
        let mut audit = topology::from_scratch(&cluster.engine);
        audit.settle();
        prop_assert_eq!(cluster.engine.differences(&audit), vec![]);
        // From scratch: only the last state of each object, and the allocations as they are.
        let mut scratch = topology::engine();
        std::mem::swap(&mut cluster.engine, &mut scratch);
        let incremental = scratch;
        for (_, step) in last.iter().rev() {
            apply(&mut cluster, step);
        }
        for key in nics() {
            let allocation = <Allocation as engine::Collection<_>>::table(incremental.world()).get(&key).cloned();
            cluster.engine.set::<Allocation>(&key, allocation, Age(0));
        }
        cluster.engine.settle();
        let facts = |engine: &engine::Engine<_, topology::Fact>| {
            engine.facts().map(|(f, v)| (f.clone(), format!("{v:?}"))).collect::<std::collections::BTreeMap<_, _>>()
        };
        prop_assert_eq!(facts(&incremental), facts(&cluster.engine));
    }

    #[test]
    fn deleting_everything_leaves_the_database_empty(steps in prop::collection::vec(step(), 1..40)) {
        let mut cluster = Cluster::default();
        for step in &steps {
            apply(&mut cluster, step);
        }
        cluster.round();
        for n in 0..4 {
            apply(&mut cluster, &Step::Vpc(n, false, true, false));
            apply(&mut cluster, &Step::Egress(n, 0));
            for group in 0..3 {
                apply(&mut cluster, &Step::Binding(n % 2, group, None));
            }
            apply(&mut cluster, &Step::ProviderNetwork(n, false, 0));
            apply(&mut cluster, &Step::Vlan { name: n, there: false, network: 0, id: 0, created: 0, deleting: false });
            apply(&mut cluster, &Step::Node { name: n, there: false, address: 2, recorded: false });
            apply(&mut cluster, &Step::Namespace(n, false, None));
            cluster.engine.set::<Subnet>(&subnet_name(n).into(), None, Age(0));
        }
        for name in 0..6 {
            for namespace in 0..3 {
                let gone = Step::Pod { name, there: false, namespace, subnet: None, uid: 0, attached: Vec::new(), security: None };
                apply(&mut cluster, &gone);
            }
        }
        for n in 0..2 {
            apply(&mut cluster, &Step::Definition(n, false, true));
        }
        for name in 0..2 {
            apply(&mut cluster, &Step::Pool { name, there: false, subnet: 0, first: 2, created: 0 });
        }
        for name in 0..2 {
            apply(&mut cluster, &Step::Vip { name, there: false, subnet: None, address: 2, held: false, deleting: false });
        }
        for namespace in 0..3 {
            for of in 0..6 {
                apply(&mut cluster, &Step::Ip { of, there: false, namespace, subnet: 0, address: 2, deleting: false });
            }
            apply(&mut cluster, &Step::Instance { namespace, there: false, node: None, migration: None });
            for machine in [true, false] {
                apply(&mut cluster, &Step::Replicas { machine, namespace, replicas: 0 });
            }
        }
        cluster.round();
        prop_assert_eq!(cluster.northbound(), "");
        prop_assert_eq!(cluster.engine.size(), (0, 0));
        prop_assert!(cluster.ipam.is_empty());
        prop_assert!(cluster.desired.is_empty());
    }
}
