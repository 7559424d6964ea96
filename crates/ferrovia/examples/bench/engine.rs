//! The real rules of the network on clusters of 1,000 and of 100,000 pods: what one more pod costs, and what each holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::annotations;
use api::view::{NamespaceView, PodView};
use engine::{Age, Engine, Settled};
use ipam::{Ipam, Request};
use ovsdb_types::nb::logical_switch_port as lsp;
use ovsdb_types::{Bindings, Condition, Datum, Desired, Diff, Dirty, Mutator, Operation, Replica, RowUpdate, TableUpdates, Uuid, nb};
use serde_json::{Value, json};
use topology::{Allocation, Fact, FactValue, Namespace, Pod, PodKey, Subnet, Usage, Vpc, World, input, northbound};

use crate::memory::held;
use crate::report::{Report, Row, median};

const SMALL: usize = 1_000;
const LARGE: usize = 100_000;
/// Pods of one subnet, and of the namespace that uses it: the cost of one must not depend on how many subnets there are.
const PER_SUBNET: usize = 500;
/// Single changes, of which the median is taken.
const CHANGES: usize = 500;

pub fn measure(report: &mut Report) {
    let small = Costs::measured(SMALL);
    let large = Costs::measured(LARGE);
    let seconds = |name: &str, took: Duration| Row::new(format!("engine, 100,000 pods: {name}"), took.as_secs_f64(), "s");
    report.add(seconds("cold start, rules and allocator", large.rules));
    report.add(Row::new("engine, 100,000 pods: rules run by a cold start, per pod", large.runs, "runs"));
    report.add(seconds("from facts to the operations of one transaction", large.diff));
    // 1 GiB for 150,000 pods, as the design has it for the whole controller.
    let row = Row::new("engine, 100,000 pods: heap of inputs, rules, allocator and replica, per pod", large.heap, "B");
    report.add(row.at_most(7158.0));
    for (change, (few, many)) in Change::ALL.into_iter().zip(small.changes.iter().zip(&large.changes)) {
        let name = change.name();
        let row = Row::new(format!("engine, 100,000 pods: {name}"), many.micros, "us");
        report.add(row.against("among 1,000", few.micros));
        for (what, many, few) in
            [("rules run", many.runs, few.runs), ("elements read", many.reads, few.reads), ("rows written", many.rows, few.rows)]
        {
            let row = Row::new(format!("engine, {name}: {what}, as among 1,000 pods"), many as f64, "");
            report.add(row.against("among 1,000", few as f64).exactly(few as f64));
        }
    }
}

#[derive(Clone, Copy)]
enum Change {
    Add,
    Record,
    Relabel,
    Delete,
}

impl Change {
    const ALL: [Self; 4] = [Self::Add, Self::Record, Self::Relabel, Self::Delete];

    const fn name(self) -> &'static str {
        match self {
            Self::Add => "add a pod",
            Self::Record => "annotate a pod with its record",
            Self::Relabel => "relabel a pod",
            Self::Delete => "delete a pod",
        }
    }
}

/// What one change costs: the time in microseconds, its median; counts, which must be the same each time.
struct Cost {
    micros: f64,
    runs: u64,
    reads: u64,
    rows: u64,
}

struct Costs {
    rules: Duration,
    diff: Duration,
    runs: f64,
    heap: f64,
    changes: Vec<Cost>,
}

