//! A cluster without I/O: manifests in, an engine with the real allocator, and a northbound database that applies what
//! the difference asks for.
#![allow(dead_code)] // each test file uses its own part
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use api::v1;
use api::view::{
    NamespaceView, NetworkAttachmentDefinitionView, NodeView, PodView, StatefulSetView, VirtualMachineInstanceView, VirtualMachineView,
};
use engine::{Age, Engine, Settled};
use ipam::{Ipam, Request};
use ovsdb_types::{Atom, Bindings, Datum, Desired, Diff, Difference, Dirty, Operation, Replica, RowUpdate, TableUpdates, nb};
use topology::{
    Allocation, Fact, FactValue, Instance, Ip, Namespace, NetworkDefinition, Networks, Node, NodeReports, Pod, ProviderNetwork, Replicas,
    ReplicasKind, Source, Subnet, Vip, Vlan, Vpc, World, input, northbound,
};

/// What every cluster has.
pub const DEFAULT: &str = "
kind: Vpc
metadata: {name: ovn-cluster, uid: v}
spec: {}
---
kind: Subnet
metadata: {name: ovn-default, uid: s, creationTimestamp: 2026-01-01T00:00:00Z}
spec: {cidrBlock: 10.16.0.0/16, default: true}
---
kind: Namespace
metadata: {name: default}
";

pub struct Cluster {
    pub engine: Engine<World, Fact>,
    pub ipam: Ipam,
    pub desired: Desired,
    pub replica: Replica,
    pub bindings: Bindings,
    /// The rules that ran.
    pub ran: BTreeSet<&'static str>,
}

impl Default for Cluster {
    fn default() -> Self {
        let replica = Replica::new(northbound::monitored(), northbound::indexes());
        Self {
            engine: topology::engine(),
            ipam: Ipam::default(),
            desired: Desired::default(),
            replica,
            bindings: Bindings::default(),
            ran: BTreeSet::new(),
        }
    }
}

/// What one round did.
pub struct Round {
    pub runs: u64,
    pub reads: u64,
    pub facts: usize,
    pub difference: Difference,
}

impl Cluster {
    /// Sets the objects of a multi-document manifest.
    pub fn apply(&mut self, manifest: &str) {
        for document in serde_norway::Deserializer::from_str(manifest) {
            let value: serde_json::Value = serde::Deserialize::deserialize(document).unwrap();
            match value["kind"].as_str().unwrap() {
                "Vpc" => {
                    let (k, v, age) = input::vpc(&serde_json::from_value::<v1::Vpc>(value).unwrap());
                    self.engine.set::<Vpc>(&k, Some(v), age);
                }
                "Subnet" => {
                    let (k, v, age) = input::subnet(&serde_json::from_value::<v1::Subnet>(value).unwrap());
                    self.engine.set::<Subnet>(&k, Some(v), age);
                }
                "Namespace" => {
                    let (k, v, age) = input::namespace(&serde_json::from_value::<NamespaceView>(value).unwrap());
                    self.engine.set::<Namespace>(&k, Some(v), age);
                }
                "Pod" => {
                    let object = serde_json::from_value::<PodView>(value).unwrap();
                    let (k, v, age) = input::pod(&object);
                    self.engine.set::<Pod>(&k, v, age);
                    self.engine.set::<Networks>(&k, input::networks(&object), age);
                }
                "Node" => {
                    let object = serde_json::from_value::<NodeView>(value).unwrap();
                    let (k, v, age) = input::node(&object);
                    self.engine.set::<Node>(&k, Some(v), age);
                    self.engine.set::<NodeReports>(&k, Some(input::node_reports(&object)), age);
                }
                "ProviderNetwork" => {
                    let (k, v, age) = input::provider_network(&serde_json::from_value::<v1::ProviderNetwork>(value).unwrap());
                    self.engine.set::<ProviderNetwork>(&k, Some(v), age);
                }
                "Vlan" => {
                    let (k, v, age) = input::vlan(&serde_json::from_value::<v1::Vlan>(value).unwrap());
                    self.engine.set::<Vlan>(&k, Some(v), age);
                }
                "NetworkAttachmentDefinition" => {
                    let object = serde_json::from_value::<NetworkAttachmentDefinitionView>(value).unwrap();
                    let (k, v, age) = input::definition(&object);
                    self.engine.set::<NetworkDefinition>(&k, Some(v), age);
                }
                "Vip" => {
                    let (k, v, age) = input::vip(&serde_json::from_value::<v1::Vip>(value).unwrap());
                    self.engine.set::<Vip>(&k, Some(v), age);
                }
                "StatefulSet" => {
                    let (k, v) = input::stateful_set(&serde_json::from_value::<StatefulSetView>(value).unwrap());
                    self.engine.set::<Replicas>(&k, v, Age(0));
                }
                "VirtualMachine" => {
                    let object = serde_json::from_value::<VirtualMachineView>(value).unwrap();
                    let (k, v) = input::virtual_machine(ReplicasKind::VirtualMachine, &object.metadata);
                    self.engine.set::<Replicas>(&k, v, Age(0));
                }
                "VirtualMachineInstance" => {
                    let object = serde_json::from_value::<VirtualMachineInstanceView>(value).unwrap();
                    let (k, v) = input::virtual_machine(ReplicasKind::Instance, &object.metadata);
                    self.engine.set::<Replicas>(&k, v, Age(0));
                    let (k, v) = input::instance(&object);
                    self.engine.set::<Instance>(&k, Some(v), Age(0));
                }
                "IP" => {
                    let object = serde_json::from_value::<v1::Ip>(value).unwrap();
                    let ip = input::ip(&object).unwrap();
                    self.engine.set::<Ip>(&object.metadata.name.clone().unwrap().into(), ip, input::age(&object.metadata));
                }
                other => panic!("no kind {other}"),
            }
        }
    }

