//! A userspace datapath reads a NIC through a packet socket, and the kernel's own stack sees every frame, too: it would answer what the
//! bridge's link answers. Its copy is dropped, per NIC.

use linux::Netns;
use linux::nft::schema::NfListObject;
use linux::nft::types::NfFamily;
use serde_json::json;

use super::ProviderError;

fn table(network: &str) -> String {
    format!("ferrovia-{network}")
}

/// Drops what the kernel receives by the NIC.
pub(super) fn drop_copies(netns: &Netns, network: &str, nic: &str) -> Result<(), ProviderError> {
    let table = table(network);
    let chain = json!([{ "chain": {
        "family": "netdev", "table": table, "name": "ingress", "type": "filter", "hook": "ingress", "prio": 0, "dev": nic, "policy": "drop",
    } }]);
    let content: Vec<NfListObject<'_>> = serde_json::from_value(chain)?;
    Ok(linux::nft::replace_table(netns, NfFamily::NetDev, &table, content)?)
}

/// Lets the kernel receive again.
pub(super) fn receive(netns: &Netns, network: &str) -> Result<(), ProviderError> {
    let table = table(network);
    if linux::nft::tables(netns)?.contains(&table) {
        linux::nft::delete_table(netns, NfFamily::NetDev, &table)?;
    }
    Ok(())
}
