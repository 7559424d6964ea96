//! The MACs of one VPC. Each is held once, but for those that holders brought with them: OVN forwards such duplicates badly, but
//! taking the address from a running workload would be worse.

use std::hash::{Hash, Hasher};

use api::MacAddr;
use rustc_hash::{FxHashMap, FxHasher};

use crate::holders::{Holders, Slot};
use crate::table::{Table, spread};

#[derive(Default)]
pub(crate) struct Macs {
    held: Table,
    /// Who else holds a MAC that more than one holds: all of them, by MAC.
    shared: FxHashMap<MacAddr, Vec<Slot>>,
    /// How many subnets the VPC has.
    pub(crate) subnets: usize,
}

/// The MAC to try for an owner.
pub(crate) fn made(vpc: &str, owner: &str, attempt: u64) -> MacAddr {
    let mut hasher = FxHasher::default();
    (vpc, owner, attempt).hash(&mut hasher);
    MacAddr::local(0, hasher.finish() >> 13)
}

#[inline(always)]
const fn hash(mac: MacAddr) -> u32 {
    let [a, b, c, d, e, f] = mac.octets();
    spread(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
}

impl Macs {
    #[inline(always)]
    pub(crate) fn holder(&self, mac: MacAddr, all: &Holders) -> Option<Slot> {
        self.held.find(hash(mac), |slot| all.get(slot).is_some_and(|holder| holder.mac == mac))
    }

    /// See [`Table::touch`].
    #[inline(always)]
    pub(crate) fn touch(&self, mac: MacAddr) {
        self.held.touch(hash(mac));
    }

    /// Another than `slot` that holds the MAC.
    pub(crate) fn shared_with(&self, mac: MacAddr, slot: Slot) -> Option<Slot> {
        self.shared.get(&mac)?.iter().copied().find(|other| *other != slot)
    }

    pub(crate) fn hold(&mut self, mac: MacAddr, slot: Slot, all: &Holders) {
        if let Some(first) = self.holder(mac, all) {
            let sharing = self.shared.entry(mac).or_insert_with(|| vec![first]);
            sharing.push(slot);
        }
        self.held.insert(hash(mac), slot);
    }

    /// Makes a MAC that nobody holds: the same for the same owner whenever it is free, so that a pod that is made anew is
    /// known to its neighbours.
    pub(crate) fn make(&mut self, vpc: &str, owner: &str, slot: Slot, all: &Holders) -> MacAddr {
        let mut attempt = 0;
        loop {
            let mac = made(vpc, owner, attempt);
            if self.holder(mac, all).is_none() {
                self.held.insert(hash(mac), slot);
                return mac;
            }
            attempt += 1;
        }
    }

    /// Forgets that `slot` holds the MAC; `true` when nobody does now.
    pub(crate) fn release(&mut self, mac: MacAddr, slot: Slot) -> bool {
        self.held.remove(hash(mac), slot);
        if self.shared.is_empty() {
            return true;
        }
        let Some(sharing) = self.shared.get_mut(&mac) else { return true };
        sharing.retain(|other| *other != slot);
        if sharing.len() == 1 {
            self.shared.remove(&mac);
        }
        false
    }
}
