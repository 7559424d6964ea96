//! The ways out that are compared: the northbound rows that each needs besides switches, router and ports of pods.

use std::net::Ipv4Addr;
use std::sync::Arc;

use api::DEFAULT_VPC;
use api::annotations::NicRecord;
use ovsdb_types::nb::{
    logical_router as lr, logical_router_policy as policy, logical_router_static_route as route, logical_switch as ls,
    logical_switch_port as lsp, port_group as group,
};
use ovsdb_types::{Column, Condition, Datum, IntoDatum as _, Mutation, Mutator, Operation, RowKey, Uuid, nb};

pub const NODES: usize = 100;
pub const SUBNETS: usize = 5;

/// The subnet in which each node has an address of its own, by which pods leave.
pub const JOIN: &str = "join";
pub const JOIN_CIDR: &str = "100.64.0.0/16";
const JOIN_GATEWAY: &str = "100.64.0.1";

/// A way out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// None: what all of them add to.
    None,
    /// Kube-OVN until 1.9: a route by source for each pod, to its node. Generated for comparison.
    SourceRoutes,
    /// Kube-OVN since 1.9.5: a port group and a policy for each subnet on each node. Generated for comparison.
    SubnetGroups,
    /// A port group and a policy for each node.
    Join,
    /// One route for all.
    Localnet,
}

/// The port of a pod, or of a node.
#[derive(Clone)]
pub struct Port {
    pub name: Arc<str>,
    pub node: usize,
    pub subnet: usize,
    pub address: String,
}

impl Scheme {
    pub const ALL: [Self; 5] = [Self::None, Self::SourceRoutes, Self::SubnetGroups, Self::Join, Self::Localnet];

    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SourceRoutes => "route per pod",
            Self::SubnetGroups => "group per subnet and node",
            Self::Join => "join: group per node",
            Self::Localnet => "localnet",
        }
    }

    /// Whether nodes have ports in the VPC, by which pods leave.
    pub const fn leaves_by_nodes(self) -> bool {
        matches!(self, Self::SourceRoutes | Self::SubnetGroups | Self::Join)
    }

    /// The nodes' own ports.
    pub fn node_ports(self) -> Vec<Port> {
        let nodes = if self.leaves_by_nodes() { 0..NODES } else { 0..0 };
        nodes.map(|node| Port { name: format!("node-{}", node_name(node)).into(), node, subnet: SUBNETS, address: join_ip(node) }).collect()
    }

    /// Rows of nodes and subnets that no rule of ours says.
    pub fn of_nodes(self, cidrs: &[String]) -> Vec<Operation> {
        let mut rows = Rows::default();
        if !matches!(self, Self::SourceRoutes | Self::SubnetGroups) {
            return rows.0;
        }
        for Port { name, node, address, .. } in self.node_ports() {
            let addresses = Datum::One(format!("{} {address}", node_record(node).mac).into());
            let key = RowKey::new(lsp::TABLE, Arc::clone(&name));
            rows.insert(&key, vec![("name", name.to_string().into_datum()), ("addresses", addresses)]);
            rows.refer(RowKey::new(ls::TABLE, JOIN), ls::PORTS, &key);
        }
        // Policies are looked at only for what has a route.
        rows.route("0.0.0.0/0", JOIN_GATEWAY, None);
        if self == Self::SourceRoutes {
            for node in 0..NODES {
                rows.route(&node_ip(node).to_string(), &join_ip(node), None);
            }
            return rows.0;
        }
        for cidr in cidrs.iter().map(String::as_str).chain([JOIN_CIDR]) {
            rows.policy(31_000, format!("ip4.dst == {cidr}"), "allow", None);
        }
        for node in 0..NODES {
            rows.policy(30_000, format!("ip4.dst == {}", node_ip(node)), "reroute", Some(join_ip(node)));
            for name in groups(node) {
                rows.insert(&RowKey::new(group::TABLE, name.as_str()), vec![("name", name.clone().into_datum())]);
                rows.policy(29_000, format!("ip4.src == ${name}_ip4"), "reroute", Some(join_ip(node)));
            }
        }
        rows.0
    }

    /// Rows of a pod that no rule of ours says.
    pub fn of_pod(self, pod: &Port) -> Vec<Operation> {
        let mut rows = Rows::default();
        match self {
            Self::None | Self::Join | Self::Localnet => {}
            Self::SourceRoutes => rows.route(&pod.address, &join_ip(pod.node), Some("src-ip")),
            Self::SubnetGroups => {
                let name = &groups(pod.node)[pod.subnet];
                let port = RowKey::new(lsp::TABLE, Arc::clone(&pod.name));
                rows.refer(RowKey::new(group::TABLE, name.as_str()), group::PORTS, &port);
            }
        }
        rows.0
    }
}

