//! What is told of a subnet or a pool: counts, ranges in use and free, and the memory that this takes.

use std::fmt;
use std::net::IpAddr;

use crate::family::{Family, Scope};
use crate::free_set::FreeSet;
use crate::ranges::Ranges;
use crate::subnet::Subnet;

/// Addresses of a subnet or a pool by state. For a subnet, used, available and excluded ones of a family make the size of its
/// range; holders of what is no longer offered (outside the range, or excluded since) are counted apart, as strays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// IPv4 addresses held.
    pub v4_used: u128,
    /// IPv4 addresses that can still be allocated.
    pub v4_available: u128,
    /// IPv4 addresses that are never allocated: network, broadcast, gateways, excludes. Zero for a pool.
    pub v4_excluded: u128,
    /// IPv4 addresses that are held though the subnet does not offer them. Zero for a pool.
    pub v4_strays: u128,
    /// IPv6 addresses held.
    pub v6_used: u128,
    /// IPv6 addresses that can still be allocated.
    pub v6_available: u128,
    /// IPv6 addresses that are never allocated. Zero for a pool.
    pub v6_excluded: u128,
    /// IPv6 addresses that are held though the subnet does not offer them. Zero for a pool.
    pub v6_strays: u128,
}

impl Usage {
    pub(crate) fn of_subnet(subnet: &Subnet) -> Self {
        let excluded = |v4| subnet.family(v4).map_or(0, |family| family.size() - family.whole.total);
        let usage = Self::of(|v4| subnet.family(v4).map(|family| &family.whole));
        let (v4_strays, v6_strays) = (subnet.strays(true), subnet.strays(false));
        Self { v4_excluded: excluded(true), v6_excluded: excluded(false), v4_strays, v6_strays, ..usage }
    }

    pub(crate) fn of_pool(subnet: &Subnet, pool: &str) -> Self {
        Self::of(|v4| subnet.family(v4)?.pools.get(pool))
    }

    fn of<'a>(scope: impl Fn(bool) -> Option<&'a Scope>) -> Self {
        let counts = |v4| scope(v4).map_or((0, 0), |scope| (scope.used, scope.available()));
        let ((v4_used, v4_available), (v6_used, v6_available)) = (counts(true), counts(false));
        Self { v4_used, v4_available, v6_used, v6_available, ..Self::default() }
    }
}

/// Addresses of one family as inclusive ranges in ascending order; written `10.0.0.2-10.0.0.5,10.0.0.9`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressRanges(pub Vec<(IpAddr, IpAddr)>);

impl fmt::Display for AddressRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

/// Addresses of a subnet or a pool, by family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// IPv4.
    pub v4: AddressRanges,
    /// IPv6.
    pub v6: AddressRanges,
}

/// Which addresses are listed.
#[derive(Clone, Copy)]
pub(crate) enum State {
    Used,
    Available,
}

impl Listing {
    /// Lists addresses of a pool, or of the whole subnet.
    pub(crate) fn of(subnet: &Subnet, pool: Option<&str>, state: State) -> Self {
        let list = |v4| {
            let family = subnet.family(v4)?;
            let scope = pool.map_or(Some(&family.whole), |pool| family.pools.get(pool))?;
            let used = family.set.used();
            let ranges = match state {
                State::Used => used.within(&scope.ranges),
                State::Available => scope.ranges.without(&used),
            };
            Some(addresses(family, &ranges))
        };
        Self { v4: list(true).unwrap_or_default(), v6: list(false).unwrap_or_default() }
    }
}

fn addresses(family: &Family, ranges: &Ranges) -> AddressRanges {
    AddressRanges(ranges.iter().map(|(first, last)| (family.address(first), family.address(last))).collect())
}

/// Memory of the sets that know what is free in a subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Heap of the sets, in bytes.
    pub bytes: usize,
    /// Heap of the queues of addresses that were released lately, in bytes: bounded for each family.
    pub queued: usize,
    /// Runs of addresses that are not free.
    pub runs: usize,
    /// The smaller of 24 bytes for each run and two bits for each address, in bytes.
    pub limit: u128,
}

impl Footprint {
    pub(crate) fn of(subnet: &Subnet) -> Self {
        let mut all = Self::default();
        for family in &subnet.families {
            let (bytes, queued) = FreeSet::bytes(&family.set);
            let runs = family.set.runs();
            all.bytes += bytes;
            all.queued += queued;
            all.runs += runs;
            all.limit += (runs as u128 * 24).min(family.size() / 4);
        }
        all
    }
}
