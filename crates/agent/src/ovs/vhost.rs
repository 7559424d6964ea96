//! Ports by which the switch connects to sockets of virtual machines (`dpdkvhostuserclient`, ovs-vswitchd.conf.db(5)): what they need, and what
//! sets them apart from those that are links.

use ovsdb_types::vswitch::{bridge, interface, open_vswitch};
use ovsdb_types::{Atom, Datum, Row};

use super::{Ovs, bridge_row};

/// Type of the interface.
const TYPE: &str = "dpdkvhostuserclient";
/// Option of the interface: the socket.
const PATH: &str = "vhost-server-path";

/// What a port is besides others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VhostPort {
    /// Path of the socket, which need not be there.
    pub(crate) path: String,
    /// MTU in bytes.
    pub(crate) mtu: u32,
}

/// MTU in bytes of ports that ask for none. Ports of one MTU share their memory.
const USUAL_MTU: u32 = 1500;

impl VhostPort {
    fn mtu_request(&self) -> Datum {
        let mtu = (self.mtu > USUAL_MTU).then_some(Atom::Integer(self.mtu.into()));
        Datum::set(mtu.into_iter().collect())
    }

    /// Columns of the interface.
    pub(super) fn columns(&self) -> [(&'static str, Datum); 3] {
        [
            ("type", Datum::One(Atom::from(TYPE))),
            ("options", Datum::map(vec![(Atom::from(PATH), Atom::from(self.path.as_str()))])),
            ("mtu_request", self.mtu_request()),
        ]
    }

    /// Whether an interface has them.
    pub(super) fn is(&self, row: &Row<'_>) -> bool {
        let path = row.get(interface::OPTIONS).and_then(|options| options.get(PATH));
        let mtu = row.get(interface::MTU_REQUEST).map(Datum::atoms).unwrap_or_default() == self.mtu_request().atoms();
        row.text(interface::TYPE) == TYPE && path == Some(self.path.as_str()) && mtu
    }
}

impl Ovs {
    /// What the switch lacks for such ports, if anything.
    pub(crate) fn lacks_vhost(&self) -> Option<String> {
        let state = self.state.borrow();
        let root = state.replica.rows(open_vswitch::TABLE).next()?;
        let datapath = bridge_row(&state.replica, &self.bridge)?.text(bridge::DATAPATH_TYPE);
        let is_true = |datum: &Datum| datum.contains(&Atom::Boolean(true));
        if !root.get(open_vswitch::IFACE_TYPES).is_some_and(|types| types.contains(&Atom::from(TYPE))) {
            return Some(format!("its ovs-vswitchd knows no ports of type {TYPE} (iface_types of Open_vSwitch)"));
        }
        if !root.get(open_vswitch::DPDK_INITIALIZED).is_some_and(is_true) {
            return Some(
                "dpdk_initialized of Open_vSwitch is false: set other_config:dpdk-init=true and start ovs-vswitchd anew".to_owned(),
            );
        }
        (datapath != "netdev").then(|| format!("datapath_type of bridge {} is {datapath:?}, not \"netdev\"", self.bridge))
    }
}