/// Names of the port groups of a node, of each of its subnets.
fn groups(node: usize) -> Vec<String> {
    (0..SUBNETS).map(|subnet| format!("{}.{}", subnet_name(subnet), node_name(node))).collect()
}

/// What is recorded of a node's port.
pub fn node_record(node: usize) -> NicRecord {
    NicRecord {
        subnet: JOIN.into(),
        addresses: vec![join_ip(node).parse().unwrap()],
        mac: format!("02:00:00:01:{:02x}:{:02x}", node / 256, node % 256).parse().unwrap(),
        cidrs: Some(JOIN_CIDR.parse().unwrap()),
        gateways: vec![JOIN_GATEWAY.parse().unwrap()],
        segment: None,
    }
}

pub fn node_name(node: usize) -> String {
    format!("node{node}")
}

pub fn subnet_name(subnet: usize) -> String {
    format!("s{subnet}")
}

/// The address of the node itself, which is also its tunnels'.
pub fn node_ip(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, u8::try_from(node + 1).unwrap())
}

fn join_ip(node: usize) -> String {
    Ipv4Addr::new(100, 64, 0, u8::try_from(node + 2).unwrap()).to_string()
}

/// Operations that add rows.
#[derive(Default)]
struct Rows(Vec<Operation>);

impl Rows {
    fn insert(&mut self, key: &RowKey, row: Vec<(&'static str, Datum)>) {
        let table = nb::SCHEMA.table(key.table).name;
        self.0.push(Operation::Insert { table, uuid: Some(uuid(key)), name: None, row });
    }

    fn refer<T>(&mut self, row: RowKey, column: Column<T>, target: &RowKey) {
        let table = nb::SCHEMA.table(row.table);
        let value = Datum::One(uuid(target).into());
        let mutation = Mutation { column: table.column(column.index).name, mutator: Mutator::Insert, value };
        self.0.push(Operation::Mutate { table: table.name, condition: Condition::row(uuid(&row)), mutations: vec![mutation] });
    }

    fn route(&mut self, prefix: &str, nexthop: &str, policy: Option<&str>) {
        let key = RowKey::new(route::TABLE, format!("bench/{prefix}"));
        let mut row = vec![("ip_prefix", prefix.to_owned().into_datum()), ("nexthop", nexthop.to_owned().into_datum())];
        row.extend(policy.map(|policy| ("policy", policy.to_owned().into_datum())));
        self.insert(&key, row);
        self.refer(RowKey::new(lr::TABLE, DEFAULT_VPC), lr::STATIC_ROUTES, &key);
    }

    fn policy(&mut self, priority: i64, matching: String, action: &str, nexthop: Option<String>) {
        let key = RowKey::new(policy::TABLE, format!("bench/{matching}"));
        let mut row =
            vec![("priority", priority.into_datum()), ("match", matching.into_datum()), ("action", action.to_owned().into_datum())];
        row.extend(nexthop.map(|nexthop| ("nexthops", nexthop.into_datum())));
        self.insert(&key, row);
        self.refer(RowKey::new(lr::TABLE, DEFAULT_VPC), lr::POLICIES, &key);
    }
}

fn uuid(key: &RowKey) -> Uuid {
    key.uuid(&nb::SCHEMA)
}
