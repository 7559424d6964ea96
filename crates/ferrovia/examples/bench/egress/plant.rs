//! OVN with one real chassis among many that are but rows: what a way out costs there, in rows, flows and time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use engine::Age;
use ovsdb_types::nb::{logical_router_policy, logical_router_static_route, nb_global, port_group};
use ovsdb_types::sb::{address_set, logical_flow, port_binding};
use ovsdb_types::{
    Column, Condition, DatabaseSchema, Datum, Function, IntoDatum as _, Monitored, Operation, Replica, RowKey, TableId, nb, sb,
};
use serde_json::json;
use topology::{Egress, Node, Pod, input};

use super::chassis::{Chassis, run};
use super::scheme::{JOIN, JOIN_CIDR, NODES, Port, SUBNETS, Scheme, node_ip, node_name, node_record, subnet_name};
use crate::cluster::Cluster;
use crate::follower::Follower;
use crate::servers::{Database, Running, northd};

/// Pods whose rows are one transaction.
const BATCH: usize = 1_000;

pub struct Plant {
    scheme: Scheme,
    cluster: Cluster,
    pods: usize,
    /// Ports that no chassis has yet.
    unbound: Vec<Port>,
    /// What `NB_Global` counts.
    global: Follower,
    configuration: i64,
    bindings: Follower,
    /// Ports that some chassis has.
    bound: usize,
    chassis: Chassis,
    northd: Running,
    northd_control: PathBuf,
    northbound: Database,
    southbound: Database,
}

impl Plant {
    /// All servers, 100 chassis, five subnets, the nodes' part of the way out, and no pods. In a network namespace of its own.
    pub async fn start(folder: &Path, scheme: Scheme) -> Self {
        let northbound = Database::start(folder, "nb");
        let southbound = Database::start(folder, "sb");
        let northd = northd(folder, &northbound, &southbound);
        let chassis = Chassis::start(folder, &southbound.remote());
        let columns = [nb_global::NB_CFG, nb_global::SB_CFG, nb_global::HV_CFG].map(|column| column.index).to_vec();
        let global = Follower::start(&northbound.remote(), one_table(&nb::SCHEMA, nb_global::TABLE, columns)).await;
        let columns = vec![port_binding::LOGICAL_PORT.index, port_binding::CHASSIS.index];
        let bindings = Follower::start(&southbound.remote(), one_table(&sb::SCHEMA, port_binding::TABLE, columns)).await;
        let mut plant = Self {
            scheme,
            cluster: Cluster::default(),
            pods: 0,
            unbound: scheme.node_ports(),
            global,
            configuration: 0,
            bindings,
            bound: 0,
            chassis,
            northd,
            northd_control: folder.join("northd.ctl"),
            northbound,
            southbound,
        };
        let others = (1..NODES).flat_map(other_chassis).collect::<Vec<_>>();
        plant.bindings.client.transact(&others).await.unwrap();
        plant.lay_out().await;
        plant
    }

    async fn lay_out(&mut self) {
        self.cluster.vpc();
        let mut cidrs = Vec::new();
        for subnet in 0..SUBNETS {
            cidrs.push(format!("10.{}.0.0/16", 16 + subnet));
            self.cluster.namespace(&namespace(subnet));
            let spec = json!({ "cidrBlock": cidrs[subnet], "namespaces": [namespace(subnet)], "natOutgoing": true });
            self.cluster.subnet(&subnet_name(subnet), &spec);
        }
        if self.scheme.leaves_by_nodes() {
            self.cluster.subnet(JOIN, &json!({ "cidrBlock": JOIN_CIDR }));
        }
        let egress = match self.scheme {
            Scheme::Localnet => Some(Egress::Localnet("169.254.77.0/30".parse().unwrap())),
            Scheme::Join => Some(Egress::Join),
            _ => None,
        };
        self.cluster.engine.set::<Egress>(&api::DEFAULT_VPC.into(), egress, Age(0));
        if self.scheme == Scheme::Join {
            for node in 0..NODES {
                let addresses = vec![node_ip(node).into()];
                let recorded = Ok(Some(node_record(node)));
                let (name, uid) = (node_name(node).into(), format!("uid-{node}").into());
                self.cluster.engine.set::<Node>(&name, Some(Node { uid, created: 0, addresses, chassis: None, recorded }), Age(0));
            }
        }
        let mut operations = self.rows_of_rules();
        operations.extend(self.scheme.of_nodes(&cidrs));
        self.commit(operations).await;
    }