    /// Settles, allocates, settles again, and commits the difference: one round of the controller.
    pub fn round(&mut self) -> Round {
        let first = self.engine.settle();
        let (mut runs, mut reads, mut facts) = (first.runs(), first.reads, first.changes.len());
        let mut dirty = Dirty::default();
        self.take(first, &mut dirty);
        let second = self.engine.settle();
        runs += second.runs();
        reads += second.reads;
        facts += second.changes.len();
        self.take(second, &mut dirty);
        let ownership = northbound::ownership();
        let diff = Diff {
            desired: &self.desired,
            replica: &self.replica,
            ownership: &ownership,
            skip: &BTreeSet::new(),
            vendor: api::VENDOR,
            claimed: &northbound::claimed,
        };
        let difference = diff.compute(&dirty, &mut self.bindings);
        self.commit(&difference.operations);
        Round { runs, reads, facts, difference }
    }

    fn take(&mut self, settled: Settled<Fact>, dirty: &mut Dirty) {
        self.ran.extend(settled.counts.iter().filter(|count| count.runs > 0).map(|count| count.rule));
        for change in &settled.changes {
            match (&change.fact, &change.after) {
                (Fact::Northbound(fact), after) => {
                    let value = match after {
                        Some(FactValue::Northbound(value)) => Some(value),
                        _ => None,
                    };
                    dirty.change(self.desired.apply(fact, value));
                }
                (Fact::Pool(name), Some(FactValue::Pool { vpc, cidrs, excluded })) => {
                    self.ipam.set_subnet(name, ipam::SubnetSpec::new(Arc::clone(vpc), *cidrs, excluded.clone()));
                }
                (Fact::IpPool(name), Some(FactValue::IpPool { subnet, ranges })) => {
                    self.ipam.set_pool(subnet, name, ipam::PoolSpec { ranges: ranges.clone(), exclusive: true });
                }
                _ => {}
            }
        }
        // As the controller does it: releases first, then what is recorded, then what is new.
        let mut requests: Vec<_> = settled.changes.into_iter().filter(|change| matches!(change.fact, Fact::Request(_))).collect();
        requests.sort_by_key(|change| match &change.after {
            None => 0,
            Some(FactValue::Request(request)) if request.held => 1,
            Some(_) => 2,
        });
        for change in requests {
            let Fact::Request(key) = change.fact else { continue };
            let allocation = match change.after {
                Some(FactValue::Request(request)) => {
                    let before = |before: &FactValue| matches!(before, FactValue::Request(old) if old.identity != request.identity);
                    if change.before.as_ref().is_some_and(before) {
                        self.ipam.release(&key.port());
                    }
                    let Source { pools, candidates, .. } = request.source.map(|source| *source).unwrap_or_default();
                    let (addresses, mac) = (request.addresses, request.mac);
                    let wanted = Request { subnet: request.subnet, addresses, candidates, pools, mac, ..Default::default() };
                    self.ipam.allocate(&key.port(), &wanted).ok().map(|held| Allocation {
                        identity: request.identity,
                        subnet: held.subnet,
                        addresses: held.addresses,
                        mac: held.mac,
                    })
                }
                _ => {
                    self.ipam.release(&key.port());
                    None
                }
            };
            self.engine.set::<Allocation>(&key, allocation, Age(0));
        }
    }

