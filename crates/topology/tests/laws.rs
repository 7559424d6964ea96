//! Laws of the real rules: incremental equals from scratch, constant cost, nothing written twice, nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;

use std::collections::BTreeSet;

use cluster::Cluster;
use engine::Age;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use topology::{
    Allocation, Ip, Keeper, Namespace, Pod, PodKey, Pool, PoolSpec, Replicas, ReplicasKey, ReplicasKind, Subnet, Vip, VipSpec, Vpc,
    Workload, input,
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
            let pod =
                Pod { uid: format!("u{i}").into(), created: 0, node: None, workload: None, asked: Ok(Default::default()), recorded: None };
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
    Vpc(u8, bool, bool),
    Subnet {
        name: u8,
        there: bool,
        vpc: u8,
        range: u8,
        namespaces: u8,
        default: bool,
        deleting: bool,
        created: i64,
    },
    Namespace(u8, bool, Option<u8>),
    Pod {
        name: u8,
        there: bool,
        namespace: u8,
        subnet: Option<u8>,
        uid: u8,
    },
    /// What keeps addresses, of one name in each namespace: the StatefulSet's replicas, or whether the machine is there.
    Replicas {
        machine: bool,
        namespace: u8,
        replicas: u8,
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
    Round,
}

/// The names of VPCs: one of them is that of a subnet, too.
fn vpc_name(n: u8) -> String {
    if n == 2 { "s2".to_owned() } else { format!("v{n}") }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..3, any::<bool>(), any::<bool>()).prop_map(|(n, there, deleting)| Step::Vpc(n, there, deleting)),
        (0u8..4, prop::bool::weighted(0.8), 0u8..3, 0u8..6, 0u8..4, any::<bool>(), prop::bool::weighted(0.2), 0i64..4).prop_map(
            |(name, there, vpc, range, namespaces, default, deleting, created)| Step::Subnet {
                name,
                there,
                vpc,
                range,
                namespaces,
                default,
                deleting,
                created
            }
        ),
        (0u8..3, prop::bool::weighted(0.8), prop::option::of(0u8..4)).prop_map(|(n, there, s)| Step::Namespace(n, there, s)),
        (0u8..6, prop::bool::weighted(0.7), 0u8..3, prop::option::of(0u8..4), 0u8..3)
            .prop_map(|(name, there, namespace, subnet, uid)| Step::Pod { name, there, namespace, subnet, uid }),
        (0u8..2, prop::bool::weighted(0.8), 0u8..4, 2u8..8, 0i64..3).prop_map(|(name, there, subnet, first, created)| Step::Pool {
            name,
            there,
            subnet,
            first,
            created
        }),
        (any::<bool>(), 0u8..3, 0u8..2).prop_map(|(machine, namespace, replicas)| Step::Replicas { machine, namespace, replicas }),
        (0u8..4, prop::bool::weighted(0.8), 0u8..3, 0u8..4, 2u8..6, prop::bool::weighted(0.2))
            .prop_map(|(of, there, namespace, subnet, address, deleting)| Step::Ip { of, there, namespace, subnet, address, deleting }),
        (0u8..2, prop::bool::weighted(0.8), prop::option::of(0u8..4), 2u8..6, any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(name, there, subnet, address, held, deleting)| Step::Vip { name, there, subnet, address, held, deleting }),
        Just(Step::Round),
    ]
}

/// The name that a kept NIC is on, and for whom it is kept.
fn kept(of: u8, namespace: u8) -> (PodKey, Keeper) {
    let (name, keeper) = match of {
        0 => ("p0", Keeper::StatefulSet { name: "set".into(), ordinal: 0 }),
        1 => ("machine", Keeper::VirtualMachine),
        2 => ("p3", Keeper::User),
        _ => ("nobody", Keeper::User),
    };
    (PodKey { namespace: format!("n{namespace}").into(), name: name.into() }, keeper)
}

