//! The part of the northbound database that is ours, and how rows are spelled.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::{MacAddr, VENDOR};
use ovsdb_types::nb::{
    acl, dhcp_options as dhcp, gateway_chassis as chassis, logical_router as lr, logical_router_policy as policy,
    logical_router_port as lrp, logical_router_static_route as route, logical_switch as ls, logical_switch_port as lsp, nb_global,
    port_group as group, static_mac_binding as binding,
};
use ovsdb_types::{
    Atom, Column, Datum, Element, Fact as NbFact, FactValue as NbValue, IndexDef, IntoDatum, Monitored, Ownership, Row, RowKey, TableId, nb,
};

use crate::fact::{Fact, FactValue};
use crate::{dhcp as answers, egress, interconnection, migration, node, routes, underlay};

/// Key in `NB_Global:external_ids` that the controller sets, to `true`, with the transaction that completes the database.
/// Where it is missing, the database was made anew, and `ovn-northd` must not act on what it does not hold yet.
pub const COMPLETE: &str = "ferrovia-complete";

/// What the controller watches of the northbound database.
#[must_use]
pub fn monitored() -> Monitored {
    let routers = [lr::TABLE, lrp::TABLE, chassis::TABLE, route::TABLE, policy::TABLE, binding::TABLE];
    let switches = [ls::TABLE, lsp::TABLE, group::TABLE, acl::TABLE, dhcp::TABLE];
    Monitored::tables(&nb::SCHEMA, &[&routers[..], &switches[..], &[nb_global::TABLE]].concat())
}

/// The indexes by which rows of an earlier controller are found.
#[must_use]
pub fn indexes() -> Vec<IndexDef> {
    let names = [
        (lr::TABLE, lr::NAME.index),
        (lrp::TABLE, lrp::NAME.index),
        (ls::TABLE, ls::NAME.index),
        (lsp::TABLE, lsp::NAME.index),
        (group::TABLE, group::NAME.index),
        (chassis::TABLE, chassis::NAME.index),
    ];
    names.map(|(table, column)| IndexDef { table, columns: vec![column] }).into()
}

/// Key in the options of a router port.
const MTU: &str = "gateway_mtu";

