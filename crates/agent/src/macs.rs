//! Under which MACs the node sends what it routed into physical networks: the router of a VPC is on every node, and physical switches
//! would see its MAC move from node to node (ovn-architecture(7), "Multiple localnet logical switches connected to a Logical Router";
//! ovn-controller(8), `ovn-chassis-mac-mappings`).

use std::collections::BTreeSet;

use api::MacAddr;
use tokio_util::sync::CancellationToken;

use crate::attachment::digest;
use crate::node::Node;

/// `Open_vSwitch:external_ids` of ovn-controller(8): networks with MACs.
const MACS: &str = "ovn-chassis-mac-mappings";

/// First octet of these MACs. The allocator's begin with 02, and those of router ports with 02 or 0e.
const ROUTED: u8 = 0x0a;

/// Keeps the list true until `shutdown`.
pub(crate) async fn keep(node: &Node, shutdown: &CancellationToken) {
    node.whenever_it_changes(shutdown, || set(node)).await;
}

/// Makes the list true, if it is not; whether that is to be tried again.
async fn set(node: &Node) -> bool {
    if node.ovs.look().is_err() {
        return false;
    }
    let (Some(chassis), Some(networks)) = (node.ovs.system_id(), node.cluster.routed_networks()) else { return false };
    let shown = node.ovs.note(MACS).unwrap_or_default();
    let Some(list) = list(&shown, &|network| of_chassis(&chassis, network), &networks) else { return false };
    let set = node.ovs.set_note(MACS, (!list.is_empty()).then_some(&list)).await;
    match &set {
        Ok(()) => tracing::info!(list, "MACs of what was routed into physical networks"),
        Err(error) => tracing::warn!(%error, "MACs of what was routed into physical networks cannot be set; tried again"),
    }
    set.is_err()
}

/// The MAC of a chassis on a physical network.
fn of_chassis(chassis: &str, network: &str) -> MacAddr {
    MacAddr::local(ROUTED, digest(chassis, network))
}

/// The list with ours for these networks, and for no others; `None` when it is so. What others say of a network stays.
fn list(shown: &str, own: &dyn Fn(&str) -> MacAddr, networks: &BTreeSet<String>) -> Option<String> {
    let entries = || shown.split(',').map(str::trim).filter_map(|entry| entry.split_once(':'));
    let others = entries().filter(|(network, mac)| *mac != own(network).to_string());
    let mut all: Vec<String> = others.clone().map(|(network, mac)| format!("{network}:{mac}")).collect();
    let free = networks.iter().filter(|network| !others.clone().any(|(of, _)| of == network.as_str()));
    all.extend(free.map(|network| format!("{network}:{}", own(network))));
    let wanted = all.join(",");
    (wanted != shown).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_of_others_stay_and_ours_go_with_their_network() {
        let own = |network: &str| of_chassis("chassis", network);
        let with = |shown: &str, networks: &[&str]| list(shown, &own, &networks.iter().map(|network| (*network).to_owned()).collect());
        let mac = own("net1");
        assert_eq!(mac.octets()[0], ROUTED);
        assert_ne!((mac, mac), (own("net2"), of_chassis("other", "net1")));
        assert_eq!(with("", &[]), None);
        let ours = with("", &["net1"]).unwrap();
        assert_eq!(ours, format!("net1:{mac}"));
        assert_eq!(with(&ours, &["net1"]), None);
        assert_eq!(with(&ours, &[]).unwrap(), "");
        let foreign = "net1:0a:00:00:00:00:01,net9:0a:00:00:00:00:02";
        assert_eq!(with(foreign, &["net1"]), None);
        assert_eq!(with(foreign, &["net1", "net2"]).unwrap(), format!("{foreign},net2:{}", own("net2")));
    }
}
