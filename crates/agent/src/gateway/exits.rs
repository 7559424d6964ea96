//! What leaves through a node, as subnets have it. Pure.

use std::net::IpAddr;

use api::{Cidrs, DEFAULT_VPC, HostRanges, JOIN_SUBNET, OVN_PROVIDER, v1};
use ipnet::IpNet;

use super::external::External;
use super::same_family;

/// What leaves through the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exits {
    /// Of the default VPC.
    pub(crate) own: Leaving,
    /// Of the others, by name.
    pub(crate) others: Vec<Other>,
    /// Whether pods of some subnet of the default VPC leave by chosen nodes.
    pub(crate) central: bool,
}

/// What leaves of a VPC besides the default one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Other {
    /// VPC.
    pub(crate) vpc: String,
    /// Number of its link ([`Transit::numbered`]).
    pub(crate) link: u16,
    /// What leaves.
    pub(crate) leaving: Leaving,
}

/// Ranges of the subnets of a VPC, and what leaves under the node's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaving {
    /// All ranges.
    pub(crate) ranges: Vec<IpNet>,
    /// Those whose addresses are translated (`natOutgoing`).
    pub(crate) translated: Vec<Translated>,
    /// Exceptions, of which the first that matches decides.
    pub(crate) exceptions: Vec<Exception>,
    /// Those that leave by a next hop of their own (`externalEgressGateway`).
    pub(crate) external: Vec<External>,
    /// Those of which the host need see nothing: they keep their addresses, and leave by the node that a pod is on.
    pub(crate) kept: Vec<IpNet>,
}

/// A range whose addresses are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translated {
    pub(crate) range: IpNet,
    /// To this address; to that of the node if there is none.
    pub(crate) under: Option<IpAddr>,
}

/// What of a range that is translated leaves otherwise (`natOutgoingPolicyRules`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    /// The subnet's range.
    pub(crate) of: Translated,
    /// Sources in it; any when empty.
    pub(crate) sources: Vec<IpNet>,
    /// Destinations; any when empty.
    pub(crate) destinations: Vec<IpNet>,
    /// Whether this is translated (`nat`), or keeps its address (`forward`).
    pub(crate) translated: bool,
}

/// A subnet that OVN carries, whose pods may leave through the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    vpc: String,
    created: i64,
    cidrs: Cidrs,
    central: bool,
    leaving: Leaving,
}

impl Source {
    /// What leaves of one subnet through a node; `None` when it does not leave through nodes whatever its VPC says.
    pub(crate) fn of(subnet: &v1::Subnet, node: &str) -> Option<Self> {
        let spec = &subnet.spec;
        let is = |field: &Option<String>, usual: &str| field.as_deref().is_none_or(|value| value.is_empty() || value == usual);
        let carried = is(&spec.provider, OVN_PROVIDER) || spec.provider.as_deref().is_some_and(|provider| provider.ends_with(".ovn"));
        if !carried || !is(&spec.vlan, "") {
            return None;
        }
        // A range that cannot be read has no switch either; the controller says so.
        let cidrs: Cidrs = spec.cidr_block.as_deref()?.parse().ok()?;
        let ranges: Vec<IpNet> = cidrs.iter().collect();
        let leaving = if spec.nat_outgoing == Some(true) {
            let own = own_addresses(spec, node);
            let under = |range: &IpNet| own.iter().copied().find(|own| same_family(*own, range.addr()));
            let translated: Vec<Translated> = ranges.iter().map(|range| Translated { range: *range, under: under(range) }).collect();
            let rules = spec.nat_outgoing_policy_rules.iter().flatten();
            let exceptions = rules.flat_map(|rule| translated.iter().filter_map(|of| Exception::of(rule, *of))).collect();
            Leaving { translated, ranges, exceptions, ..Leaving::default() }
        } else {
            // Of others the host sees one direction anyway, and must see both.
            let is_kept =
                spec.external_egress().is_none() && !spec.is_centralized() && subnet.metadata.name.as_deref() != Some(JOIN_SUBNET);
            let kept = if is_kept { ranges.clone() } else { Vec::new() };
            let external = if is_way_out(spec, node) { External::of(spec, &ranges) } else { Vec::new() };
            Leaving { ranges, external, kept, ..Leaving::default() }
        };
        let (vpc, created) = (spec.vpc_name().to_owned(), api::created(&subnet.metadata));
        Some(Self { vpc, created, cidrs, central: spec.is_centralized(), leaving })
    }