    /// Makes it that many pods, each on its chassis.
    pub async fn grow(&mut self, pods: usize) {
        while self.pods < pods {
            let operations = self.add((pods - self.pods).min(BATCH));
            self.commit(operations).await;
        }
        self.wait_for(nb_global::SB_CFG).await;
        self.bind().await;
    }

    /// Milliseconds for each of some pods that are added one by one: from the transaction with its rows until the southbound
    /// database holds what follows from them; and what `ovn-northd` computed meanwhile.
    pub async fn add_one_by_one(&mut self, pods: usize) -> (Vec<f64>, Vec<f64>) {
        let (mut took, mut computed) = (Vec::new(), Vec::new());
        for _ in 0..pods {
            // Nobody is still at the one before: each answer is of another turn of its loop, in which it does what it heard of.
            self.reach(nb_global::HV_CFG).await;
            for _ in 0..3 {
                run(Command::new("ovn-appctl").arg("-t").arg(&self.northd_control).arg("status"));
            }
            let operations = self.add(1);
            let (began, before) = (Instant::now(), self.northd.computed());
            self.commit(operations).await;
            self.wait_for(nb_global::SB_CFG).await;
            let name = Arc::clone(&self.unbound.last().unwrap().name);
            let there = |replica: &Replica| replica.rows(port_binding::TABLE).any(|row| row.text(port_binding::LOGICAL_PORT) == &*name);
            self.bindings.until(there).await;
            took.push(began.elapsed().as_secs_f64() * 1e3);
            computed.push((self.northd.computed() - before).as_secs_f64() * 1e3);
        }
        (took, computed)
    }

    /// Adds pods to the cluster: the operations that say so.
    fn add(&mut self, count: usize) -> Vec<Operation> {
        let numbers = self.pods..self.pods + count;
        self.pods += count;
        let mut keys = Vec::new();
        for number in numbers {
            let (node, subnet) = (number % NODES, number / NODES % SUBNETS);
            let metadata = json!({ "name": format!("pod-{number}"), "namespace": namespace(subnet), "uid": format!("uid-{number}") });
            let view = json!({ "metadata": metadata, "spec": { "nodeName": node_name(node) } });
            let (key, pod, age) = input::pod(&serde_json::from_value(view).unwrap());
            self.cluster.engine.set::<Pod>(&key, pod, age);
            keys.push((key.port(), node, subnet));
        }
        let mut operations = self.rows_of_rules();
        for (name, node, subnet) in keys {
            let address = self.cluster.ipam.holding(&name).unwrap().addresses[0].to_string();
            let port = Port { name, node, subnet, address };
            operations.extend(self.scheme.of_pod(&port));
            self.unbound.push(port);
        }
        operations
    }

    fn rows_of_rules(&mut self) -> Vec<Operation> {
        self.cluster.settle();
        let operations = self.cluster.difference().0;
        self.cluster.commit(operations.clone());
        operations
    }

    /// Commits, and counts on.
    async fn commit(&mut self, mut operations: Vec<Operation>) {
        self.configuration += 1;
        let row = vec![("nb_cfg", self.configuration.into_datum())];
        operations.push(Operation::Update { table: "NB_Global", condition: vec![], row });
        self.global.client.transact(&operations).await.unwrap();
    }

    /// Counts on, and waits until this counter has followed.
    async fn reach(&mut self, counter: Column<i64>) {
        self.commit(vec![]).await;
        self.wait_for(counter).await;
    }

    async fn wait_for(&mut self, counter: Column<i64>) {
        let wanted = self.configuration;
        self.global.until(|replica| replica.rows(nb_global::TABLE).all(|row| integer(row.get(counter)) >= wanted)).await;
    }

