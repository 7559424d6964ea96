//! The gateway bridge in Open vSwitch's database, and the physical network that OVN finds behind it.

use openflow::Port;
use ovsdb_types::vswitch::{bridge, interface, open_vswitch, port};
use ovsdb_types::{Atom, Condition, Datum, Mutation, Mutator, Operation, Row, RowKey, Uuid, vswitch};

use super::notes::{note_to, noted};
use super::{Ovs, OvsError, bridge_row, is_ours, named};

/// Key in `Open_vSwitch:external_ids` (ovn-controller(8)).
pub(super) const MAPPINGS: &str = "ovn-bridge-mappings";

impl Ovs {
    /// Makes the bridge, with a link of this MTU in bytes, and says that the physical network `network` is behind it.
    pub(crate) async fn gateway(&self, name: &str, network: &str, mtu: u32) -> Result<(), OvsError> {
        let operations = self.gateway_lacks(name, network, mtu)?;
        if operations.is_empty() {
            return Ok(());
        }
        self.client.transact(&operations).await?;
        self.shows(|replica| bridge_row(replica, name).is_some()).await;
        tracing::info!(bridge = name, network, "gateway bridge");
        Ok(())
    }

    /// What is to be done for the bridge and the network behind it to be there; nothing when they are.
    pub(crate) fn gateway_lacks(&self, name: &str, network: &str, mtu: u32) -> Result<Vec<Operation>, OvsError> {
        let state = self.state.borrow();
        let replica = &state.replica;
        let root = replica.rows(open_vswitch::TABLE).next().ok_or(OvsError::Disconnected)?;
        let mut operations = Vec::new();
        let there = bridge_row(replica, name);
        // Its flows are replaced as a whole: whoever else uses a bridge of this name would be cut off.
        if there.is_some_and(|row| !row.get(bridge::EXTERNAL_IDS).is_some_and(is_ours)) {
            return Err(OvsError::ForeignBridge(name.to_owned()));
        }
        if there.is_none() {
            let int = bridge_row(replica, &self.bridge).ok_or_else(|| OvsError::NoBridge(self.bridge.clone()))?;
            // Without our flows nothing passes.
            let secure = ("fail_mode", Datum::One(Atom::from("secure")));
            operations.extend(bridge_insertions(root.uuid, name, int.text(bridge::DATAPATH_TYPE), mtu, secure));
        }
        let shown = noted(&root, MAPPINGS).unwrap_or_default();
        if let Some(wanted) = mappings(shown, network, name)? {
            let mutations = map_to(&wanted);
            operations.push(Operation::Mutate { table: "Open_vSwitch", condition: Condition::row(root.uuid), mutations });
        }
        Ok(operations)
    }

    /// Takes away the bridge that [`Ovs::gateway`] made, and what it said of the network. Returns whether there was one.
    pub(crate) async fn withdraw_gateway(&self, name: &str, network: &str) -> Result<bool, OvsError> {
        let made = bridge_row(&self.state.borrow().replica, name).is_some_and(|row| row.get(bridge::EXTERNAL_IDS).is_some_and(is_ours));
        if made {
            self.remove_bridge(network, name).await?;
        }
        Ok(made)
    }

    /// Whether OVN sends by a bridge of ours: it has patch ports there for as long.
    pub(crate) fn is_led_to(&self, name: &str) -> bool {
        let state = self.state.borrow();
        let replica = &state.replica;
        let atoms = |row: Row<'_>, column| row.get(column).map(|datum| datum.atoms().to_vec()).unwrap_or_default();
        let get = |table, atom: Atom| if let Atom::Uuid(uuid) = atom { replica.get(table, uuid) } else { None };
        let is_marked = |row: &Row<'_>, column| row.get(column).is_some_and(is_ours);
        let bridge = bridge_row(replica, name).filter(|row| is_marked(row, bridge::EXTERNAL_IDS));
        let ports = bridge.into_iter().flat_map(|row| atoms(row, bridge::PORTS)).filter_map(|atom| get(port::TABLE, atom));
        let mut ends = ports.flat_map(|row| atoms(row, port::INTERFACES)).filter_map(|atom| get(interface::TABLE, atom));
        ends.any(|row| !is_marked(&row, interface::EXTERNAL_IDS))
    }

