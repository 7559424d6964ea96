//! The node's own port on the integration bridge: an internal one, whose link the host stack has.

use api::MacAddr;
use ovsdb_types::vswitch::{interface, port};
use ovsdb_types::{Atom, Condition, Datum, Mutation, Mutator, Operation};

use super::gateway::marked;
use super::{Ovs, OvsError, bridge_row, is_ours, named, port_insertions};

/// What the port is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodePort {
    /// Name of the link.
    pub(crate) link: &'static str,
    /// Logical switch port that it stands for.
    pub(crate) iface_id: String,
    pub(crate) mac: MacAddr,
    /// MTU in bytes.
    pub(crate) mtu: u32,
}

impl Ovs {
    /// Makes the port, or what of it differs.
    pub(crate) async fn node_port(&self, wanted: &NodePort) -> Result<(), OvsError> {
        let operations = self.node_port_lacks(wanted)?;
        if operations.is_empty() {
            return Ok(());
        }
        self.client.transact(&operations).await?;
        self.shows(|replica| named(replica, port::TABLE, port::NAME.index, wanted.link).is_some()).await;
        tracing::info!(port = wanted.link, iface_id = %wanted.iface_id, "the node's own port");
        Ok(())
    }

    /// What is to be done for the port to be as wanted; nothing when it is.
    pub(crate) fn node_port_lacks(&self, wanted: &NodePort) -> Result<Vec<Operation>, OvsError> {
        let state = self.state.borrow();
        let replica = &state.replica;
        let bridge = bridge_row(replica, &self.bridge).ok_or_else(|| OvsError::NoBridge(self.bridge.clone()))?;
        let id = |key: &str, value: &str| (Atom::from(key), Atom::from(value));
        let ids = [id("iface-id", &wanted.iface_id), id("vendor", api::VENDOR)];
        let mac = wanted.mac.to_string();
        let (shown_mac, shown_mtu) = (Datum::One(Atom::from(mac.as_str())), Datum::One(Atom::Integer(wanted.mtu.into())));
        let row = vec![("mac", shown_mac.clone()), ("mtu_request", shown_mtu.clone())];
        let Some(there) = named(replica, interface::TABLE, interface::NAME.index, wanted.link) else {
            let further = [("type", Datum::One(Atom::from("internal"))), ("external_ids", Datum::map(ids.into()))];
            let row = row.into_iter().chain(further).collect();
            return Ok(port_insertions(bridge.uuid, wanted.link, row, vec![marked()]).into());
        };
        let shown = there.get(interface::EXTERNAL_IDS);
        // An earlier controller's bears no mark, but stands for the same port.
        if !shown.is_some_and(|ids| is_ours(ids) || ids.get("iface-id") == Some(wanted.iface_id.as_str())) {
            return Err(OvsError::ForeignPort(wanted.link.to_owned()));
        }
        let mut operations = Vec::new();
        if there.get(interface::MAC) != Some(&shown_mac) || there.get(interface::MTU_REQUEST) != Some(&shown_mtu) {
            operations.push(Operation::Update { table: "Interface", condition: Condition::row(there.uuid), row });
        }
        let differs = |(key, value): &(Atom, Atom)| shown.and_then(|ids| ids.get(key.as_str()?)) != value.as_str();
        let (mut stale, mut wanted) = (Vec::new(), Vec::new());
        for pair in ids.into_iter().filter(differs) {
            stale.push(pair.0.clone());
            wanted.push(pair);
        }
        if !wanted.is_empty() {
            let mutation = |mutator, value| Mutation { column: "external_ids", mutator, value };
            let mutations = vec![mutation(Mutator::Delete, Datum::set(stale)), mutation(Mutator::Insert, Datum::map(wanted))];
            operations.push(Operation::Mutate { table: "Interface", condition: Condition::row(there.uuid), mutations });
        }
        Ok(operations)
    }

    /// Whether `ovn-controller` has installed the flows of a port.
    pub(crate) fn is_installed(&self, link: &str) -> bool {
        let state = self.state.borrow();
        let row = named(&state.replica, interface::TABLE, interface::NAME.index, link);
        row.and_then(|row| row.get(interface::EXTERNAL_IDS)?.get("ovn-installed").map(|value| value == "true")).unwrap_or(false)
    }
}