    /// Gives every port to its chassis: the real one claims its own, and for the others their rows say so.
    async fn bind(&mut self) {
        let ports = std::mem::take(&mut self.unbound);
        let (own, others): (Vec<_>, Vec<_>) = ports.iter().partition(|port| port.node == 0);
        for others in others.chunks(BATCH) {
            let binding = |port: &&Port| {
                let condition = Condition { column: "logical_port", function: Function::Eq, value: port.name.to_string().into_datum() };
                let row = vec![("chassis", chassis_key(port.node).uuid(&sb::SCHEMA).into_datum()), ("up", true.into_datum())];
                Operation::Update { table: "Port_Binding", condition: vec![condition], row }
            };
            let operations: Vec<_> = others.iter().map(binding).collect();
            let client = self.bindings.client.clone();
            let mut answer = pin!(client.transact(&operations));
            // The answer comes after the updates, which somebody must take in.
            let answer = loop {
                tokio::select! {
                    answer = &mut answer => break answer,
                    _ = self.bindings.next() => {}
                }
            };
            assert!(answer.unwrap().iter().all(|result| result.count == Some(1)), "a port is not in the southbound database");
        }
        self.chassis.plug(own.iter().map(|port| &*port.name));
        self.bound += ports.len();
        let bound = self.bound;
        let has_chassis = |replica: &Replica| {
            replica
                .rows(port_binding::TABLE)
                .filter(|row| row.get(port_binding::CHASSIS).is_some_and(|chassis| !chassis.atoms().is_empty()))
                .count()
        };
        self.bindings.until(|replica| has_chassis(replica) == bound).await;
    }

    /// OpenFlow flows of the real chassis, when it has caught up, and finds the same when it computes all of them once more.
    pub async fn settled_flows(&mut self) -> u64 {
        let mut last = None;
        loop {
            // Its count alone does not tell: after thousands of ports at once it was seen to follow before the flows did.
            self.chassis.recompute();
            self.reach(nb_global::HV_CFG).await;
            let flows = self.chassis.flows();
            if last.replace(flows) == Some(flows) {
                return flows;
            }
        }
    }

    /// Rows of the tables that ways out differ in, by name.
    pub async fn rows(&self) -> BTreeMap<&'static str, usize> {
        let northbound = [logical_router_static_route::TABLE, logical_router_policy::TABLE, port_group::TABLE];
        let southbound = [logical_flow::TABLE, address_set::TABLE];
        let mut rows = BTreeMap::new();
        for (database, schema, tables) in [(&self.northbound, &nb::SCHEMA, &northbound[..]), (&self.southbound, &sb::SCHEMA, &southbound)] {
            let monitored = Monitored { schema, tables: tables.iter().map(|table| (*table, vec![0])).collect() };
            let follower = Follower::start(&database.remote(), monitored).await;
            rows.extend(tables.iter().map(|table| (schema.table(*table).name, follower.replica.len(*table))));
        }
        rows
    }
}

fn namespace(subnet: usize) -> String {
    format!("n{subnet}")
}

fn chassis_key(node: usize) -> RowKey {
    RowKey::new(sb::chassis::TABLE, node_name(node))
}

/// A chassis that is but its rows.
fn other_chassis(node: usize) -> [Operation; 2] {
    let (name, address) = (node_name(node), node_ip(node).to_string());
    let encap = RowKey::new(sb::encap::TABLE, name.as_str()).uuid(&sb::SCHEMA);
    let insert = |table, uuid, row| Operation::Insert { table, uuid: Some(uuid), name: None, row };
    [
        insert(
            "Encap",
            encap,
            vec![
                ("type", "geneve".to_owned().into_datum()),
                ("ip", address.into_datum()),
                ("chassis_name", name.clone().into_datum()),
                ("options", Datum::map(vec![("csum".into(), "true".into())])),
            ],
        ),
        insert(
            "Chassis",
            chassis_key(node).uuid(&sb::SCHEMA),
            vec![("name", name.clone().into_datum()), ("hostname", name.into_datum()), ("encaps", Datum::One(encap.into()))],
        ),
    ]
}

fn one_table(schema: &'static DatabaseSchema, table: TableId, columns: Vec<u16>) -> Monitored {
    Monitored { schema, tables: vec![(table, columns)] }
}

fn integer(datum: Option<&Datum>) -> i64 {
    match datum.map(Datum::atoms) {
        Some([ovsdb_types::Atom::Integer(value)]) => *value,
        other => panic!("no integer: {other:?}"),
    }
}