    /// The bridge that a physical network is mapped to.
    pub(crate) fn mapped(&self, network: &str) -> Option<String> {
        bridge_of(&self.note(MAPPINGS)?, network).map(str::to_owned)
    }

    /// The OpenFlow number of a port, once the switch has opened it.
    pub(crate) fn number_of(&self, link: &str) -> Option<Port> {
        let state = self.state.borrow();
        let row = named(&state.replica, interface::TABLE, interface::NAME.index, link)?;
        match row.get(interface::OFPORT)?.atoms() {
            [Atom::Integer(number)] => Port::new(*number).ok(),
            _ => None,
        }
    }
}

/// What puts a list of mappings in the place of what is there; an empty one takes it away.
pub(super) fn map_to(list: &str) -> Vec<Mutation> {
    note_to(MAPPINGS, (!list.is_empty()).then_some(list))
}

fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|mapping| !mapping.is_empty())
}

/// The bridge that a list maps a network to.
fn bridge_of<'a>(list: &'a str, network: &str) -> Option<&'a str> {
    entries(list).find_map(|mapping| mapping.strip_prefix(network)?.strip_prefix(':'))
}

/// The list of mappings with ours in it; `None` when it is.
pub(super) fn mappings(shown: &str, network: &str, bridge: &str) -> Result<Option<String>, OvsError> {
    match bridge_of(shown, network) {
        Some(shown) if shown == bridge => Ok(None),
        Some(other) => Err(OvsError::ForeignNetwork(network.to_owned(), other.to_owned())),
        None => {
            let ours = format!("{network}:{bridge}");
            let mut all: Vec<&str> = entries(shown).collect();
            all.push(&ours);
            Ok(Some(all.join(",")))
        }
    }
}

/// A bridge with its own link, of this MTU in bytes, and what else is said of the bridge.
pub(super) fn bridge_insertions(root: Uuid, name: &str, datapath: &str, mtu: u32, further: (&'static str, Datum)) -> [Operation; 4] {
    let uuid = |table| RowKey::new(table, name).uuid(&vswitch::SCHEMA);
    let text = |text: &str| Datum::One(Atom::from(text));
    let insert = |table, key, mut row: Vec<(&'static str, Datum)>| {
        row.extend([("name", text(name)), marked()]);
        Operation::Insert { table, uuid: Some(uuid(key)), name: None, row }
    };
    let mutation = Mutation { column: "bridges", mutator: Mutator::Insert, value: Datum::One(Atom::Uuid(uuid(bridge::TABLE))) };
    [
        insert("Interface", interface::TABLE, vec![("type", text("internal")), ("mtu_request", Datum::One(Atom::Integer(mtu.into())))]),
        insert("Port", port::TABLE, vec![("interfaces", Datum::One(Atom::Uuid(uuid(interface::TABLE))))]),
        insert(
            "Bridge",
            bridge::TABLE,
            vec![("datapath_type", text(datapath)), ("ports", Datum::One(Atom::Uuid(uuid(port::TABLE)))), further],
        ),
        Operation::Mutate { table: "Open_vSwitch", condition: Condition::row(root), mutations: vec![mutation] },
    ]
}

/// That a row is ours.
pub(super) fn marked() -> (&'static str, Datum) {
    ("external_ids", Datum::map(vec![(Atom::from("vendor"), Atom::from(api::VENDOR))]))
}

#[cfg(test)]
mod tests {
    use super::mappings;

    #[test]
    fn mappings_of_others_stay() {
        let with_ours = |shown| mappings(shown, "public", "br-ex");
        assert_eq!(with_ours("").unwrap().as_deref(), Some("public:br-ex"));
        assert_eq!(with_ours("lan:br-lan,publicity:br-p").unwrap().as_deref(), Some("lan:br-lan,publicity:br-p,public:br-ex"));
        assert_eq!(with_ours("public:br-ex,lan:br-lan").unwrap(), None);
        assert!(with_ours("lan:br-lan,public:br-old").unwrap_err().to_string().contains("br-old"));
    }
}
