//! Ports whose links were there before the pod: representors of functions of a NIC, whose switch is to carry what passes them.

use ovsdb_types::vswitch::{bridge, interface, open_vswitch};

use super::{Ovs, OvsError, PodPort, bridge_row, is_ours, named};

/// Key of a port's `external_ids`: the device that its link stands for.
pub(crate) const DEVICE: &str = "device";
/// Option of `Open_vSwitch:other_config` (ovs-vswitchd.conf.db(5)).
const OFFLOAD: &str = "hw-offload";

impl Ovs {
    /// Takes away a port of the same link that an earlier pod left behind.
    ///
    /// # Errors
    /// When the link is a port of somebody else's.
    pub(crate) async fn make_room(&self, wanted: &PodPort) -> Result<(), OvsError> {
        let left = {
            let state = self.state.borrow();
            let row = named(&state.replica, interface::TABLE, interface::NAME.index, &wanted.link);
            match row.as_ref().map(|row| row.get(interface::EXTERNAL_IDS)) {
                None => false,
                Some(Some(ids)) if is_ours(ids) => ids.get("iface-id") != Some(wanted.iface_id.as_str()),
                Some(_) => return Err(OvsError::ForeignPort(wanted.link.clone())),
            }
        };
        if left {
            self.remove(std::slice::from_ref(&wanted.link)).await?;
        }
        Ok(())
    }

    /// Whether the port of a link is a device's: the link is there without a pod, too.
    pub(crate) fn is_of_device(&self, link: &str) -> bool {
        let state = self.state.borrow();
        let row = named(&state.replica, interface::TABLE, interface::NAME.index, link);
        row.is_some_and(|row| row.get(interface::EXTERNAL_IDS).is_some_and(|ids| is_ours(ids) && ids.get(DEVICE).is_some()))
    }

    /// Why the switch leaves no packets to NICs, if it does not.
    pub(crate) fn lacks_offload(&self) -> Option<String> {
        let state = self.state.borrow();
        let root = state.replica.rows(open_vswitch::TABLE).next()?;
        let set = root.get(open_vswitch::OTHER_CONFIG).and_then(|config| config.get(OFFLOAD));
        if set != Some("true") {
            let set = set.unwrap_or_default();
            return Some(format!("other_config:{OFFLOAD} of Open_vSwitch is {set:?}, not \"true\"; ovs-vswitchd reads it when it starts"));
        }
        let is_userspace = bridge_row(&state.replica, &self.bridge)?.text(bridge::DATAPATH_TYPE) == "netdev";
        is_userspace.then(|| format!("datapath_type of bridge {} is \"netdev\": only the kernel's has representors of NICs", self.bridge))
    }
}
