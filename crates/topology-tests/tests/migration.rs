//! Live migration: where the port of a virtual machine is while two pods share it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;

use cluster::{Cluster, DEFAULT};
use engine::Age;
use topology::{Instance, Pod, PodKey};

/// What there is besides.
const NETWORK: &str = "
kind: NetworkAttachmentDefinition
metadata: {name: d, namespace: default}
spec: {config: '{\"type\": \"ferrovia\"}'}
---
kind: Node
metadata: {name: node1, annotations: {ovn.kubernetes.io/chassis: c1}}
---
kind: Node
metadata: {name: node2, annotations: {ovn.kubernetes.io/chassis: c2}}
---
kind: Node
metadata: {name: node3}
";

fn key(name: &str) -> PodKey {
    PodKey { namespace: "default".into(), name: name.into() }
}

impl Cluster {
    /// A pod of the machine, made in this second of a minute.
    fn launch(&mut self, name: &str, node: u8, second: u8, more: &str) {
        self.apply(&format!(
            "
kind: Pod
metadata:
  name: {name}
  namespace: default
  uid: {name}
  creationTimestamp: 2026-01-01T00:00:{second:02}Z
  annotations: {{k8s.v1.cni.cncf.io/networks: d, ovn.kubernetes.io/mac_address: '02:00:00:00:00:01', d.default.ovn.kubernetes.io/mac_address: '02:00:00:00:00:02'}}
  ownerReferences: [{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, name: vm, uid: i}}]
  {more}
spec: {{nodeName: node{node}}}
"
        ));
        self.round();
    }

    fn end(&mut self, name: &str) {
        self.engine.set::<Pod>(&key(name), None, Age(0));
        self.engine.set::<topology::Networks>(&key(name), None, Age(0));
        self.round();
    }

    /// What the machine's instance says.
    fn says(&mut self, node: u8, migration: &str) {
        self.apply(&format!(
            "
kind: VirtualMachineInstance
metadata: {{name: vm, namespace: default}}
status: {{nodeName: node{node}, migrationState: {migration}}}
"
        ));
        self.round();
    }

    fn settle(&mut self, settling: bool) {
        let table = <Instance as engine::Collection<_>>::table(self.engine.world());
        let mut instance = table.get(&key("vm")).unwrap().clone();
        instance.migration.as_mut().unwrap().settling = settling;
        self.engine.set::<Instance>(&key("vm"), Some(instance), Age(0));
        self.round();
    }

    /// The options of both ports of the machine, and whether they are in the group of those that migrate.
    fn port(&self) -> (String, bool) {
        let northbound = self.northbound();
        let rows: Vec<&str> = northbound.split("Logical_Switch_Port ").filter(|row| row.starts_with("vm.default")).collect();
        let options = |row: &str| row.lines().find_map(|line| line.strip_prefix("  options: ")).unwrap_or_default().to_owned();
        assert_eq!((rows.len(), options(rows[0])), (2, options(rows[1])), "{northbound}");
        let group = northbound.contains("Port_Group migrating");
        assert_eq!(group, northbound.contains("  ports: vm.default, vm.default.d.default.ovn\n"), "{northbound}");
        (options(rows[0]), group)
    }
}

const BOTH: &str = "activation-strategy=rarp, requested-chassis=c1,c2";
const JOB: &str = "labels: {kubevirt.io/migrationJobUID: j}";
const DELETED: &str = "deletionTimestamp: 2026-01-01T00:00:30Z";

fn only(chassis: &str) -> String {
    format!("requested-chassis={chassis}")
}

#[test]
fn a_port_that_migrates_is_on_both_nodes_and_lets_established_connections_through() {
    let mut cluster = Cluster::default();
    cluster.apply(&[DEFAULT, "---", NETWORK].concat());
    cluster.launch("a", 1, 1, "");
    cluster.launch("b", 2, 2, JOB);
    insta::assert_snapshot!(cluster.northbound());
}

#[test]
fn a_machine_arrives_and_its_port_is_where_it_is() {
    let mut cluster = Cluster::default();
    cluster.apply(&[DEFAULT, "---", NETWORK].concat());
    cluster.launch("a", 1, 1, "");
    assert_eq!(cluster.port(), (only("c1"), false));
    // Before anything is known of the migration but the pod that is made for it.
    cluster.launch("b", 2, 2, JOB);
    assert_eq!(cluster.port(), (BOTH.into(), true));
    cluster.says(1, "{migrationUid: j, sourceNode: node1, targetNode: node2}");
    assert_eq!(cluster.port(), (BOTH.into(), true));
    // Whichever is said first, that it is over counts.
    cluster.says(2, "{migrationUid: j}");
    assert_eq!(cluster.port(), (BOTH.into(), true));
    cluster.says(1, "{migrationUid: j, completed: true}");
    assert_eq!(cluster.port(), (only("c2"), false));
    cluster.settle(true);
    assert_eq!(cluster.port(), (only("c2"), true));
    cluster.says(2, "{migrationUid: j, completed: true}");
    cluster.end("a");
    assert_eq!(cluster.port(), (only("c2"), false));
    // And back, by a pod that comes while the one before has not gone.
    cluster.launch("a", 1, 1, DELETED);
    cluster.launch("c", 1, 3, "labels: {kubevirt.io/migrationJobUID: k}");
    let back = BOTH.replace("c1,c2", "c2,c1");
    assert_eq!(cluster.port(), (back, true));
    cluster.says(2, "{migrationUid: k, completed: true}");
    assert_eq!(cluster.port(), (only("c1"), false));
}

#[test]
fn a_migration_that_ends_otherwise_leaves_the_port_where_it_was() {
    let mut cluster = Cluster::default();
    cluster.apply(&[DEFAULT, "---", NETWORK].concat());
    cluster.launch("a", 1, 1, "");
    let held = cluster.ipam.holding("vm.default");
    // Failed, and the pod that was made for it is still there.
    cluster.launch("b", 2, 2, JOB);
    cluster.says(1, "{migrationUid: j, completed: true, failed: true}");
    assert_eq!(cluster.port(), (only("c1"), false));
    cluster.end("b");
    assert_eq!(cluster.port(), (only("c1"), false));
    // Given up before anything was said of it.
    cluster.launch("c", 2, 3, "labels: {kubevirt.io/migrationJobUID: k}");
    assert_eq!(cluster.port(), (BOTH.into(), true));
    cluster.launch("c", 2, 3, &format!("labels: {{kubevirt.io/migrationJobUID: k}}\n  {DELETED}"));
    assert_eq!(cluster.port(), (only("c1"), false));
    cluster.end("c");
    // A node of which no chassis is known, and the machine's own.
    for node in [3, 1] {
        cluster.launch("d", node, 4, "labels: {kubevirt.io/migrationJobUID: l}");
        assert_eq!(cluster.port(), (only("c1"), false));
        cluster.end("d");
    }
    assert_eq!(cluster.ipam.holding("vm.default"), held);
}

#[test]
fn a_machine_that_starts_again_is_where_its_new_pod_is() {
    let mut cluster = Cluster::default();
    cluster.apply(&[DEFAULT, "---", NETWORK].concat());
    cluster.launch("a", 1, 1, "");
    cluster.launch("b", 2, 2, "");
    assert_eq!(cluster.port(), (only("c2"), false));
    // Its node has told of no chassis: whoever has the pod has the port.
    cluster.launch("c", 3, 3, "");
    assert_eq!(cluster.port(), (only(""), false));
}
