//! Bridges of provider networks in Open vSwitch's database, each with a NIC of the node, and what is recorded of that NIC.

use std::collections::BTreeMap;

use ovsdb_types::vswitch::{bridge, interface, open_vswitch, port};
use ovsdb_types::{Atom, Condition, Datum, Mutation, Mutator, Operation, Row};

use super::gateway::{MAPPINGS, bridge_insertions, map_to, mappings, marked};
use super::notes::noted;
use super::{Ovs, OvsError, bridge_row, is_ours, named, port_insertions};

/// What the keys in `Open_vSwitch:external_ids` begin with under which is recorded what was moved from a NIC.
const RECORD: &str = "ferrovia-nic-";

/// The key in `Bridge:other_config` with the address of the bridge's link.
const HWADDR: &str = "hwaddr";

/// A bridge as it is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bridge<'a> {
    pub(crate) network: &'a str,
    pub(crate) name: &'a str,
    pub(crate) nic: &'a str,
    pub(crate) mac: linux::Mac,
    pub(crate) mtu: u32,
}

impl Ovs {
    /// What is recorded of each network that has a bridge, or has begun to; `None` without a switch.
    pub(crate) fn records(&self) -> Option<BTreeMap<String, String>> {
        self.look().ok()?;
        let state = self.state.borrow();
        let root = state.replica.rows(open_vswitch::TABLE).next()?;
        let pairs = root.get(open_vswitch::EXTERNAL_IDS)?.pairs();
        let ours = pairs.iter().filter_map(|(key, value)| Some((key.as_str()?.strip_prefix(RECORD)?, value.as_str()?)));
        Some(ours.map(|(network, record)| (network.to_owned(), record.to_owned())).collect())
    }

    /// Records something of a network; with nothing, what was recorded is forgotten.
    pub(crate) async fn record(&self, network: &str, content: Option<&str>) -> Result<(), OvsError> {
        self.set_note(&format!("{RECORD}{network}"), content).await
    }

    fn root(&self) -> Result<ovsdb_types::Uuid, OvsError> {
        let state = self.state.borrow();
        let root = state.replica.rows(open_vswitch::TABLE).next().map(|row| row.uuid);
        root.ok_or(OvsError::Disconnected)
    }

    /// Whether there is a bridge of ours with this name.
    ///
    /// # Errors
    /// When it is somebody else's.
    pub(crate) fn has_bridge(&self, name: &str) -> Result<bool, OvsError> {
        let state = self.state.borrow();
        match bridge_row(&state.replica, name) {
            Some(row) if row.get(bridge::EXTERNAL_IDS).is_some_and(is_ours) => Ok(true),
            Some(_) => Err(OvsError::NotOurs(name.to_owned())),
            None => Ok(false),
        }
    }

    /// Whether a bridge's link is to have this address; `None` where nothing says which one.
    pub(crate) fn is_addressed(&self, bridge: &str, mac: Option<linux::Mac>) -> Option<bool> {
        let state = self.state.borrow();
        let wanted = bridge_row(&state.replica, bridge)?.get(bridge::OTHER_CONFIG)?.get(HWADDR)?;
        Some(mac.is_some_and(|mac| linux::display_mac(mac).eq_ignore_ascii_case(wanted)))
    }

    /// The bridge that has a port with the name of a link.
    pub(crate) fn bridge_of(&self, link: &str) -> Option<String> {
        let state = self.state.borrow();
        let port = named(&state.replica, port::TABLE, port::NAME.index, link)?;
        let has = |row: &Row<'_>| row.get(bridge::PORTS).is_some_and(|ports| ports.contains(&Atom::Uuid(port.uuid)));
        state.replica.rows(bridge::TABLE).find(has).map(|row| row.text(bridge::NAME).to_owned())
    }

