//! The link between the gateway bridge and that of a provider network: two patch ports, each the other's peer (ovs-vswitchd.conf.db(5)).

use std::collections::BTreeSet;

use ovsdb_types::vswitch::{bridge, interface, port};
use ovsdb_types::{Atom, Datum, Operation, Row, Uuid};

use crate::gateway::BRIDGE;

use super::{Ovs, OvsError, bridge_row, is_ours, named, port_insertions};

/// Key in `Interface:external_ids` of the network that a port leads to.
const MARK: &str = "exit";

/// Two bridges, and the network that the second one is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) network: String,
    pub(crate) bridges: [String; 2],
}

impl Patch {
    /// From the gateway bridge to that of a network.
    pub(crate) fn to(network: &str, bridge: &str) -> Self {
        Self { network: network.to_owned(), bridges: [BRIDGE.to_owned(), bridge.to_owned()] }
    }

    /// Names of the ports, each in its bridge.
    pub(crate) fn ports(&self) -> [String; 2] {
        [format!("patch-exit-to-{}", self.network), format!("patch-{}-to-exit", self.network)]
    }
}

impl Ovs {
    /// The networks that ports of ours lead to.
    pub(crate) fn patched(&self) -> BTreeSet<String> {
        let state = self.state.borrow();
        let of = |row: Row<'_>| Some(row.get(interface::EXTERNAL_IDS).filter(|ids| is_ours(ids))?.get(MARK)?.to_owned());
        state.replica.rows(interface::TABLE).filter_map(of).collect()
    }

    /// Makes the ports, or those that are missing; without any wanted, and of other networks, takes them away.
    pub(crate) async fn patch(&self, wanted: Option<&Patch>) -> Result<(), OvsError> {
        let operations = self.patch_lacks(wanted)?;
        if operations.is_empty() {
            return Ok(());
        }
        self.client.transact(&operations).await?;
        let ports = wanted.map(Patch::ports);
        self.shows(|replica| ports.iter().flatten().all(|name| named(replica, port::TABLE, port::NAME.index, name).is_some())).await;
        match wanted {
            Some(patch) => tracing::info!(network = patch.network, bridge = patch.bridges[1], "the way out by the wire is there"),
            None => tracing::info!("the way out by the wire is taken away"),
        }
        Ok(())
    }

    /// What is to be done for the ports to be there; nothing when they are.
    pub(crate) fn patch_lacks(&self, wanted: Option<&Patch>) -> Result<Vec<Operation>, OvsError> {
        let state = self.state.borrow();
        let replica = &state.replica;
        let is_marked = |row: &Row<'_>| row.get(interface::EXTERNAL_IDS).is_some_and(|ids| is_ours(ids) && ids.get(MARK).is_some());
        let there = replica.rows(interface::TABLE).filter(is_marked).map(|row| row.text(interface::NAME).to_owned());
        let ports = wanted.map(Patch::ports);
        let stale: Vec<String> = there.filter(|name| !ports.iter().flatten().any(|port| port == name)).collect();
        let mut operations = self.removals(replica, stale.iter());
        let (Some(patch), Some(names)) = (wanted, ports) else { return Ok(operations) };
        for (at, name) in names.iter().enumerate() {
            let bridge_name = &patch.bridges[at];
            let holder = bridge_row(replica, bridge_name).ok_or_else(|| OvsError::NoBridge(bridge_name.clone()))?;
            if let Some(row) = named(replica, port::TABLE, port::NAME.index, name) {
                let marked = named(replica, interface::TABLE, interface::NAME.index, name).is_some_and(|row| is_marked(&row));
                if !marked {
                    return Err(OvsError::ForeignPort(name.clone()));
                }
                if holder.get(bridge::PORTS).is_some_and(|ports| ports.contains(&Atom::Uuid(row.uuid))) {
                    continue;
                }
                // In another bridge, such as one whose name passed to the NIC.
                operations.extend(self.removals(replica, std::iter::once(name)));
                return Ok(operations);
            }
            operations.extend(insertions(holder.uuid, name, &names[1 - at], &patch.network));
        }
        Ok(operations)
    }
}

fn insertions(bridge_uuid: Uuid, name: &str, peer: &str, network: &str) -> [Operation; 3] {
    let map = |pairs: &[(&str, &str)]| Datum::map(pairs.iter().map(|(key, value)| (Atom::from(*key), Atom::from(*value))).collect());
    let ids = ("external_ids", map(&[(MARK, network), ("vendor", api::VENDOR)]));
    let interface = vec![("type", Datum::One(Atom::from("patch"))), ("options", map(&[("peer", peer)])), ids.clone()];
    port_insertions(bridge_uuid, name, interface, vec![ids])
}