/// The tables and columns that the rules manage. Everything else in a row is left alone.
#[must_use]
pub fn ownership() -> Vec<Ownership> {
    let table = |table, name: u16, mark: u16, columns: &[u16], members: &[u16]| Ownership {
        table,
        columns: [&[name], columns].concat(),
        maps: vec![(mark, &["vendor"])],
        members: members.to_vec(),
        entries: Vec::new(),
        identity: Some(name),
        mark: Some(mark),
        singleton: false,
        dispensable: false,
    };
    let mut routers =
        table(lr::TABLE, lr::NAME.index, lr::EXTERNAL_IDS.index, &[], &[lr::POLICIES.index, lr::PORTS.index, lr::STATIC_ROUTES.index]);
    routers.maps.push((lr::OPTIONS.index, &[]));
    let mut router_ports = table(
        lrp::TABLE,
        lrp::NAME.index,
        lrp::EXTERNAL_IDS.index,
        &[lrp::MAC.index, lrp::NETWORKS.index, lrp::IPV6_RA_CONFIGS.index],
        &[lrp::GATEWAY_CHASSIS.index],
    );
    router_ports.maps.push((lrp::OPTIONS.index, &[MTU]));
    let switches = table(ls::TABLE, ls::NAME.index, ls::EXTERNAL_IDS.index, &[], &[ls::PORTS.index]);
    let mut ports = table(
        lsp::TABLE,
        lsp::NAME.index,
        lsp::EXTERNAL_IDS.index,
        &[
            lsp::TYPE.index,
            lsp::ADDRESSES.index,
            lsp::PORT_SECURITY.index,
            lsp::TAG.index,
            lsp::DHCPV4_OPTIONS.index,
            lsp::DHCPV6_OPTIONS.index,
        ],
        &[],
    );
    ports.maps = vec![
        (lsp::EXTERNAL_IDS.index, &["vendor", "ls", "pod", node::MARK]),
        (lsp::OPTIONS.index, &["router-port", "network_name", migration::ACTIVATION]),
    ];
    let ways = Ownership {
        table: route::TABLE,
        columns: vec![route::IP_PREFIX.index, route::NEXTHOP.index, route::POLICY.index, route::ROUTE_TABLE.index],
        maps: vec![(route::EXTERNAL_IDS.index, &["vendor", egress::MARK, routes::MARK])],
        members: Vec::new(),
        entries: Vec::new(),
        identity: None,
        mark: Some(route::EXTERNAL_IDS.index),
        singleton: false,
        dispensable: false,
    };
    let policies = Ownership {
        table: policy::TABLE,
        columns: vec![policy::PRIORITY.index, policy::MATCH.index, policy::ACTION.index, policy::NEXTHOPS.index],
        maps: vec![(policy::EXTERNAL_IDS.index, &["vendor", egress::MARK, node::MARK, egress::INSIDE_MARK, interconnection::MARK])],
        mark: Some(policy::EXTERNAL_IDS.index),
        ..ways.clone()
    };
    let mut groups = table(group::TABLE, group::NAME.index, group::EXTERNAL_IDS.index, &[], &[group::PORTS.index, group::ACLS.index]);
    groups.maps = vec![(group::EXTERNAL_IDS.index, &["vendor", node::MARK, migration::GROUP])];
    let rules = Ownership {
        table: acl::TABLE,
        columns: vec![acl::DIRECTION.index, acl::PRIORITY.index, acl::MATCH.index, acl::ACTION.index],
        maps: vec![(acl::EXTERNAL_IDS.index, &["vendor", migration::GROUP])],
        mark: Some(acl::EXTERNAL_IDS.index),
        ..ways.clone()
    };
    let columns = [chassis::CHASSIS_NAME.index, chassis::PRIORITY.index];
    let gateways = table(chassis::TABLE, chassis::NAME.index, chassis::EXTERNAL_IDS.index, &columns, &[]);
    let global = Ownership {
        table: nb_global::TABLE,
        columns: Vec::new(),
        maps: Vec::new(),
        entries: vec![nb_global::OPTIONS.index],
        mark: None,
        singleton: true,
        ..ways.clone()
    };
    // Has no place for a mark: it is ours as its router port is. OVN before 22.06 asks nodes instead, and they answer.
    let bindings = Ownership {
        table: binding::TABLE,
        columns: vec![binding::LOGICAL_PORT.index, binding::IP.index, binding::MAC.index, binding::OVERRIDE_DYNAMIC_MAC.index],
        maps: Vec::new(),
        mark: None,
        dispensable: true,
        ..ways.clone()
    };
    let answers = Ownership {
        table: dhcp::TABLE,
        columns: vec![dhcp::CIDR.index, dhcp::OPTIONS.index],
        maps: vec![(dhcp::EXTERNAL_IDS.index, &["vendor", answers::MARKS[0], answers::MARKS[1], answers::PORT_MARK])],
        mark: Some(dhcp::EXTERNAL_IDS.index),
        ..ways.clone()
    };
    vec![routers, router_ports, ways, policies, switches, ports, groups, rules, gateways, bindings, answers, global]
}

/// Whether a row that carries our mark, and that no rule wants, is of a shape that some rule makes, and so may go.
/// Rows of features that are not there yet, left by an earlier controller, stay.
#[must_use]
pub fn claimed(table: TableId, row: &Row<'_>) -> bool {
    let has = |column: Column<BTreeMap<String, String>>, key: &str| row.get(column).and_then(|d| d.get(key)).is_some();
    if table == lsp::TABLE {
        let name = row.text(lsp::NAME);
        // Those of the transit switch belong to ovn-ic.
        let router = row.text(lsp::TYPE) == "router" && !name.starts_with("ts-");
        let exit = row.text(lsp::TYPE) == "localnet" && (name.starts_with("public_") || underlay::is_port(name));
        let node = name.starts_with("node-");
        return router || exit || (row.text(lsp::TYPE).is_empty() && (has(lsp::EXTERNAL_IDS, "pod") || node));
    }
    if table == lrp::TABLE {
        // Peerings, ports for BFD, and those to the transit switch belong to features to come.
        let name = row.text(lrp::NAME);
        return row.get(lrp::PEER).is_none_or(|d| d.atoms().is_empty()) && !name.starts_with("bfd@") && !name.ends_with("-ts");
    }
    if table == ls::TABLE {
        return !matches!(row.text(ls::NAME), "external" | "ts");
    }
    if table == route::TABLE {
        return has(route::EXTERNAL_IDS, egress::MARK) || has(route::EXTERNAL_IDS, routes::MARK);
    }
    if table == policy::TABLE {
        let of = |key| has(policy::EXTERNAL_IDS, key);
        if of(interconnection::MARK) {
            return true;
        }
        // An earlier controller's of gateways for a whole subnet belong to features to come.
        return match row.get(policy::PRIORITY).map(Datum::atoms) {
            Some([Atom::Integer(node::TO_NODE | node::LEAVE)]) => of(node::MARK) || of(egress::MARK),
            Some([Atom::Integer(egress::INSIDE)]) => of(egress::INSIDE_MARK),
            _ => false,
        };
    }
    if table == acl::TABLE {
        return has(acl::EXTERNAL_IDS, migration::GROUP);
    }
    if table == group::TABLE {
        if has(group::EXTERNAL_IDS, migration::GROUP) {
            return true;
        }
        // One for the pods of a node; or, as an earlier controller has them, of each subnet on it.
        let name = row.text(group::NAME);
        return has(group::EXTERNAL_IDS, node::MARK) && (name.starts_with(node::GROUP) || has(group::EXTERNAL_IDS, egress::INSIDE_MARK));
    }
    if table == dhcp::TABLE {
        return answers::MARKS.into_iter().all(|key| has(dhcp::EXTERNAL_IDS, key));
    }
    table == lr::TABLE || table == binding::TABLE || (table == chassis::TABLE && row.text(chassis::NAME).contains("-public_"))
}

