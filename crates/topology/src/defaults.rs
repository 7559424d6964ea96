//! What the controller fills in on a `Subnet` that leaves it open, so that every reader of the object sees what holds.

use std::net::IpAddr;

use api::annotations::join;
use api::{DEFAULT_VPC, OVN_PROVIDER, v1};
use serde_json::{Map, Value, json};

use crate::world::SubnetSpec;

/// The fields of `spec` that are to be written, as a merge patch of `spec`; `None` when the object shows all. What the user
/// said stays as it is, but for the spelling of prefixes and protocol.
pub(crate) fn of(spec: &v1::SubnetSpec, parsed: &SubnetSpec) -> Option<Value> {
    let mut patch = Map::new();
    let mut text = |field: &str, shown: Option<&str>, wanted: &str| {
        if shown != Some(wanted) {
            patch.insert(field.to_owned(), json!(wanted));
        }
    };
    text("provider", spec.provider.as_deref(), parsed.provider.as_deref().unwrap_or(OVN_PROVIDER));
    if parsed.has_switch() {
        text("vpc", spec.vpc.as_deref(), &parsed.vpc);
    }
    if !parsed.cidrs.is_empty() {
        text("cidrBlock", spec.cidr_block.as_deref(), &parsed.cidrs.to_string());
        text("gateway", spec.gateway.as_deref(), &join(&parsed.gateways));
    }
    text("protocol", spec.protocol.as_deref(), parsed.cidrs.protocol());
    if spec.gateway_type.as_deref().is_none_or(str::is_empty) && *parsed.vpc == *DEFAULT_VPC && parsed.has_switch() {
        text("gatewayType", None, "distributed");
    }
    for (field, shown) in [("default", spec.default), ("private", spec.private), ("natOutgoing", spec.nat_outgoing)] {
        if shown.is_none() {
            patch.insert(field.to_owned(), json!(false));
        }
    }
    let mut excluded = spec.exclude_ips.clone().unwrap_or_default();
    let named = |gateway: &IpAddr| parsed.excluded.iter().any(|(from, to)| from <= gateway && gateway <= to);
    let missing: Vec<String> = parsed.gateways.iter().filter(|gateway| !named(gateway)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        excluded.extend(missing);
        patch.insert("excludeIps".to_owned(), json!(excluded));
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::{Value, json};

    fn filled_in(spec: &Value) -> Option<Value> {
        let subnet = serde_json::from_value(json!({
            "apiVersion": "kubeovn.io/v1", "kind": "Subnet", "metadata": { "name": "s" }, "spec": spec,
        }));
        crate::input::subnet_defaults(&subnet.unwrap())
    }

    #[test]
    fn what_a_subnet_leaves_open_is_filled_in_once() {
        let mut spec = json!({ "cidrBlock": "fd00:0::/64,10.0.0.7/24", "excludeIps": ["10.0.0.9"] });
        let patch = filled_in(&spec).unwrap();
        assert_eq!(
            patch,
            json!({
                "provider": "ovn", "vpc": "ovn-cluster", "cidrBlock": "10.0.0.0/24,fd00::/64", "gateway": "10.0.0.1,fd00::1",
                "protocol": "Dual", "gatewayType": "distributed", "default": false, "private": false, "natOutgoing": false,
                "excludeIps": ["10.0.0.9", "10.0.0.1", "fd00::1"],
            })
        );
        spec.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        assert_eq!(filled_in(&spec), None);
    }

    #[test]
    fn what_the_user_said_stays() {
        let spec = json!({
            "provider": "ovn", "vpc": "blue", "cidrBlock": "10.0.0.0/24", "gateway": "10.0.0.254", "protocol": "IPv4",
            "default": false, "private": true, "natOutgoing": false, "excludeIps": ["10.0.0.250..10.0.0.254"],
        });
        assert_eq!(filled_in(&spec), None);
        // Without a range there is nothing else to fill in.
        let spec = json!({
            "provider": "ovn", "vpc": "ovn-cluster", "vlan": "v", "gatewayType": "distributed", "default": false, "private": false,
            "natOutgoing": false,
        });
        assert_eq!(filled_in(&spec), Some(json!({ "protocol": "Mac" })));
        // What cannot be read is left as it is.
        assert_eq!(filled_in(&json!({ "cidrBlock": "10.0.0.0/33" })), None);
    }
}
