//! Subnets on a Vlan without a range (`protocol: Mac`): their ports have MACs alone, and addresses are what a server of the physical network
//! gives to who asks it.

use api::annotations::NicAnnotations;
use api::{Cidrs, OVN_PROVIDER, v1};

use crate::fact::Problem;
use crate::input::text;
use crate::world::Name;

/// `spec.protocol` of such a subnet.
const PROTOCOL: &str = "Mac";

fn bad(field: &str, why: &str) -> Problem {
    Problem { reason: "BadField", message: format!("spec.{field}: {why}") }
}

/// The ranges of a subnet that is to give MACs alone: none. `None` of any other.
///
/// # Errors
/// Names the field that cannot be beside that.
pub(crate) fn ranges(spec: &v1::SubnetSpec) -> Result<Option<Cidrs>, Problem> {
    let named = spec.protocol.as_deref() == Some(PROTOCOL);
    match (text(&spec.cidr_block).is_some(), text(&spec.vlan).is_some()) {
        (true, _) if named => {
            return Err(bad("protocol", "Mac: has no meaning with spec.cidrBlock, from which addresses are given: leave it empty"));
        }
        (false, false) if named => return Err(bad("protocol", "Mac: has no meaning without spec.vlan, on which a server gives addresses")),
        (false, true) => {}
        _ => return Ok(None),
    }
    let is = |field: Option<bool>| field == Some(true);
    // What a router would do, and what OVN answers.
    let set = [
        ("gateway", text(&spec.gateway).is_some()),
        ("gatewayType", spec.is_centralized()),
        ("natOutgoing", is(spec.nat_outgoing)),
        ("externalEgressGateway", text(&spec.external_egress_gateway).is_some()),
        ("logicalGateway", is(spec.logical_gateway)),
        ("u2oInterconnection", is(spec.u2o_interconnection)),
        ("enableDHCP", is(spec.enable_dhcp)),
        ("enableIPv6RA", is(spec.enable_ipv6_ra)),
    ];
    if let Some((field, _)) = set.into_iter().find(|(_, set)| *set) {
        return Err(bad(field, "has no meaning without spec.cidrBlock: addresses and gateway are told by a server on the Vlan"));
    }
    if spec.provider.as_deref().is_some_and(|provider| !provider.is_empty() && provider != OVN_PROVIDER && !provider.ends_with(".ovn")) {
        return Err(bad("provider", "is another plugin's, which takes addresses from here, and without spec.cidrBlock there are none"));
    }
    Ok(Some(Cidrs::NONE))
}

/// Why a NIC cannot have what it asks for there, if so.
pub(crate) fn lacks(subnet: &Name, asked: &NicAnnotations) -> Result<(), Problem> {
    let what = match (asked.addresses.first(), &asked.pool, asked.family) {
        (Some(address), ..) => format!("address {address}"),
        (None, Some(_), _) => "an address of a pool".to_owned(),
        (None, None, Some(_)) => "an address of one family".to_owned(),
        (None, None, None) => return Ok(()),
    };
    Err(Problem { reason: "NoAddresses", message: format!("{what} is asked for, and {}", reason(subnet)) })
}

/// Why a subnet has no addresses.
pub(crate) fn reason(subnet: &Name) -> String {
    format!("subnet {subnet:?} gives MACs alone: addresses are told by a server on its Vlan")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_has_no_meaning_without_a_range_is_named() {
        let read = |spec: Value| ranges(&serde_json::from_value(spec).unwrap()).map_err(|problem| problem.message);
        assert_eq!(read(json!({ "cidrBlock": "10.0.0.0/24", "vlan": "v" })), Ok(None));
        assert_eq!(read(json!({})), Ok(None), "that a range is missing is told elsewhere");
        assert_eq!(read(json!({ "vlan": "v", "gatewayType": "distributed", "natOutgoing": false })), Ok(Some(Cidrs::NONE)));
        assert_eq!(read(json!({ "vlan": "v", "protocol": "Mac", "provider": "ovn" })), Ok(Some(Cidrs::NONE)));
        assert_eq!(read(json!({ "vlan": "v", "provider": "data.default.ovn" })), Ok(Some(Cidrs::NONE)));
        for (spec, field) in [
            (json!({ "protocol": "Mac" }), "protocol"),
            (json!({ "protocol": "Mac", "vlan": "v", "cidrBlock": "10.0.0.0/24" }), "protocol"),
            (json!({ "vlan": "v", "gateway": "10.0.0.1" }), "gateway"),
            (json!({ "vlan": "v", "gatewayType": "centralized" }), "gatewayType"),
            (json!({ "vlan": "v", "natOutgoing": true }), "natOutgoing"),
            (json!({ "vlan": "v", "externalEgressGateway": "10.0.0.1" }), "externalEgressGateway"),
            (json!({ "vlan": "v", "logicalGateway": true }), "logicalGateway"),
            (json!({ "vlan": "v", "u2oInterconnection": true }), "u2oInterconnection"),
            (json!({ "vlan": "v", "enableDHCP": true }), "enableDHCP"),
            (json!({ "vlan": "v", "enableIPv6RA": true }), "enableIPv6RA"),
            (json!({ "vlan": "v", "provider": "macvlan.default" }), "provider"),
        ] {
            let why = read(spec.clone()).unwrap_err();
            assert!(why.starts_with(&format!("spec.{field}: ")), "{spec}: {why}");
        }
    }
}
