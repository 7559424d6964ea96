//! Addresses that outlive their pod: whom they are kept for, and until when.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;

use cluster::{Cluster, DEFAULT};
use topology::{Fact, FactValue, Ip, Networks, NicKey, Pod, PodKey};

/// What there is besides.
const NETWORK: &str = "
kind: StatefulSet
metadata: {name: web, namespace: default}
spec: {replicas: 2}
---
kind: VirtualMachine
metadata: {name: vm, namespace: default}
";

fn pod(name: &str, uid: &str, owner: &str) -> String {
    format!("kind: Pod\nmetadata: {{name: {name}, namespace: default, uid: 'u{uid}', ownerReferences: [{owner}]}}\nspec: {{}}\n")
}

const OF_SET: &str = "{apiVersion: apps/v1, kind: StatefulSet, name: web, uid: w}";
const OF_MACHINE: &str = "{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, name: vm, uid: i}";

fn key(name: &str) -> PodKey {
    PodKey { namespace: "default".into(), name: name.into() }
}

impl Cluster {
    /// The controller writes `IP` objects, and the watch brings them back: those that hold addresses by themselves.
    fn write_ips(&mut self) {
        let shown: Vec<_> = self
            .engine
            .facts()
            .filter_map(|(fact, value)| match (fact, value) {
                (Fact::Ip(nic), FactValue::Ip(shown)) => Some((nic.clone(), shown.clone())),
                _ => None,
            })
            .collect();
        for (key, shown) in shown {
            let keeper = match &shown.nic.identity {
                topology::Identity::Workload(topology::Workload::StatefulSet(set)) => {
                    let ordinal = key.holder.name.rsplit_once('-').unwrap().1.parse().unwrap();
                    topology::Keeper::StatefulSet { name: set.clone(), ordinal }
                }
                topology::Identity::Workload(topology::Workload::VirtualMachine(_)) => topology::Keeper::VirtualMachine,
                _ => continue,
            };
            let topology::Allocation { subnet, addresses, mac, .. } = shown.nic;
            let name = key.port();
            let ip = Ip { created: 0, deleting: false, nic: key, subnet, addresses, mac: Some(mac), keeper };
            self.engine.set::<Ip>(&name, Some(ip), engine::Age(0));
        }
        self.round();
    }

    fn delete_pod(&mut self, name: &str) {
        self.engine.set::<Pod>(&key(name), None, engine::Age(0));
        self.engine.set::<Networks>(&key(name), None, engine::Age(0));
        self.round();
    }

    /// Address and MAC held on a name, and whether it has a port.
    fn held(&self, name: &str) -> Option<(String, bool)> {
        self.held_by(&NicKey::primary(key(name)))
    }

    fn held_by(&self, nic: &NicKey) -> Option<(String, bool)> {
        let port = nic.port();
        let held = self.ipam.holding(&port)?;
        let ports = self.northbound().contains(&format!("Logical_Switch_Port {port}\n"));
        Some((format!("{} {}", api::annotations::join(&held.addresses), held.mac), ports))
    }
}

fn with_pods(pods: &[String]) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(&[DEFAULT, "---", NETWORK].concat());
    pods.iter().for_each(|pod| cluster.apply(pod));
    cluster.round();
    cluster.write_ips();
    cluster
}

#[test]
fn a_stateful_sets_pod_comes_back_to_its_address() {
    let mut cluster = with_pods(&[pod("web-0", "1", OF_SET), pod("web-1", "2", OF_SET), pod("plain", "3", "")]);
    let before = cluster.held("web-1").unwrap();
    cluster.delete_pod("web-1");
    cluster.delete_pod("plain");
    assert_eq!(cluster.held("plain"), None);
    // The port goes with the pod, and the address stays.
    assert_eq!(cluster.held("web-1"), Some((before.0.clone(), false)));
    cluster.apply(&pod("other", "4", ""));
    cluster.apply(&pod("web-1", "5", OF_SET));
    cluster.round();
    assert_eq!(cluster.held("web-1"), Some(before));
}

