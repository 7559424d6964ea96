//! The real rules with the real allocator and a northbound database in memory, as the controller joins them.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::view::NamespaceView;
use engine::{Age, Engine, Settled};
use ipam::{Ipam, Request};
use ovsdb_types::nb::logical_switch_port as lsp;
use ovsdb_types::{Bindings, Condition, Datum, Desired, Diff, Dirty, Mutator, Operation, Replica, RowUpdate, TableUpdates, Uuid, nb};
use serde_json::{Value, json};
use topology::{Allocation, Fact, FactValue, Namespace, Subnet, Usage, Vpc, World, input, northbound};

/// The engine with allocator, desired rows and a northbound database, as the controller joins them.
pub struct Cluster {
    pub engine: Engine<World, Fact>,
    pub ipam: Ipam,
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
    /// The default VPC.
    pub fn vpc(&mut self) {
        let (name, vpc, age) = input::vpc(&object(json!({ "kind": "Vpc", "metadata": { "name": api::DEFAULT_VPC }, "spec": {} })));
        self.engine.set::<Vpc>(&name, Some(vpc), age);
    }

    pub fn namespace(&mut self, name: &str) {
        let view: NamespaceView = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        let (name, value, age) = input::namespace(&view);
        self.engine.set::<Namespace>(&name, Some(value), age);
    }

    pub fn subnet(&mut self, name: &str, spec: &Value) {
        let (name, value, age) = input::subnet(&object(json!({ "kind": "Subnet", "metadata": { "name": name }, "spec": spec })));
        self.engine.set::<Subnet>(&name, Some(value), age);
    }

    /// Runs rules, the allocator, and the rules that read its answers: runs and elements read.
    pub fn settle(&mut self) -> (u64, u64) {
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
    pub fn difference(&mut self) -> (Vec<Operation>, u64) {
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
    pub fn commit(&mut self, operations: Vec<Operation>) {
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