/// The same where pods do not leave by rules of ours: by an earlier controller's they go on leaving.
#[must_use]
pub fn claimed_but_ways_out(table: TableId, row: &Row<'_>) -> bool {
    let has = |column: Column<BTreeMap<String, String>>, key: &str| row.get(column).and_then(|d| d.get(key)).is_some();
    let foreign = |column| has(column, egress::INSIDE_MARK) && !has(column, egress::MARK);
    let of_others = match table {
        policy::TABLE => foreign(policy::EXTERNAL_IDS) && !has(policy::EXTERNAL_IDS, interconnection::MARK),
        group::TABLE => foreign(group::EXTERNAL_IDS),
        _ => false,
    };
    claimed(table, row) && !of_others
}

/// Key of the router port by which `vpc` serves `subnet`.
#[must_use]
pub fn router_port(vpc: &str, subnet: &str) -> RowKey {
    RowKey::new(lrp::TABLE, format!("{vpc}/{subnet}"))
}

/// Name of the router port by which `vpc` serves `subnet`.
pub(crate) fn router_port_name(vpc: &str, subnet: &str) -> String {
    format!("{vpc}-{subnet}")
}

/// What a router's port has.
pub(crate) struct RouterPort<'a> {
    pub(crate) mac: MacAddr,
    /// Its addresses, with the lengths of their prefixes.
    pub(crate) networks: Vec<String>,
    /// What it advertises over IPv6.
    pub(crate) advertised: &'a BTreeMap<String, String>,
    /// MTU in bytes that it keeps to (ovn-nb(5), `Logical_Router_Port:options:gateway_mtu`).
    pub(crate) mtu: Option<u32>,
}

/// A switch, the router port that serves it, and the switch's end of the link between them.
pub(crate) fn switch_on_router<DK, D>(
    name: &str,
    vpc: &str,
    switch_port: String,
    port: RouterPort<'_>,
    out: &mut engine::Out<Fact, DK, D>,
) {
    switch_row(name, out);

    let router_port_name = router_port_name(vpc, name);
    let key = router_port(vpc, name);
    RowFact::new(key.clone())
        .set(lrp::NAME, router_port_name.clone())
        .set(lrp::MAC, port.mac.to_string())
        .set(lrp::NETWORKS, port.networks.into_iter().collect())
        .set(lrp::IPV6_RA_CONFIGS, port.advertised.clone())
        .set(lrp::OPTIONS, port.mtu.map(|mtu| (MTU.to_owned(), mtu.to_string())).into_iter().collect::<BTreeMap<_, _>>())
        .set(lrp::EXTERNAL_IDS, external_ids(&[]))
        .say(out);
    refer(out, router(vpc), lr::PORTS, key);

    let key = RowKey::new(lsp::TABLE, format!("router/{name}/{vpc}"));
    RowFact::new(key.clone())
        .set(lsp::NAME, switch_port)
        .set(lsp::TYPE, "router".to_owned())
        .set(lsp::ADDRESSES, ["router".to_owned()].into())
        .set(lsp::OPTIONS, map(&[("router-port", &router_port_name)]))
        .set(lsp::EXTERNAL_IDS, external_ids(&[]))
        .say(out);
    refer(out, switch(name), ls::PORTS, key);
}