#[test]
fn scaling_below_an_ordinal_or_deleting_the_set_releases_its_addresses() {
    let mut cluster = with_pods(&[pod("web-0", "1", OF_SET), pod("web-1", "2", OF_SET)]);
    cluster.delete_pod("web-0");
    cluster.apply("kind: StatefulSet\nmetadata: {name: web, namespace: default}\nspec: {replicas: 1}\n");
    cluster.round();
    // A pod that is still there keeps what it has.
    assert!(cluster.held("web-1").is_some());
    cluster.delete_pod("web-1");
    assert!(cluster.held("web-1").is_none());
    assert!(cluster.held("web-0").is_some());
    cluster.apply(
        "kind: StatefulSet\nmetadata: {name: web, namespace: default, deletionTimestamp: 2026-01-01T00:00:00Z}\nspec: {replicas: 1}\n",
    );
    cluster.round();
    assert!(cluster.ipam.is_empty());
}

#[test]
fn a_machines_nic_is_on_its_name_whatever_its_pods_are_called() {
    let mut cluster = with_pods(&[pod("virt-launcher-vm-a", "1", OF_MACHINE)]);
    let before = cluster.held("vm").unwrap();
    assert!(before.1);
    assert_eq!(cluster.held("virt-launcher-vm-a"), None);
    // Stopped, and started again.
    cluster.delete_pod("virt-launcher-vm-a");
    assert_eq!(cluster.held("vm"), Some((before.0.clone(), false)));
    cluster.apply(&pod("virt-launcher-vm-b", "2", OF_MACHINE));
    cluster.round();
    assert_eq!(cluster.held("vm"), Some(before.clone()));
    // While it moves, both pods have it, and both are told.
    cluster.apply(&pod("virt-launcher-vm-c", "3", OF_MACHINE));
    cluster.round();
    assert_eq!(cluster.held("vm"), Some(before));
    assert_eq!(cluster.engine.facts().filter(|(fact, _)| matches!(fact, Fact::Record(..))).count(), 2);
    cluster.delete_pod("virt-launcher-vm-b");
    assert!(cluster.held("vm").unwrap().1);
}

#[test]
fn a_users_reservation_holds_for_the_pod_of_its_name_and_for_nobody_else() {
    let mut cluster = with_pods(&[]);
    cluster.apply(
        "
kind: IP
apiVersion: kubeovn.io/v1
metadata: {name: db.default}
spec: {subnet: ovn-default, v4IpAddress: 10.16.0.2, macAddress: '02:00:00:00:00:02'}
---
kind: IP
apiVersion: kubeovn.io/v1
metadata: {name: appliance}
spec: {subnet: ovn-default}
---
kind: IP
apiVersion: kubeovn.io/v1
metadata: {name: lost}
spec: {subnet: nowhere, v4IpAddress: 10.16.0.2}
",
    );
    cluster.apply(&pod("first", "1", ""));
    cluster.apply(&pod("db", "2", ""));
    cluster.round();
    assert_eq!(cluster.held("db"), Some(("10.16.0.2 02:00:00:00:00:02".to_owned(), true)));
    assert!(cluster.ipam.holding("appliance").is_some());
    assert!(cluster.told().contains("ip lost: NoSubnet: spec.subnet: subnet \"nowhere\" does not exist"), "{}", cluster.told());
    cluster.delete_pod("db");
    assert_eq!(cluster.held("db"), Some(("10.16.0.2 02:00:00:00:00:02".to_owned(), false)));
    cluster.engine.set::<Ip>(&"db.default".into(), None, engine::Age(0));
    cluster.round();
    assert_eq!(cluster.held("db"), None);
}

