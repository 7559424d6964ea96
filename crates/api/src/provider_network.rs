//! What a `ProviderNetwork` says of a node, and what nodes say of it by their labels and annotations.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::cidr::parse_addresses;
use crate::v1::ProviderNetworkSpec;

/// Annotation of a `ProviderNetwork`: pods of overlay subnets leave by its NIC without their node's host stack. Its value names the
/// physical gateway, one address of each family at most; `"true"`, or nothing, is that of the node's default route by the NIC.
pub const EXIT: &str = "ferrovia.io/exit";

/// What follows the name of a network in the key of a node's annotation that says of which MTU in bytes the way out by it is.
pub const EXIT_MTU: &str = "exit_mtu";

/// The physical gateways by which pods leave, as the annotations of a `ProviderNetwork` have them: none for those of the nodes' own default
/// routes. `None` when pods do not leave by it.
///
/// # Errors
/// What is wrong with [`EXIT`].
pub fn exit(notes: Option<&BTreeMap<String, String>>) -> Result<Option<Vec<IpAddr>>, String> {
    match notes.and_then(|notes| notes.get(EXIT)).map(|value| value.trim()) {
        None | Some("false") => Ok(None),
        Some("" | "true") => Ok(Some(Vec::new())),
        Some(text) => {
            let gateways = parse_addresses(text).map_err(|why| format!("annotation {EXIT}: {why}"))?;
            match gateways.iter().find(|gateway| gateway.is_unspecified() || gateway.is_multicast()) {
                Some(none) => Err(format!("annotation {EXIT}: {none} is no gateway's address")),
                None => Ok(Some(gateways)),
            }
        }
    }
}

/// Behind the network's name in the keys of nodes' labels and annotations.
const SUFFIX: &str = ".provider-network.kubernetes.io/";

/// Longest name of a provider network: its bridge's, three letters longer, is that of a link.
const LONGEST: usize = 12;

/// Names that would give a network one of our own bridges, or be taken for the way out.
const RESERVED: [&str; 3] = ["int", "ex", crate::EGRESS_NETWORK];

/// What is wrong with the name of a network, if anything.
#[must_use]
pub fn unusable(network: &str) -> Option<String> {
    if network.len() > LONGEST {
        return Some(format!("{network:?} has more than {LONGEST} characters, which the name of a bridge has no room for"));
    }
    RESERVED.contains(&network).then(|| format!("{network:?} is reserved for our own bridges"))
}

/// A label or annotation of nodes about a network: `<network>.provider-network.kubernetes.io/<what>`, where `what` is `ready`, `exclude`,
/// `interface`, `mtu` or, as annotations, `err_mesg` and [`EXIT_MTU`].
#[must_use]
pub fn key(network: &str, what: &str) -> String {
    format!("{network}{SUFFIX}{what}")
}

/// The network that a label or annotation is about, and what it says of it.
#[must_use]
pub fn of_key(key: &str) -> Option<(&str, &str)> {
    key.split_once(SUFFIX)
}

/// The bridge of a network, the same on all nodes.
#[must_use]
pub fn bridge(network: &str) -> String {
    format!("br-{network}")
}

impl ProviderNetworkSpec {
    /// Whether a node with these labels is part of the network.
    #[must_use]
    pub fn includes(&self, node: &str, labels: &BTreeMap<String, String>) -> bool {
        let excluded = self.exclude_nodes.iter().flatten().any(|excluded| excluded == node);
        !excluded && self.node_selector.as_ref().is_none_or(|selector| selects(selector, labels))
    }

    /// The interface that a node gives to the network's bridge.
    #[must_use]
    pub fn interface_of(&self, node: &str) -> &str {
        let named = |nodes: &Option<Vec<String>>| nodes.iter().flatten().any(|named| named == node);
        let custom = self.custom_interfaces.iter().flatten().filter(|custom| named(&custom.nodes));
        custom.filter_map(|custom| custom.interface.as_deref()).next().unwrap_or(&self.default_interface)
    }
}

/// Whether all that a selector asks for holds; an empty one asks for nothing. An operator that is not known never holds.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().flatten().all(|asked| {
            let (shown, values) = (labels.get(&asked.key), asked.values.as_deref().unwrap_or_default());
            match asked.operator.as_str() {
                "In" => shown.is_some_and(|shown| values.contains(shown)),
                "NotIn" => shown.is_none_or(|shown| !values.contains(shown)),
                "Exists" => shown.is_some(),
                "DoesNotExist" => shown.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn nodes_are_part_of_a_network_by_name_and_label_each_with_its_own_interface() {
        let spec: ProviderNetworkSpec = serde_json::from_value(serde_json::json!({
            "defaultInterface": "eth1",
            "customInterfaces": [{ "interface": "eth2", "nodes": ["n2", "n3"] }],
            "excludeNodes": ["n9"],
            "nodeSelector": {
                "matchLabels": { "rack": "a" },
                "matchExpressions": [{ "key": "old", "operator": "DoesNotExist" }, { "key": "zone", "operator": "In", "values": ["x", "y"] }],
            },
        }))
        .unwrap();
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
        let good = labels(&[("rack", "a"), ("zone", "y")]);
        assert!(spec.includes("n1", &good) && !spec.includes("n9", &good));
        for bad in [&[("rack", "b"), ("zone", "y")][..], &[("rack", "a")], &[("rack", "a"), ("zone", "x"), ("old", "")]] {
            assert!(!spec.includes("n1", &labels(bad)), "{bad:?}");
        }
        assert_eq!((spec.interface_of("n1"), spec.interface_of("n3")), ("eth1", "eth2"));
        assert!(ProviderNetworkSpec::default().includes("n1", &labels(&[])));
        assert_eq!(of_key(&key("net1", "ready")), Some(("net1", "ready")));
        assert_eq!(of_key("kubernetes.io/hostname"), None);
        assert_eq!(["net1", "ex", "public", "thirteen-long"].map(|name| unusable(name).is_some()), [false, true, true, true]);
    }
    #[test]
    fn pods_leave_by_a_network_whose_annotation_names_gateways_or_leaves_them_to_the_node() {
        let read = |value: &str| exit(Some(&BTreeMap::from([(EXIT.to_owned(), value.to_owned())])));
        assert_eq!((exit(None), read("false")), (Ok(None), Ok(None)));
        assert_eq!((read(""), read(" true")), (Ok(Some(Vec::new())), Ok(Some(Vec::new()))));
        let both: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(read("fe80::1, 192.0.2.1"), Ok(Some(both)));
        let wrong = ["yes", "192.0.2.1,192.0.2.2", "0.0.0.0"].map(|value| read(value).unwrap_err());
        assert_eq!(wrong[0], "annotation ferrovia.io/exit: \"yes\" is not an IP address");
        assert!(wrong[1].contains("two addresses of one family") && wrong[2].contains("0.0.0.0 is no gateway"), "{wrong:?}");
    }
}