impl Costs {
    fn measured(pods: usize) -> Self {
        let before = held();
        let views: Vec<(PodKey, Option<Pod>, Age)> = (0..pods).map(|i| input::pod(&view(i, &json!({})))).collect();
        let mut cluster = Cluster::default();
        cluster.lay_out(pods / PER_SUBNET);
        let began = Instant::now();
        for (key, pod, age) in views {
            cluster.engine.set::<Pod>(&key, pod, age);
        }
        let (runs, _) = cluster.settle();
        let rules = began.elapsed();
        let began = Instant::now();
        let operations = cluster.difference().0;
        let diff = began.elapsed();
        cluster.commit(operations);
        let heap = (held() - before) as f64 / pods as f64;

        let mut changes = Vec::new();
        for change in Change::ALL {
            let mut times = Vec::new();
            let mut counts = BTreeSet::new();
            for i in pods..pods + CHANGES {
                let input = cluster.input(change, i);
                let began = Instant::now();
                let (key, pod, age) = input;
                cluster.engine.set::<Pod>(&key, pod, age);
                let (runs, reads) = cluster.settle();
                let (operations, rows) = cluster.difference();
                times.push(began.elapsed().as_secs_f64() * 1e6);
                counts.insert((runs, reads, rows));
                cluster.commit(operations);
            }
            assert_eq!(counts.len(), 1, "{}, {pods} pods: runs, reads and rows vary: {counts:?}", change.name());
            let (runs, reads, rows) = counts.pop_first().unwrap();
            changes.push(Cost { micros: median(times), runs, reads, rows });
        }
        Self { rules, diff, runs: runs as f64 / pods as f64, heap, changes }
    }
}

fn view(i: usize, more: &Value) -> PodView {
    let mut metadata = json!({ "name": format!("pod-{i}"), "namespace": format!("n{}", i / PER_SUBNET), "uid": format!("uid-{i}") });
    metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({ "metadata": metadata })).unwrap()
}

/// The engine with allocator, desired rows and a northbound database, as the controller joins them.
struct Cluster {
    engine: Engine<World, Fact>,
    ipam: Ipam,
    desired: Desired,
    replica: Replica,
    bindings: Bindings,
    dirty: Dirty,
}

impl Default for Cluster {
    fn default() -> Self {
        let replica = Replica::new(northbound::monitored(), northbound::indexes());
        let (ipam, desired, bindings, dirty) = Default::default();
        Self { engine: topology::engine(), ipam, desired, replica, bindings, dirty }
    }
}

impl Cluster {
    /// One VPC, and for each subnet a namespace that uses it; one subnet more, for the pods that come later.
    fn lay_out(&mut self, subnets: usize) {
        let (name, vpc, age) = input::vpc(&object(json!({ "kind": "Vpc", "metadata": { "name": "ovn-cluster" }, "spec": {} })));
        self.engine.set::<Vpc>(&name, Some(vpc), age);
        for i in 0..=subnets {
            let (name, value, age) =
                input::namespace(&serde_json::from_value::<NamespaceView>(json!({ "metadata": { "name": format!("n{i}") } })).unwrap());
            self.engine.set::<Namespace>(&name, Some(value), age);
            let cidr = format!("10.{}.{}.0/22", i / 64, i % 64 * 4);
            let spec = json!({ "cidrBlock": cidr, "namespaces": [format!("n{i}")] });
            let (name, value, age) =
                input::subnet(&object(json!({ "kind": "Subnet", "metadata": { "name": format!("s{i}") }, "spec": spec })));
            self.engine.set::<Subnet>(&name, Some(value), age);
        }
        self.settle();
    }

    /// The input of a change of pod `i`.
    fn input(&self, change: Change, i: usize) -> (PodKey, Option<Pod>, Age) {
        let added = input::pod(&view(i, &json!({})));
        match change {
            Change::Add => added,
            Change::Delete => (added.0, None, added.2),
            Change::Record => input::pod(&view(i, &json!({ "annotations": self.record(&added.0) }))),
            Change::Relabel => {
                input::pod(&view(i, &json!({ "annotations": self.record(&added.0), "labels": { "app": format!("web-{i}") } })))
            }
        }
    }

