//! Static routes of a VPC, and next hops on physical networks: which of them stand in for one another, who watches them, and how nodes
//! tell of those that do not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::v1;

/// Annotation of a node: the next hops that it watches and that do not answer there, joined by commas.
pub const UNREACHABLE: &str = "ferrovia.io/unreachable-next-hops";

/// How many nodes watch the next hops on a physical network: the first of `status.readyNodes` of the `ProviderNetwork`.
pub const WATCHERS: usize = 3;

/// A route of the VPC's router.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Whether the prefix is of sources (`policySrc`), and not of destinations.
    pub by_source: bool,
    /// Prefix.
    pub prefix: IpNet,
    /// Route table; the main one when empty.
    pub table: Box<str>,
    /// Next hop.
    pub via: IpAddr,
}

impl Route {
    /// Reads a route.
    ///
    /// # Errors
    /// The field, its value and what is wrong with it.
    pub fn parse(route: &v1::StaticRoute) -> Result<Self, String> {
        let text = |field: &Option<String>| field.as_deref().unwrap_or_default().trim().to_owned();
        let by_source = match text(&route.policy).as_str() {
            "" | "policyDst" => false,
            "policySrc" => true,
            other => return Err(format!("policy: {other:?} is neither policyDst nor policySrc")),
        };
        let cidr = text(&route.cidr);
        let prefix = cidr.parse::<IpNet>().or_else(|_| cidr.parse::<IpAddr>().map(IpNet::from));
        let prefix = prefix.map_err(|_| format!("cidr: {cidr:?} is neither a prefix nor an address"))?.trunc();
        let hop = text(&route.next_hop_ip);
        let via: IpAddr = hop.parse().map_err(|_| format!("nextHopIP: {hop:?} is no address"))?;
        if via.is_ipv4() != prefix.addr().is_ipv4() {
            return Err(format!("nextHopIP: {via} is not of the family of {prefix}"));
        }
        if !text(&route.bfd_id).is_empty() {
            return Err(
                "bfdId: OVN runs BFD only on ports that are bound to gateway nodes, and the router of a VPC is on every node; next \
                        hops on a Vlan are watched without it"
                    .to_owned(),
            );
        }
        Ok(Self { by_source, prefix, table: text(&route.route_table).into(), via })
    }

    /// Whether it is for all that no other route of the main table is for.
    #[must_use]
    pub fn is_default(&self) -> bool {
        !self.by_source && self.table.is_empty() && self.prefix.prefix_len() == 0
    }
}

/// Routes of a VPC, as far as they can be read, sorted and each once; and what is wrong with the others.
#[must_use]
pub fn parse(routes: &[v1::StaticRoute]) -> (Vec<Route>, Vec<String>) {
    let (mut good, mut bad) = (BTreeSet::new(), Vec::new());
    for (index, route) in routes.iter().enumerate() {
        match Route::parse(route) {
            Ok(route) => drop(good.insert(route)),
            Err(why) => bad.push(format!("spec.staticRoutes[{index}].{why}")),
        }
    }
    (good.into_iter().collect(), bad)
}

/// The next hops that share what is for one prefix (equal-cost multipath): others stand in for one that is lost.
#[must_use]
pub fn shared(routes: &[Route]) -> BTreeSet<IpAddr> {
    let mut groups: BTreeMap<(bool, IpNet, &str), Vec<IpAddr>> = BTreeMap::new();
    for route in routes {
        groups.entry((route.by_source, route.prefix, &route.table)).or_default().push(route.via);
    }
    groups.into_values().filter(|hops| hops.len() > 1).flatten().collect()
}

/// A next hop on a physical network, spelled `<network>.<vlan>/<address>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// Provider network.
    pub network: Box<str>,
    /// VLAN; 0 untagged.
    pub vlan: u16,
    /// Address.
    pub address: IpAddr,
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}/{}", self.network, self.vlan, self.address)
    }
}

/// Why a text is no next hop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no next hop such as net1.100/192.0.2.1")]
pub struct NextHopError(String);

