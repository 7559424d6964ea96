//! Ranges that leave by a next hop of their own (`externalEgressGateway`): a rule of policy routing for each, and a default route in the
//! table that it leads to.

use std::net::IpAddr;

use api::v1::SubnetSpec;
use ipnet::IpNet;
use linux::{IpPrefix, Route, Rule};

use super::{GatewayError, same_family};
use crate::node::Node;

/// Who made rules and routes of ours (`rtm_protocol`; none of iproute2's table `rt_protos`).
const PROTOCOL: u8 = 157;

/// A range, and where it leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct External {
    pub(crate) range: IpNet,
    via: IpAddr,
    priority: u32,
    table: u32,
    /// Whether it is of a subnet that leaves by chosen nodes.
    pub(super) central: bool,
}

impl External {
    /// What a subnet says of its ranges. What admission would have refused says nothing.
    pub(crate) fn of(spec: &SubnetSpec, ranges: &[IpNet]) -> Vec<Self> {
        let Some(next_hops) = spec.external_egress() else { return Vec::new() };
        let of_range = |range: &IpNet| {
            let via = next_hops.addresses.iter().copied().find(|via| same_family(*via, range.addr()))?;
            Some(Self { range: *range, via, priority: next_hops.priority, table: next_hops.table, central: spec.is_centralized() })
        };
        ranges.iter().filter_map(of_range).collect()
    }

    fn rule(&self, incoming: &str) -> Option<Rule> {
        let source = IpPrefix::new(self.range.addr(), self.range.prefix_len()).ok()?;
        Some(Rule { priority: self.priority, source, incoming: Some(incoming.to_owned()), table: self.table, protocol: PROTOCOL })
    }

    fn default(&self) -> IpPrefix {
        if self.via.is_ipv4() { IpPrefix::DEFAULT_V4 } else { IpPrefix::DEFAULT_V6 }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// Links by which next hops are reached.
    pub(super) links: Vec<u32>,
    /// What keeps one from being used.
    pub(super) problem: Option<GatewayError>,
}

/// Makes rules and routes what they are to be, for packets that come by these links. Those of others stay.
pub(super) async fn apply(node: &Node, wanted: &[(External, &str)]) -> linux::Result<Ways> {
    let links = &node.links;
    let routes: Vec<Route> = links.routes().await?.into_iter().filter(|route| route.protocol == PROTOCOL).collect();
    let rules: Vec<Rule> = links.rules().await?.into_iter().filter(|rule| rule.protocol == PROTOCOL).collect();
    let (mut ways, mut kept, mut ruled) = (Ways::default(), Vec::new(), Vec::new());
    for (external, incoming) in wanted {
        // On a network of the node's own: who is behind another router is none to send to.
        let device = links.route_to(external.via).await.ok().filter(|(_, via)| via.is_none()).map(|(device, _)| device);
        let Some(device) = device else {
            ways.problem = Some(GatewayError::NoWay(external.via));
            continue;
        };
        let route = Route { table: external.table, protocol: PROTOCOL, ..Route::new(external.default()).via(external.via).dev(device) };
        let is = |other: &Route| {
            (other.destination, other.via, other.device, other.table) == (route.destination, route.via, route.device, route.table)
        };
        let in_its_place = |other: &&Route| (other.table, other.destination) == (route.table, route.destination);
        match kept.iter().find(in_its_place) {
            Some(other) if !is(other) => {
                ways.problem = Some(GatewayError::TableTaken(external.table, external.via));
                continue;
            }
            Some(_) => {}
            None => {
                if !routes.iter().any(is) {
                    links.replace_route(&route).await?;
                }
                kept.push(route);
            }
        }
        ways.links.push(device);
        if let Some(rule) = external.rule(incoming) {
            if !rules.contains(&rule) && !ruled.contains(&rule) {
                links.add_rule(&rule).await?;
            }
            ruled.push(rule);
        }
    }
    for stale in rules.iter().filter(|rule| !ruled.contains(rule)) {
        links.delete_rule(stale).await?;
    }
    let replaced = |route: &Route| kept.iter().any(|kept| (kept.table, kept.destination) == (route.table, route.destination));
    for stale in routes.iter().filter(|route| !replaced(route)) {
        links.delete_route(stale).await?;
    }
    Ok(ways)
}