    fn ranges<'a>(&'a self, subnet: &'a str) -> HostRanges<'a> {
        HostRanges { vpc: &self.vpc, subnet, created: self.created, cidrs: self.cidrs }
    }
}

impl Leaving {
    fn add(&mut self, other: &Self) {
        self.ranges.extend(&other.ranges);
        self.translated.extend(&other.translated);
        self.exceptions.extend_from_slice(&other.exceptions);
        self.external.extend(&other.external);
        self.kept.extend(&other.kept);
    }
}

impl Exits {
    /// What leaves of these subnets, sorted by name, when these VPCs leave besides the default one, each with its creation in seconds
    /// since 1970.
    pub(crate) fn new(subnets: &[(&str, &Source)], vpcs: &[(i64, &str)]) -> Self {
        let links = api::host_links(vpcs.iter().copied());
        let mut exits = Self::default();
        exits.others.extend(links.iter().map(|(vpc, link)| Other { vpc: (*vpc).to_owned(), link: *link, leaving: Leaving::default() }));
        let leaves = |source: &Source| source.vpc == DEFAULT_VPC || vpcs.iter().any(|(_, vpc)| *vpc == source.vpc);
        let all: Vec<_> = subnets.iter().filter(|(_, source)| leaves(source)).map(|(name, source)| (source.ranges(name), source)).collect();
        for (ranges, source) in &all {
            if source.vpc == DEFAULT_VPC {
                exits.own.add(&source.leaving);
                exits.central |= source.central;
            } else if let Ok(at) = exits.others.binary_search_by(|other| other.vpc.cmp(&source.vpc))
                // To an address that another VPC has the host has no way back.
                && !all.iter().any(|(other, _)| ranges.yield_to(other).is_some())
            {
                exits.others[at].leaving.add(&source.leaving);
            }
        }
        exits
    }

    /// Takes out the ranges that hold one of these addresses, and yields the first: the way to one would take the place of that to the
    /// node's own network.
    pub(crate) fn spare(&mut self, own: &[IpAddr]) -> Option<IpNet> {
        let holds = |range: &IpNet| own.iter().any(|own| range.contains(own));
        let spared = self.leaving().flat_map(|leaving| &leaving.ranges).copied().find(holds);
        for leaving in std::iter::once(&mut self.own).chain(self.others.iter_mut().map(|other| &mut other.leaving)) {
            leaving.ranges.retain(|range| !holds(range));
            leaving.translated.retain(|translated| !holds(&translated.range));
            leaving.exceptions.retain(|exception| !holds(&exception.of.range));
            leaving.external.retain(|external| !holds(&external.range));
            leaving.kept.retain(|range| !holds(range));
        }
        spared
    }

    /// All that leaves.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = &Leaving> {
        std::iter::once(&self.own).chain(self.others.iter().map(|other| &other.leaving))
    }

    /// The addresses, besides the node's, that pods leave under.
    pub(crate) fn under(&self) -> impl Iterator<Item = IpAddr> {
        self.leaving().flat_map(|leaving| &leaving.translated).filter_map(|translated| translated.under)
    }

    /// All ranges.
    pub(crate) fn ranges(&self) -> Vec<IpNet> {
        self.leaving().flat_map(|leaving| &leaving.ranges).copied().collect()
    }
}

