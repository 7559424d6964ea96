//! The design to compare with: the free addresses as a sorted list of ranges, of which each allocation makes a copy to take
//! the reserved ones away; owners and MACs in maps by name.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipam::Ipam;

type Range = (u128, u128);

pub struct FreeRanges {
    free: Vec<Range>,
    reserved: Vec<Range>,
    by_owner: HashMap<Arc<str>, (u128, String)>,
    by_address: HashMap<u128, Arc<str>>,
    by_mac: HashMap<String, Arc<str>>,
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn without(ranges: &[Range], gone: &[Range]) -> Vec<Range> {
    let mut left = ranges.to_vec();
    for (from, to) in gone {
        let at = left.partition_point(|(_, last)| last < from);
        if let Some((first, last)) = left.get(at).copied().filter(|(first, _)| first <= to) {
            let parts = [(first, from.wrapping_sub(1)), (to + 1, last)];
            left.splice(at..=at, parts.into_iter().filter(|(a, b)| a <= b));
        }
    }
    left
}

impl FreeRanges {
    /// The same state as that of `subnet` now; of the owners only those that come later are kept by name.
    pub fn new(ipam: &Ipam, subnet: &str) -> Self {
        let free = ipam.available_ranges(subnet).v4.0.into_iter().map(|(first, last)| (number(first), number(last))).collect();
        let (by_owner, by_address, by_mac) = Default::default();
        Self {
            free,
            reserved: vec![(number(IpAddr::from([10, 0, 0, 1])), number(IpAddr::from([10, 0, 0, 1])))],
            by_owner,
            by_address,
            by_mac,
        }
    }

    pub fn allocate(&mut self, owner: &Arc<str>) {
        let usable = without(&self.free, &self.reserved);
        let address = usable[0].0;
        self.free = without(&self.free, &[(address, address)]);
        let mac = (0u8..=255).map(|i| format!("02:00:00:{:02x}:{:02x}:{i:02x}", address >> 8 & 255, address & 255));
        let mac = mac.into_iter().find(|mac| !self.by_mac.contains_key(mac)).unwrap();
        self.by_mac.insert(mac.clone(), Arc::clone(owner));
        self.by_address.insert(address, Arc::clone(owner));
        self.by_owner.insert(Arc::clone(owner), (address, mac));
    }

    pub fn release(&mut self, owner: &str) {
        let (address, mac) = self.by_owner.remove(owner).unwrap();
        self.by_address.remove(&address);
        self.by_mac.remove(&mac);
        let at = self.free.partition_point(|(first, _)| *first < address);
        let joins = (at > 0 && self.free[at - 1].1 + 1 == address, self.free.get(at).is_some_and(|(first, _)| *first == address + 1));
        match joins {
            (true, true) => {
                self.free[at - 1].1 = self.free[at].1;
                self.free.remove(at);
            }
            (true, false) => self.free[at - 1].1 = address,
            (false, true) => self.free[at].0 = address,
            (false, false) => self.free.insert(at, (address, address)),
        }
    }
}