    /// Applies operations as `ovsdb-server` would, garbage collection of unreferenced rows included.
    pub fn commit(&mut self, operations: &[Operation]) {
        let schema = &nb::SCHEMA;
        for operation in operations {
            let update = match operation {
                Operation::Insert { table, uuid, row, .. } => {
                    let id = schema.table_id(table).unwrap();
                    let columns = row.iter().map(|(name, v)| (schema.table(id).column_index(name).unwrap(), v.clone())).collect();
                    (id, uuid.unwrap(), RowUpdate::Present(columns))
                }
                Operation::Delete { table, condition } => (schema.table_id(table).unwrap(), target(condition), RowUpdate::Delete),
                Operation::Update { table, condition, row } => {
                    let id = schema.table_id(table).unwrap();
                    let old = self.replica.get(id, target(condition)).unwrap();
                    let mut columns: BTreeMap<u16, Datum> =
                        (0..).zip(schema.table(id).columns).map(|(i, _)| (i, old.value(i).unwrap().clone())).collect();
                    columns.extend(row.iter().map(|(name, v)| (schema.table(id).column_index(name).unwrap(), v.clone())));
                    (id, target(condition), RowUpdate::Present(columns.into_iter().collect()))
                }
                Operation::Mutate { table, condition, mutations } => {
                    let id = schema.table_id(table).unwrap();
                    let deltas = mutations.iter().map(|m| (schema.table(id).column_index(m.column).unwrap(), m.value.clone())).collect();
                    (id, target(condition), RowUpdate::Modify(deltas))
                }
                other => panic!("{other:?}"),
            };
            self.replica.apply(TableUpdates(vec![(update.0, vec![(update.1, update.2)])])).unwrap();
        }
        self.collect_garbage();
    }

    fn collect_garbage(&mut self) {
        while self.collect_unreferred() > 0 {}
    }

    /// Rows that nobody refers to go, and with them what they refer to.
    fn collect_unreferred(&mut self) -> usize {
        let schema = &nb::SCHEMA;
        let mut referred: BTreeSet<Atom> = BTreeSet::new();
        let tables: Vec<_> = self.replica.monitored().tables.iter().map(|(id, _)| *id).collect();
        for id in &tables {
            for row in self.replica.rows(*id) {
                for (index, column) in (0..).zip(schema.table(*id).columns) {
                    if column.strong {
                        referred.extend(row.value(index).unwrap().atoms().iter().cloned());
                    }
                }
            }
        }
        let mut count = 0;
        for id in tables {
            let gone: Vec<_> = self
                .replica
                .rows(id)
                .filter(|r| !schema.table(id).root && !referred.contains(&Atom::Uuid(r.uuid)))
                .map(|r| r.uuid)
                .collect();
            count += gone.len();
            for uuid in gone {
                self.replica.apply(TableUpdates(vec![(id, vec![(uuid, RowUpdate::Delete)])])).unwrap();
            }
        }
        count
    }

    /// The names of all ports, of switches and of routers.
    pub fn port_names(&self) -> Vec<String> {
        use ovsdb_types::nb::{logical_router_port as lrp, logical_switch_port as lsp};
        let switches = self.replica.rows(lsp::TABLE).map(|row| row.text(lsp::NAME).to_owned());
        let routers = self.replica.rows(lrp::TABLE).map(|row| row.text(lrp::NAME).to_owned());
        switches.chain(routers).collect()
    }