    /// The annotations that the controller writes on a pod.
    fn record(&self, key: &PodKey) -> BTreeMap<&'static str, String> {
        let held = self.ipam.holding(&key.port()).unwrap();
        let subnet = held.subnet.to_string();
        BTreeMap::from([
            (annotations::ALLOCATED, "true".to_owned()),
            (annotations::IP_ADDRESS, annotations::join(&held.addresses)),
            (annotations::MAC_ADDRESS, held.mac.to_string()),
            (annotations::LOGICAL_SWITCH, subnet),
        ])
    }

    /// Runs rules, the allocator, and the rules that read its answers: runs and elements read.
    fn settle(&mut self) -> (u64, u64) {
        let first = self.engine.settle();
        let (runs, reads) = (first.runs(), first.reads);
        self.take(first);
        let second = self.engine.settle();
        let counts = (runs + second.runs(), reads + second.reads);
        self.take(second);
        counts
    }

    fn take(&mut self, settled: Settled<Fact>) {
        let mut touched: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut requests = Vec::new();
        for change in settled.changes {
            match (change.fact, change.after) {
                (Fact::Northbound(fact), after) => {
                    let value = match &after {
                        Some(FactValue::Northbound(value)) => Some(value),
                        _ => None,
                    };
                    self.dirty.change(self.desired.apply(&fact, value));
                }
                (Fact::Pool(name), Some(FactValue::Pool { vpc, cidrs, excluded })) => {
                    self.ipam.set_subnet(&name, ipam::SubnetSpec::new(vpc, cidrs, excluded));
                }
                (Fact::Request(key), after) => requests.push((key, after)),
                _ => {}
            }
        }
        for (key, after) in requests {
            let allocation = match after {
                Some(FactValue::Request(request)) => {
                    let wanted = Request { subnet: request.subnet, addresses: request.addresses, mac: request.mac, ..Default::default() };
                    let held = self.ipam.allocate(&key.port(), &wanted).unwrap();
                    touched.insert(Arc::clone(&held.subnet));
                    Some(Allocation { identity: request.identity, subnet: held.subnet, addresses: held.addresses, mac: held.mac })
                }
                _ => {
                    touched.extend(self.ipam.release(&key.port()).map(|held| held.subnet));
                    None
                }
            };
            self.engine.set::<Allocation>(&key, allocation, Age(0));
        }
        for subnet in touched {
            let usage = Usage { holders: self.ipam.holders(&subnet).len() };
            self.engine.set::<Usage>(&subnet, Some(usage), Age(0));
        }
    }

    /// The operations of the next transaction, and how many rows they write.
    fn difference(&mut self) -> (Vec<Operation>, u64) {
        let ownership = northbound::ownership();
        let diff = Diff {
            desired: &self.desired,
            replica: &self.replica,
            ownership: &ownership,
            skip: &BTreeSet::new(),
            vendor: api::VENDOR,
            claimed: &northbound::claimed,
        };
        let difference = diff.compute(&std::mem::take(&mut self.dirty), &mut self.bindings);
        let rows = u64::try_from(difference.rows()).unwrap();
        (difference.operations, rows)
    }

    /// Applies operations as `ovsdb-server` would: a port goes with the reference to it.
    fn commit(&mut self, operations: Vec<Operation>) {
        let schema = &nb::SCHEMA;
        let mut ports = Vec::new();
        let mut updates = Vec::new();
        for operation in operations {
            let (table, update) = match operation {
                Operation::Insert { table, uuid, row, .. } => {
                    let id = schema.table_id(table).unwrap();
                    let columns = row.into_iter().map(|(name, v)| (schema.table(id).column_index(name).unwrap(), v)).collect();
                    (id, (uuid.unwrap(), RowUpdate::Present(columns)))
                }
                Operation::Mutate { table, condition, mutations } => {
                    let id = schema.table_id(table).unwrap();
                    let gone = mutations.iter().filter(|m| m.mutator == Mutator::Delete).flat_map(|m| m.value.atoms());
                    ports.extend(gone.filter_map(ovsdb_types::Atom::as_uuid).map(|port| (port, RowUpdate::Delete)));
                    let deltas: Vec<(u16, Datum)> =
                        mutations.into_iter().map(|m| (schema.table(id).column_index(m.column).unwrap(), m.value)).collect();
                    (id, (target(&condition), RowUpdate::Modify(deltas)))
                }
                other => panic!("the bench makes no such change: {other:?}"),
            };
            updates.push((table, vec![update]));
        }
        updates.push((lsp::TABLE, ports));
        self.replica.apply(TableUpdates(updates)).unwrap();
    }
}

fn target(condition: &[Condition]) -> Uuid {
    condition[0].value.atoms()[0].as_uuid().unwrap()
}

fn object<T: serde::de::DeserializeOwned>(mut json: Value) -> T {
    json["apiVersion"] = "kubeovn.io/v1".into();
    serde_json::from_value(json).unwrap()
}