/// Whether pods of a subnet may leave through a node: any, but for a centralized subnet that names others.
fn is_way_out(spec: &v1::SubnetSpec, node: &str) -> bool {
    let is_named = |text: &str| api::gateway_nodes(text).is_ok_and(|nodes| nodes.iter().any(|(name, _)| *name == node));
    !spec.is_centralized()
        || spec.gateway_node_selectors.as_ref().is_some_and(|selectors| !selectors.is_empty())
        || spec.gateway_node.as_deref().is_some_and(is_named)
}

/// The addresses that a centralized subnet has for a node. Of what cannot be read the controller tells.
fn own_addresses(spec: &v1::SubnetSpec, node: &str) -> Vec<IpAddr> {
    let text = spec.gateway_node.as_deref().filter(|_| spec.is_centralized());
    let nodes = api::gateway_nodes(text.unwrap_or_default()).unwrap_or_default();
    nodes.into_iter().find(|(name, _)| *name == node).map(|(_, addresses)| addresses).unwrap_or_default()
}

impl Exception {
    /// The part of a rule that is for a range. What admission would have refused says nothing.
    fn of(rule: &v1::NatOutgoingPolicyRule, of: Translated) -> Option<Self> {
        let matching = rule.r#match.clone().unwrap_or_default();
        let translated = match rule.action.as_deref()? {
            "nat" => true,
            "forward" => false,
            _ => return None,
        };
        let (sources, destinations) = (nets(matching.src_ips.as_deref())?, nets(matching.dst_ips.as_deref())?);
        // Each list is of one family: one of the other says nothing of this range.
        let is_for = |nets: &[IpNet]| nets.iter().all(|net| same_family(net.addr(), of.range.addr()));
        (is_for(&sources) && is_for(&destinations)).then_some(Self { of, sources, destinations, translated })
    }
}