/// A switch, on no router.
pub(crate) fn switch_row<DK, D>(name: &str, out: &mut engine::Out<Fact, DK, D>) {
    RowFact::new(switch(name)).set(ls::NAME, name.to_owned()).set(ls::EXTERNAL_IDS, external_ids(&[])).say(out);
}

/// The port by which a switch is connected to the physical network, on every node that has a bridge for it. Untagged with VLAN 0.
pub(crate) fn localnet_port<DK, D>(of: &str, name: String, network: &str, vlan: u16, out: &mut engine::Out<Fact, DK, D>) {
    let key = RowKey::new(lsp::TABLE, format!("localnet/{of}"));
    RowFact::new(key.clone())
        .set(lsp::NAME, name)
        .set(lsp::TYPE, "localnet".to_owned())
        // Whoever answers there, such as a gateway, need not be told to OVN.
        .set(lsp::ADDRESSES, ["unknown".to_owned()].into())
        .set(lsp::OPTIONS, map(&[("network_name", network)]))
        .set(lsp::TAG, (vlan != 0).then_some(i64::from(vlan)))
        .set(lsp::EXTERNAL_IDS, external_ids(&[]))
        .say(out);
    refer(out, switch(of), ls::PORTS, key);
}

/// What the router of `vpc` does with what matches.
pub(crate) struct Policy<'a> {
    pub(crate) key: String,
    pub(crate) priority: i64,
    pub(crate) matching: String,
    pub(crate) action: &'a str,
    pub(crate) via: &'a [IpAddr],
    /// Further keys in `external_ids`.
    pub(crate) marks: &'a [(&'a str, &'a str)],
}

impl Policy<'_> {
    pub(crate) fn say<DK, D>(self, vpc: &str, out: &mut engine::Out<Fact, DK, D>) {
        let key = RowKey::new(policy::TABLE, self.key);
        RowFact::new(key.clone())
            .set(policy::PRIORITY, self.priority)
            .set(policy::MATCH, self.matching)
            .set(policy::ACTION, self.action.to_owned())
            .set(policy::NEXTHOPS, self.via.iter().map(ToString::to_string).collect())
            .set(policy::EXTERNAL_IDS, external_ids(self.marks))
            .say(out);
        refer(out, router(vpc), lr::POLICIES, key);
    }
}

/// How a match calls the family of an address (ovn-sb(5), `Logical_Flow:match`).
pub(crate) const fn family(of: IpAddr) -> &'static str {
    if of.is_ipv4() { "ip4" } else { "ip6" }
}

/// Key of a VPC's router.
pub(crate) fn router(vpc: &str) -> RowKey {
    RowKey::new(lr::TABLE, vpc)
}

/// Key of a subnet's switch.
pub(crate) fn switch(subnet: &str) -> RowKey {
    RowKey::new(ls::TABLE, subnet)
}

/// A row under construction.
pub(crate) struct RowFact {
    key: RowKey,
    columns: BTreeMap<u16, Datum>,
}

impl RowFact {
    pub(crate) const fn new(key: RowKey) -> Self {
        Self { key, columns: BTreeMap::new() }
    }

    /// Sets a column. What equals the column's default is left out, as the database does.
    pub(crate) fn set<T: IntoDatum>(mut self, column: Column<T>, value: T) -> Self {
        debug_assert_eq!(column.table, self.key.table);
        let value = value.into_datum();
        if value != Datum::default_of(nb::SCHEMA.table(column.table).column(column.index)) {
            self.columns.insert(column.index, value);
        }
        self
    }

    pub(crate) fn say<DK, D>(self, out: &mut engine::Out<Fact, DK, D>) {
        let columns: Arc<[(u16, Datum)]> = self.columns.into_iter().collect();
        out.say(Fact::Northbound(NbFact::Row(self.key)), FactValue::Northbound(NbValue::Columns(columns)));
    }
}

/// Says that the set `column` of `row` refers to `target`.
pub(crate) fn refer<T, DK, D>(out: &mut engine::Out<Fact, DK, D>, row: RowKey, column: Column<T>, target: RowKey) {
    out.say(Fact::Northbound(NbFact::Member(row, column.index, Element::Row(target))), FactValue::Northbound(NbValue::Present));
}

/// `external_ids` with our mark.
pub(crate) fn external_ids(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    std::iter::once(&("vendor", VENDOR)).chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A map of texts.
pub(crate) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}