impl FromStr for NextHop {
    type Err = NextHopError;

    fn from_str(text: &str) -> Result<Self, NextHopError> {
        let read = || {
            let (place, address) = text.split_once('/')?;
            // Names of objects may have dots.
            let (network, vlan) = place.rsplit_once('.')?;
            let vlan = vlan.parse().ok().filter(|vlan| *vlan < 4096)?;
            Some(Self { network: network.into(), vlan, address: address.parse().ok()? })
        };
        read().filter(|hop| !hop.network.is_empty()).ok_or_else(|| NextHopError(text.to_owned()))
    }
}

/// What a node says with [`UNREACHABLE`]. What cannot be read is not said.
#[must_use]
pub fn unreachable(noted: Option<&String>) -> BTreeSet<NextHop> {
    noted.map(|text| text.split(',').filter_map(|hop| hop.trim().parse().ok()).collect()).unwrap_or_default()
}

/// The value of [`UNREACHABLE`]; none when all answer.
#[must_use]
pub fn spell_unreachable(hops: &BTreeSet<NextHop>) -> Option<String> {
    (!hops.is_empty()).then(|| hops.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn route(policy: &str, cidr: &str, via: &str) -> v1::StaticRoute {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        v1::StaticRoute { policy: text(policy), cidr: text(cidr), next_hop_ip: text(via), ..v1::StaticRoute::default() }
    }

    #[test]
    fn routes_are_read_and_what_is_wrong_with_one_is_told_by_its_place() {
        let routes = [
            route("", "0.0.0.0/0", "192.0.2.2"),
            route("policyDst", "0.0.0.0/0", "192.0.2.1"),
            route("policySrc", "10.0.0.7/24", "192.0.2.1"),
            route("", "10.1.0.9", "192.0.2.3"),
            route("", "::/0", "192.0.2.1"),
            route("", "anything", "192.0.2.1"),
            route("", "10.0.0.0/8", ""),
            v1::StaticRoute { bfd_id: Some("b".to_owned()), ..route("", "10.0.0.0/8", "192.0.2.1") },
        ];
        let (good, bad) = parse(&routes);
        let shown: Vec<_> = good.iter().map(|r| format!("{} {} {} {}", r.by_source, r.prefix, r.via, r.is_default())).collect();
        let expected = [
            "false 0.0.0.0/0 192.0.2.1 true",
            "false 0.0.0.0/0 192.0.2.2 true",
            "false 10.1.0.9/32 192.0.2.3 false",
            "true 10.0.0.0/24 192.0.2.1 false",
        ];
        assert_eq!(shown, expected);
        assert_eq!(bad.len(), 4);
        assert!(bad[0].starts_with("spec.staticRoutes[4].nextHopIP: 192.0.2.1 is not of the family of ::/0"), "{bad:?}");
        assert!(bad[1].contains("[5].cidr") && bad[2].contains("[6].nextHopIP") && bad[3].contains("[7].bfdId"), "{bad:?}");
        let shared: Vec<_> = shared(&good).iter().map(ToString::to_string).collect();
        assert_eq!(shared, ["192.0.2.1", "192.0.2.2"]);
    }

    #[test]
    fn what_nodes_tell_reads_back() {
        let hops: BTreeSet<NextHop> = ["net1.100/192.0.2.1", "a.b.0/fd00::1"].map(|text| text.parse().unwrap()).into();
        let text = spell_unreachable(&hops).unwrap();
        assert_eq!(text, "a.b.0/fd00::1,net1.100/192.0.2.1");
        assert_eq!(unreachable(Some(&format!("{text}, nonsense"))), hops);
        assert_eq!((unreachable(None), spell_unreachable(&BTreeSet::new())), (BTreeSet::new(), None));
        for bad in ["", "net1/192.0.2.1", "net1.4096/192.0.2.1", ".1/192.0.2.1", "net1.1/"] {
            assert!(bad.parse::<NextHop>().is_err(), "{bad}");
        }
    }
}