/// Addresses and prefixes, joined by commas.
fn nets(text: Option<&str>) -> Option<Vec<IpNet>> {
    let parts = text.unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty());
    let net = |part: &str| part.parse::<IpNet>().ok().or_else(|| part.parse::<IpAddr>().ok().map(IpNet::from));
    parts.map(|part| net(part).map(|net| net.trunc())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn source(name: &str, created: &str, spec: serde_json::Value) -> Option<Source> {
        Source::of(
            &serde_json::from_value(json!({ "metadata": { "name": name, "creationTimestamp": created }, "spec": spec })).unwrap(),
            "n1",
        )
    }

    fn exits(spec: serde_json::Value) -> Option<Leaving> {
        source("s", "2026-01-01T00:00:00Z", spec).map(|source| source.leaving)
    }

    #[test]
    fn subnets_leave_and_rules_are_for_their_family() {
        let rules = json!([
            { "action": "forward", "match": { "dstIPs": "192.0.2.0/24,198.51.100.1" } },
            { "action": "nat", "match": { "srcIPs": "fd00::5" } },
        ]);
        let both = exits(json!({ "cidrBlock": "10.16.0.0/16,fd00::/64", "natOutgoing": true, "natOutgoingPolicyRules": rules })).unwrap();
        assert_eq!(both.ranges, both.translated.iter().map(|translated| translated.range).collect::<Vec<_>>());
        let shown: Vec<_> =
            both.exceptions.iter().map(|e| (e.of.range.to_string(), e.sources.len(), e.destinations.len(), e.translated)).collect();
        assert_eq!(shown, [("10.16.0.0/16".to_owned(), 0, 2, false), ("fd00::/64".to_owned(), 1, 0, true)]);
        let routed = exits(json!({ "cidrBlock": "10.17.0.0/16", "vpc": "ovn-cluster", "natOutgoingPolicyRules": rules })).unwrap();
        assert_eq!((routed.translated.len(), routed.exceptions.len()), (0, 0));
        let fixed = json!({ "cidrBlock": "10.16.0.0/16,fd00::/64", "natOutgoing": true, "gatewayType": "centralized", "gatewayNode": "n0,n1:192.0.2.9" });
        let under: Vec<_> = exits(fixed).unwrap().translated.iter().map(|translated| translated.under).collect();
        assert_eq!(under, [Some("192.0.2.9".parse().unwrap()), None]);
        let external = |gateway: &str| {
            let own =
                json!({ "gatewayType": "centralized", "gatewayNode": gateway, "policyRoutingPriority": 9, "policyRoutingTableID": 9 });
            let mut spec = json!({ "cidrBlock": "10.16.0.0/16,fd00::/64", "externalEgressGateway": "192.0.2.9" });
            spec.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
            exits(spec).unwrap().external.iter().map(|external| external.range.to_string()).collect::<Vec<_>>()
        };
        assert_eq!((external("n0,n1"), external("n0")), (vec!["10.16.0.0/16".to_owned()], Vec::new()));
        let kept = |name: &str, spec| source(name, "2026-01-01T00:00:00Z", spec).unwrap().leaving.kept.len();
        let plain = json!({ "cidrBlock": "10.16.0.0/16,fd00::/64" });
        assert_eq!((kept("s", plain.clone()), kept("join", plain)), (2, 0));
        let others = [
            json!({ "cidrBlock": "10.16.0.0/16", "natOutgoing": true }),
            json!({ "cidrBlock": "10.16.0.0/16", "gatewayType": "centralized", "gatewayNode": "n1" }),
            json!({ "cidrBlock": "10.16.0.0/16", "externalEgressGateway": "192.0.2.9", "policyRoutingPriority": 9, "policyRoutingTableID": 9 }),
        ];
        assert_eq!(others.map(|spec| kept("s", spec)), [0; 3]);
        for other in [json!({ "provider": "macvlan.default" }), json!({ "vlan": "v7" }), json!({ "cidrBlock": "x" })] {
            let mut spec = json!({ "cidrBlock": "10.16.0.0/16" });
            spec.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
            assert_eq!(exits(spec), None);
        }
    }

    #[test]
    fn of_other_vpcs_leaves_what_is_asked_and_nobody_else_has() {
        let subnet = |name, created: &str, vpc, cidr| source(name, created, json!({ "vpc": vpc, "cidrBlock": cidr })).unwrap();
        let subnets = [
            ("blue", subnet("blue", "2026-01-02T00:00:00Z", "blue", "10.20.0.0/16")),
            ("own", subnet("own", "2026-01-03T00:00:00Z", "", "10.16.0.0/16")),
            ("red1", subnet("red1", "2026-01-01T00:00:00Z", "red", "10.20.1.0/24")),
            ("red2", subnet("red2", "2026-01-01T00:00:00Z", "red", "10.16.1.0/24")),
            ("shut", subnet("shut", "2026-01-01T00:00:00Z", "shut", "10.16.0.0/12")),
        ];
        let subnets: Vec<_> = subnets.iter().map(|(name, source)| (*name, source)).collect();
        let exits = Exits::new(&subnets, &[(1, "red"), (2, "blue")]);
        assert_eq!(exits.own.ranges, ["10.16.0.0/16".parse().unwrap()]);
        let shown: Vec<_> = exits.others.iter().map(|other| (other.vpc.as_str(), other.leaving.ranges.len())).collect();
        assert_eq!(shown, [("blue", 0), ("red", 1)], "the older subnet leaves, and none that the default VPC has");
        assert_eq!((exits.ranges().len(), exits.central), (2, false));
        let central = json!({ "cidrBlock": "10.30.0.0/16", "gatewayType": "centralized", "gatewayNode": "n0" });
        let central = source("central", "2026-01-01T00:00:00Z", central).unwrap();
        assert!(Exits::new(&[("central", &central)], &[]).central, "whatever node it names");
        let mut exits = exits;
        let own: [IpAddr; 2] = ["fd00::1".parse().unwrap(), "10.20.1.9".parse().unwrap()];
        assert_eq!(exits.spare(&own).unwrap().to_string(), "10.20.1.0/24");
        assert_eq!((exits.ranges(), exits.spare(&own)), (exits.own.ranges.clone(), None));
    }
}