#[test]
fn a_pod_that_has_the_name_of_a_machine_keeps_the_machines_pods_out() {
    let mut cluster = with_pods(&[pod("vm", "1", "")]);
    let before = cluster.held("vm");
    cluster.apply(&pod("virt-launcher-vm-a", "2", OF_MACHINE));
    cluster.round();
    assert_eq!(cluster.held("vm"), before);
    assert!(cluster.told().contains("pod default/virt-launcher-vm-a: NameTaken"), "{}", cluster.told());
}

#[test]
fn each_nic_of_a_stateful_sets_pod_or_a_machines_comes_back_as_it_was_unless_it_is_not_wanted_any_more() {
    let mut cluster = with_pods(&[]);
    cluster.apply(
        "kind: NetworkAttachmentDefinition\nmetadata: {name: data, namespace: default}\nspec: {config: '{\"type\": \"ferrovia\"}'}\n",
    );
    let with_data = |name: &str, uid: &str, owner: &str| {
        pod(name, uid, owner).replace("metadata: {", "metadata: {annotations: {k8s.v1.cni.cncf.io/networks: 'data, data'}, ")
    };
    let nic = |name: &str, provider: &str| NicKey { holder: key(name), provider: Some(provider.into()) };
    let providers = ["data.default.ovn", "data.default.ovn.net2"];
    for (name, on, owner, next) in [("web-1", "web-1", OF_SET, "web-1"), ("launcher-a", "vm", OF_MACHINE, "launcher-b")] {
        cluster.apply(&with_data(name, "1", owner));
        cluster.round();
        cluster.write_ips();
        let before = providers.map(|provider| cluster.held_by(&nic(on, provider)).unwrap());
        cluster.delete_pod(name);
        assert_eq!(providers.map(|provider| cluster.held_by(&nic(on, provider)).unwrap()), before.clone().map(|(held, _)| (held, false)));
        // Even when its definition went meanwhile.
        let data = topology::DefinitionKey { namespace: "default".into(), name: "data".into() };
        let definition = <topology::NetworkDefinition as engine::Collection<_>>::table(cluster.engine.world()).get(&data).cloned();
        cluster.engine.set::<topology::NetworkDefinition>(&data, None, engine::Age(0));
        cluster.apply(&with_data(next, "2", owner));
        cluster.round();
        assert_eq!(providers.map(|provider| cluster.held_by(&nic(on, provider)).unwrap()), before, "{}", cluster.told());
        cluster.engine.set::<topology::NetworkDefinition>(&data, definition, engine::Age(0));
        // A pod of the same owner that lists it no more gives it up.
        cluster.apply(&pod(next, "3", owner));
        cluster.round();
        assert_eq!(providers.map(|provider| cluster.held_by(&nic(on, provider))), [None, None]);
        assert!(cluster.held(on).is_some());
    }
}

#[test]
fn a_users_reservation_can_be_of_any_nic_of_a_pod() {
    let mut cluster = with_pods(&[]);
    cluster.apply(
        "
kind: NetworkAttachmentDefinition
metadata: {name: data, namespace: default}
spec: {config: '{\"type\": \"ferrovia\"}'}
---
kind: IP
apiVersion: kubeovn.io/v1
metadata: {name: db.default.data.default.ovn}
spec: {podName: db, namespace: default, subnet: ovn-default, v4IpAddress: 10.16.0.9, macAddress: '02:00:00:00:00:09'}
---
kind: Pod
metadata: {name: db, namespace: default, uid: p}
spec: {}
",
    );
    cluster.round();
    let nic = NicKey { holder: key("db"), provider: Some("data.default.ovn".into()) };
    assert_eq!(cluster.held_by(&nic), Some(("10.16.0.9 02:00:00:00:00:09".to_owned(), false)));
    cluster
        .apply("kind: Pod\nmetadata: {name: db, namespace: default, uid: q, annotations: {k8s.v1.cni.cncf.io/networks: data}}\nspec: {}\n");
    cluster.round();
    assert_eq!(cluster.held_by(&nic), Some(("10.16.0.9 02:00:00:00:00:09".to_owned(), true)));
}
