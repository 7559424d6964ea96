//! What leaves through a node, as subnets have it. Pure.

use std::net::IpAddr;

use api::{Cidrs, DEFAULT_VPC, OVN_PROVIDER, v1};
use ipnet::IpNet;

use super::same_family;

/// What leaves through the host: ranges of the default VPC's subnets, and what leaves under the node's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exits {
    /// All ranges.
    pub(crate) ranges: Vec<IpNet>,
    /// Those whose addresses are translated (`natOutgoing`).
    pub(crate) translated: Vec<IpNet>,
    /// Exceptions, of which the first that matches decides.
    pub(crate) exceptions: Vec<Exception>,
}

/// What of a range that is translated leaves otherwise (`natOutgoingPolicyRules`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    /// The subnet's range.
    pub(crate) range: IpNet,
    /// Sources in it; any when empty.
    pub(crate) sources: Vec<IpNet>,
    /// Destinations; any when empty.
    pub(crate) destinations: Vec<IpNet>,
    /// Whether this is translated (`nat`), or keeps its address (`forward`).
    pub(crate) translated: bool,
}

impl Exits {
    /// What leaves of one subnet; `None` when it does not leave through the node.
    pub(crate) fn of(spec: &v1::SubnetSpec) -> Option<Self> {
        let is = |field: &Option<String>, usual: &str| field.as_deref().is_none_or(|value| value.is_empty() || value == usual);
        let carried = is(&spec.provider, OVN_PROVIDER) || spec.provider.as_deref().is_some_and(|provider| provider.ends_with(".ovn"));
        if !carried || !is(&spec.vpc, DEFAULT_VPC) || !is(&spec.vlan, "") {
            return None;
        }
        // A range that cannot be read has no switch either; the controller says so.
        let cidrs: Cidrs = spec.cidr_block.as_deref()?.parse().ok()?;
        let ranges: Vec<IpNet> = cidrs.iter().collect();
        if spec.nat_outgoing != Some(true) {
            return Some(Self { ranges, ..Self::default() });
        }
        let rules = spec.nat_outgoing_policy_rules.iter().flatten();
        let exceptions = rules.flat_map(|rule| ranges.iter().filter_map(|range| Exception::of(rule, *range))).collect();
        Some(Self { translated: ranges.clone(), ranges, exceptions })
    }

    /// What leaves of several.
    pub(crate) fn of_all<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        for exits in all {
            sum.ranges.extend(&exits.ranges);
            sum.translated.extend(&exits.translated);
            sum.exceptions.extend_from_slice(&exits.exceptions);
        }
        sum
    }
}

impl Exception {
    /// The part of a rule that is for a range. What admission would have refused says nothing.
    fn of(rule: &v1::NatOutgoingPolicyRule, range: IpNet) -> Option<Self> {
        let matching = rule.r#match.clone().unwrap_or_default();
        let translated = match rule.action.as_deref()? {
            "nat" => true,
            "forward" => false,
            _ => return None,
        };
        let (sources, destinations) = (nets(matching.src_ips.as_deref())?, nets(matching.dst_ips.as_deref())?);
        // Each list is of one family: one of the other says nothing of this range.
        let is_for = |nets: &[IpNet]| nets.iter().all(|net| same_family(net.addr(), range.addr()));
        (is_for(&sources) && is_for(&destinations)).then_some(Self { range, sources, destinations, translated })
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

    fn exits(spec: serde_json::Value) -> Option<Exits> {
        Exits::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn subnets_of_the_default_vpc_leave_and_rules_are_for_their_family() {
        let rules = json!([
            { "action": "forward", "match": { "dstIPs": "192.0.2.0/24,198.51.100.1" } },
            { "action": "nat", "match": { "srcIPs": "fd00::5" } },
        ]);
        let both = exits(json!({ "cidrBlock": "10.16.0.0/16,fd00::/64", "natOutgoing": true, "natOutgoingPolicyRules": rules })).unwrap();
        assert_eq!(both.ranges, both.translated);
        let shown: Vec<_> =
            both.exceptions.iter().map(|e| (e.range.to_string(), e.sources.len(), e.destinations.len(), e.translated)).collect();
        assert_eq!(shown, [("10.16.0.0/16".to_owned(), 0, 2, false), ("fd00::/64".to_owned(), 1, 0, true)]);
        let routed = exits(json!({ "cidrBlock": "10.17.0.0/16", "vpc": "ovn-cluster", "natOutgoingPolicyRules": rules })).unwrap();
        assert_eq!((routed.translated.len(), routed.exceptions.len()), (0, 0));
        for other in
            [json!({ "vpc": "blue" }), json!({ "provider": "macvlan.default" }), json!({ "vlan": "v7" }), json!({ "cidrBlock": "x" })]
        {
            let mut spec = json!({ "cidrBlock": "10.16.0.0/16" });
            spec.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
            assert_eq!(exits(spec), None);
        }
        assert_eq!(Exits::of_all([&both, &routed].into_iter()).ranges.len(), 3);
    }
}