    /// Makes the bridge, of the kind that the integration bridge is of, without the NIC. It switches as any bridge does.
    pub(crate) async fn make_bridge(&self, wanted: Bridge<'_>) -> Result<(), OvsError> {
        if self.has_bridge(wanted.name)? {
            return Ok(());
        }
        let operations = {
            let root = self.root()?;
            let state = self.state.borrow();
            let int = bridge_row(&state.replica, &self.bridge).ok_or_else(|| OvsError::NoBridge(self.bridge.clone()))?;
            // Neighbours know the node by the NIC's address.
            let mac = linux::display_mac(wanted.mac);
            let hwaddr = ("other_config", Datum::map(vec![(Atom::from(HWADDR), Atom::from(mac.as_str()))]));
            bridge_insertions(root, wanted.name, int.text(bridge::DATAPATH_TYPE), wanted.mtu, hwaddr)
        };
        self.client.transact(&operations).await?;
        self.shows(|replica| bridge_row(replica, wanted.name).is_some()).await;
        Ok(())
    }

    /// Puts the NIC into the bridge, and says that the network is behind it.
    pub(crate) async fn add_nic(&self, wanted: Bridge<'_>) -> Result<(), OvsError> {
        let mut operations = Vec::new();
        {
            let state = self.state.borrow();
            let replica = &state.replica;
            let root = replica.rows(open_vswitch::TABLE).next().ok_or(OvsError::Disconnected)?;
            let row = bridge_row(replica, wanted.name).ok_or_else(|| OvsError::NoBridge(wanted.name.to_owned()))?;
            if named(replica, port::TABLE, port::NAME.index, wanted.nic).is_none() {
                operations.extend(port_insertions(row.uuid, wanted.nic, vec![marked()], vec![marked()]));
            }
            let shown = noted(&root, MAPPINGS).unwrap_or_default();
            if let Some(list) = mappings(shown, wanted.network, wanted.name)? {
                operations.push(Operation::Mutate {
                    table: "Open_vSwitch",
                    condition: Condition::row(root.uuid),
                    mutations: map_to(&list),
                });
            }
        }
        if operations.is_empty() {
            return Ok(());
        }
        self.client.transact(&operations).await?;
        self.shows(|replica| named(replica, port::TABLE, port::NAME.index, wanted.nic).is_some()).await;
        Ok(())
    }

    /// Whether the network is behind another bridge already.
    pub(crate) fn mapped_elsewhere(&self, network: &str, bridge: &str) -> Result<(), OvsError> {
        let state = self.state.borrow();
        let root = state.replica.rows(open_vswitch::TABLE).next().ok_or(OvsError::Disconnected)?;
        let shown = noted(&root, MAPPINGS).unwrap_or_default();
        mappings(shown, network, bridge).map(drop)
    }

    /// Whether the switch has opened a port; why not, if it says so.
    pub(crate) fn opened(&self, link: &str) -> Result<bool, OvsError> {
        let state = self.state.borrow();
        let Some(row) = named(&state.replica, interface::TABLE, interface::NAME.index, link) else { return Ok(false) };
        let error = row.text(interface::ERROR);
        if !error.is_empty() {
            return Err(OvsError::Port(link.to_owned(), error.to_owned()));
        }
        Ok(row.get(interface::OFPORT).is_some_and(|number| matches!(number.atoms(), [Atom::Integer(number)] if *number > 0)))
    }

    /// Takes the bridge away with its ports, and what was said of the network.
    pub(crate) async fn remove_bridge(&self, network: &str, name: &str) -> Result<(), OvsError> {
        let operation = {
            let state = self.state.borrow();
            let replica = &state.replica;
            let root = replica.rows(open_vswitch::TABLE).next().ok_or(OvsError::Disconnected)?;
            let mut mutations = Vec::new();
            if let Some(made) = bridge_row(replica, name).filter(|row| row.get(bridge::EXTERNAL_IDS).is_some_and(is_ours)) {
                mutations.push(Mutation { column: "bridges", mutator: Mutator::Delete, value: Datum::One(Atom::Uuid(made.uuid)) });
            }
            let shown = noted(&root, MAPPINGS).unwrap_or_default();
            let ours = format!("{network}:{name}");
            let others: Vec<&str> = shown.split(',').filter(|mapping| !mapping.is_empty() && *mapping != ours).collect();
            if others.join(",") != shown {
                mutations.extend(map_to(&others.join(",")));
            }
            if mutations.is_empty() {
                return Ok(());
            }
            Operation::Mutate { table: "Open_vSwitch", condition: Condition::row(root.uuid), mutations }
        };
        self.client.transact(&[operation]).await?;
        self.shows(|replica| bridge_row(replica, name).is_none()).await;
        Ok(())
    }
}