    /// The northbound database as text: tables, rows by name, columns that differ from their defaults; references by name.
    pub fn northbound(&self) -> String {
        let schema = &nb::SCHEMA;
        let mut names: BTreeMap<Atom, String> = BTreeMap::new();
        let tables: Vec<_> = self.replica.monitored().tables.iter().map(|(id, _)| *id).collect();
        for id in &tables {
            let name = schema.table(*id).column_index("name");
            for row in self.replica.rows(*id) {
                names.insert(Atom::Uuid(row.uuid), name.and_then(|c| row.value(c)?.as_str()).unwrap_or_default().to_owned());
            }
        }
        let mut out = String::new();
        for id in tables {
            let mut rows: Vec<_> = self.replica.rows(id).collect();
            rows.sort_by_key(|row| (names[&Atom::Uuid(row.uuid)].clone(), row.uuid));
            for row in rows {
                let _ = writeln!(out, "{} {}", schema.table(id).name, names[&Atom::Uuid(row.uuid)]);
                for (index, column) in (0..).zip(schema.table(id).columns) {
                    let value = row.value(index).unwrap();
                    if column.name == "name" || *value == Datum::default_of(column) {
                        continue;
                    }
                    let mut shown: Vec<String> =
                        value.atoms().iter().map(|a| names.get(a).cloned().unwrap_or_else(|| format!("{a:?}"))).collect();
                    shown.sort();
                    shown.extend(value.pairs().iter().map(|(k, v)| format!("{}={}", k.as_str().unwrap(), v.as_str().unwrap())));
                    let _ = writeln!(out, "  {}: {}", column.name, shown.join(", "));
                }
            }
        }
        out
    }

    /// What users are told: states and problems, one per line.
    pub fn told(&self) -> String {
        let mut lines: Vec<String> = self
            .engine
            .facts()
            .filter_map(|(fact, value)| match (fact, value) {
                (Fact::GatewayProblem(name) | Fact::ExitProblem(name), FactValue::Problem(p)) => {
                    Some(format!("subnet {name}: {}: {}", p.reason, p.message))
                }
                (Fact::NodeProblem(name), FactValue::Problem(p)) => Some(format!("node {name}: {}: {}", p.reason, p.message)),
                (Fact::IpProblem(name), FactValue::Problem(p)) => Some(format!("ip {name}: {}: {}", p.reason, p.message)),
                (Fact::PodProblem(key) | Fact::NetworksProblem(key), FactValue::Problem(p)) => {
                    Some(format!("pod {}/{}: {}: {}", key.namespace, key.name, p.reason, p.message))
                }
                (Fact::PortProblem(key, nic), FactValue::Problem(p)) => {
                    let nic = nic.as_deref().unwrap_or(api::OVN_PROVIDER);
                    Some(format!("pod {}/{}: NIC {nic}: {}: {}", key.namespace, key.name, p.reason, p.message))
                }
                (Fact::Subnet(name), FactValue::Subnet(state)) => {
                    let mut line = match &state.network {
                        Ok((cidrs, gateways)) => format!("subnet {name}: {cidrs} via {}", api::annotations::join(gateways)),
                        Err(p) => format!("subnet {name}: {}: {}", p.reason, p.message),
                    };
                    if let Some(problem) = &state.waiting {
                        let _ = write!(line, "; {}", problem.message);
                    }
                    if !state.refused.is_empty() {
                        let _ = write!(line, "; refused: {}", state.refused.join(", "));
                    }
                    Some(line)
                }
                (Fact::Vlan(name), FactValue::Vlan(state)) => {
                    let problem = state.problem.as_ref().map(|p| format!("; {}: {}", p.reason, p.message)).unwrap_or_default();
                    let waiting = state.waiting.as_ref().map(|p| format!("; {}", p.message)).unwrap_or_default();
                    Some(format!("vlan {name}: [{}]{problem}{waiting}", state.subnets.join(", ")))
                }
                (Fact::ProviderNetwork(name), FactValue::ProviderNetwork(state)) => {
                    let problem = state.problem.as_ref().map(|p| format!("; {}: {}", p.reason, p.message)).unwrap_or_default();
                    let (ready, not) = (state.ready.join(", "), state.not_ready.join(", "));
                    Some(format!(
                        "provider network {name}: ready [{ready}], not ready [{not}], vlans [{}]{problem}",
                        state.vlans.join(", ")
                    ))
                }
                (Fact::Vpc(name), FactValue::Vpc(state)) => {
                    let waiting = state.waiting.as_ref().map(|p| format!("; {}", p.message)).unwrap_or_default();
                    let problem = state.problem.as_ref().map(|p| format!("; {}: {}", p.reason, p.message)).unwrap_or_default();
                    let lost = state.told().map(|p| format!("; {}: {}", p.reason, p.message)).unwrap_or_default();
                    Some(format!("vpc {name}: [{}]{problem}{lost}{waiting}", state.subnets.join(", ")))
                }
                _ => None,
            })
            .collect();
        lines.sort();
        lines.join("\n")
    }
}

fn target(condition: &[ovsdb_types::Condition]) -> ovsdb_types::Uuid {
    condition[0].value.atoms()[0].as_uuid().unwrap()
}