fn apply(cluster: &mut Cluster, step: &Step) {
    let engine = &mut cluster.engine;
    match step {
        Step::Vpc(n, there, deleting) => {
            let vpc = Vpc { uid: "v".into(), deleting: *deleting, finalizer: true };
            engine.set::<Vpc>(&vpc_name(*n).into(), there.then_some(vpc), Age(0));
        }
        Step::Subnet { name, there, vpc, range, namespaces, default, deleting, created } => {
            let json = serde_json::json!({
                "apiVersion": "kubeovn.io/v1", "kind": "Subnet",
                "metadata": { "name": format!("s{name}") },
                "spec": {
                    "vpc": vpc_name(*vpc),
                    // Ranges 0 to 3 are disjoint /26s, 4 covers two of them, 5 cannot be read.
                    "cidrBlock": match range { 4 => "10.0.0.0/25".to_owned(), 5 => "10.0.0.0/99".to_owned(), r => format!("10.0.0.{}/26", r * 64) },
                    "namespaces": (0..2).filter(|i| namespaces & (1 << i) != 0).map(|i| format!("n{i}")).collect::<Vec<_>>(),
                    "default": default,
                },
            });
            let (key, mut subnet, _) = input::subnet(&serde_json::from_value(json).unwrap());
            subnet.deleting = *deleting;
            subnet.created = *created;
            engine.set::<Subnet>(&key, there.then_some(subnet), Age(*created));
        }
        Step::Namespace(n, there, subnet) => {
            let namespace = Namespace { subnet: subnet.map(|s| format!("s{s}").into()), pools: vec!["q0".into()] };
            engine.set::<Namespace>(&format!("n{n}").into(), there.then_some(namespace), Age(0));
        }
        Step::Pod { name, there, namespace, subnet, uid } => {
            let key = PodKey { namespace: format!("n{namespace}").into(), name: format!("p{name}").into() };
            // Two of the pods name a pool, one that may be of another subnet.
            let pool = (*name > 3).then(|| Box::new(api::annotations::PoolChoice::Named(vec![format!("q{}", name - 4).into()])));
            let asked = api::annotations::NicAnnotations { pool, subnet: subnet.map(|s| format!("s{s}").into()), ..Default::default() };
            // Of six pods one is of a StatefulSet, and two run one virtual machine.
            let workload = match name {
                0 => Some(Workload::StatefulSet("set".into())),
                1 | 2 => Some(Workload::VirtualMachine("machine".into())),
                _ => None,
            };
            let node = Some(format!("node{uid}").into());
            let pod = Pod { uid: format!("u{uid}").into(), created: 0, node, workload, asked: Ok(asked), recorded: None };
            engine.set::<Pod>(&key, there.then_some(pod), Age(0));
        }
        Step::Pool { name, there, subnet, first, created } => {
            let (from, to) = (format!("10.0.0.{}", subnet * 64 + first), format!("10.0.0.{}", subnet * 64 + first + 2));
            let spec = PoolSpec {
                subnet: format!("s{subnet}").into(),
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
        Step::Ip { of, there, namespace, subnet, address, deleting } => {
            let (holder, keeper) = kept(*of, *namespace);
            let name = holder.port();
            // Of a user's, one names neither address nor MAC.
            let given = *address != 5 || keeper != Keeper::User;
            let addresses = given.then(|| format!("10.0.0.{}", subnet * 64 + address).parse().unwrap()).into_iter().collect();
            let mac = given.then(|| format!("02:00:00:00:{namespace:02}:{address:02}").parse().unwrap());
            let ip = Ip { created: 0, deleting: *deleting, holder, subnet: format!("s{subnet}").into(), addresses, mac, keeper };
            engine.set::<Ip>(&name, there.then_some(ip), Age(0));
        }
        Step::Vip { name, there, subnet, address, held, deleting } => {
            let given = *held || *address != 5;
            let addresses = given.then(|| format!("10.0.0.{}", subnet.unwrap_or(0) * 64 + address).parse().unwrap()).into_iter().collect();
            let mac = held.then(|| format!("02:00:00:00:09:{address:02}").parse().unwrap());
            let spec = VipSpec { subnet: subnet.map(|s| format!("s{s}").into()), addresses, mac, held: *held };
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

/// Every name that a NIC can be on.
fn holders() -> Vec<PodKey> {
    let names: Vec<String> = (0..6).map(|p| format!("p{p}")).chain(["machine".into(), "nobody".into()]).collect();
    let key = |name: &String, n: u8| PodKey { namespace: format!("n{n}").into(), name: name.as_str().into() };
    names.iter().flat_map(|name| (0..3).map(move |n| key(name, n))).chain((0..2).map(|n| PodKey::of_vip(&format!("w{n}")))).collect()
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
                Step::Subnet { name, .. } => format!("s{name}"),
                Step::Namespace(n, ..) => format!("n{n}"),
                Step::Pod { name, namespace, .. } => format!("p{name}.{namespace}"),
                Step::Pool { name, .. } => format!("q{name}"),
                Step::Replicas { machine, namespace, .. } => format!("replicas {machine} {namespace}"),
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
        for key in holders() {
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
            apply(&mut cluster, &Step::Vpc(n, false, false));
            apply(&mut cluster, &Step::Namespace(n, false, None));
            cluster.engine.set::<Subnet>(&format!("s{n}").into(), None, Age(0));
        }
        for name in 0..6 {
            for namespace in 0..3 {
                apply(&mut cluster, &Step::Pod { name, there: false, namespace, subnet: None, uid: 0 });
            }
        }
        for name in 0..2 {
            apply(&mut cluster, &Step::Pool { name, there: false, subnet: 0, first: 2, created: 0 });
        }
        for name in 0..2 {
            apply(&mut cluster, &Step::Vip { name, there: false, subnet: None, address: 2, held: false, deleting: false });
        }
        for namespace in 0..3 {
            for of in 0..4 {
                apply(&mut cluster, &Step::Ip { of, there: false, namespace, subnet: 0, address: 2, deleting: false });
            }
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
