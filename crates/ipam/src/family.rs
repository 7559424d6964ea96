//! The addresses of one family of one subnet.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::free_set::{FreeSet, Taken};
use crate::holders::{Holders, Slot};
use crate::ranges::Ranges;
use crate::request::PoolName;
use crate::subnet::{PoolSpec, SubnetSpec};
use crate::table::{Table, spread};

/// What may serve some requests: all that can be allocated, that without exclusive pools, or a pool.
#[derive(Default)]
pub(crate) struct Scope {
    pub(crate) ranges: Ranges,
    pub(crate) total: u128,
    pub(crate) used: u128,
    /// Where the next search starts, so that what is free is given out in turn.
    cursor: u128,
}

impl Scope {
    pub(crate) const fn available(&self) -> u128 {
        self.total - self.used
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the halves are meant")]
#[inline(always)]
const fn hash(offset: u128) -> u32 {
    spread(offset as u64 ^ ((offset >> 64) as u64).rotate_left(32))
}

/// An address that was taken, and what must be known to undo that.
pub(crate) struct Undo {
    taken: Taken,
    scope: Option<(Whence, u128)>,
}

/// Which scope served a request.
#[derive(Clone)]
pub(crate) enum Whence {
    General,
    Pool(PoolName),
}

fn scope(ranges: Ranges, held: &Ranges, cursor: u128) -> Scope {
    Scope { total: ranges.total(), used: held.within(&ranges).total(), ranges, cursor }
}

pub(crate) struct Family {
    pub(crate) net: IpNet,
    first: u128,
    last: u128,
    pub(crate) set: FreeSet,
    pub(crate) whole: Scope,
    /// Without exclusive pools, when there are some.
    general: Option<Scope>,
    pub(crate) pools: BTreeMap<PoolName, Scope>,
    holders: Table,
}

#[inline(always)]
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

impl Family {
    pub(crate) fn new(net: IpNet) -> Self {
        let (first, last) = (bits(net.network()), bits(net.broadcast()));
        let set = FreeSet::new((last - first).saturating_add(1));
        let (whole, general, pools, holders) = Default::default();
        Self { net, first, last, set, whole, general, pools, holders }
    }

    #[inline(always)]
    pub(crate) fn is_v4(&self) -> bool {
        self.net.addr().is_ipv4()
    }

    pub(crate) const fn size(&self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    /// The offset of an address of this range.
    #[inline(always)]
    pub(crate) fn offset(&self, ip: IpAddr) -> Option<u128> {
        (ip.is_ipv4() == self.is_v4()).then(|| bits(ip)).filter(|ip| (self.first..=self.last).contains(ip)).map(|ip| ip - self.first)
    }

    #[inline(always)]
    pub(crate) fn address(&self, offset: u128) -> IpAddr {
        let value = self.first + offset;
        match self.net {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(value).unwrap_or(u32::MAX))),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(value)),
        }
    }

    /// The part of inclusive ranges of addresses that lies here, as offsets.
    fn offsets(&self, ranges: &[(IpAddr, IpAddr)]) -> Vec<(u128, u128)> {
        let own = ranges.iter().filter(|(first, last)| first.is_ipv4() == self.is_v4() && last.is_ipv4() == self.is_v4());
        own.map(|(first, last)| (bits(*first).max(self.first), bits(*last).min(self.last)))
            .filter(|(first, last)| first <= last)
            .map(|(first, last)| (first - self.first, last - self.first))
            .collect()
    }

    /// Sets what may be allocated. Holders of what may not be any more keep it and are not counted.
    pub(crate) fn set_scopes(&mut self, spec: &SubnetSpec, pools: &BTreeMap<PoolName, PoolSpec>) {
        // The network address and, in IPv4, the broadcast address (RFC 1122); in IPv6 the subnet-router anycast (RFC 4291 §2.6.1).
        let mut reserved = self.offsets(&spec.excluded);
        reserved.push((0, 0));
        if self.is_v4() {
            reserved.push((self.size() - 1, self.size() - 1));
        }
        let whole = Ranges::new(vec![(0, self.size() - 1)]).without(&Ranges::new(reserved));
        let exclusive = pools.values().filter(|pool| pool.exclusive).flat_map(|pool| self.offsets(&pool.ranges)).collect();
        let exclusive = Ranges::new(exclusive).within(&whole);
        let general = (!exclusive.is_empty()).then(|| whole.without(&exclusive));
        let of_pools: Vec<(PoolName, Ranges)> =
            pools.iter().map(|(name, pool)| (name.clone(), Ranges::new(self.offsets(&pool.ranges)).within(&whole))).collect();

        let before = (std::mem::take(&mut self.whole), self.general.take(), std::mem::take(&mut self.pools));
        let held = self.set.used();
        let cursor = before.1.as_ref().map_or(before.0.cursor, |general| general.cursor);
        self.whole = scope(whole, &held, cursor);
        self.general = general.map(|general| scope(general, &held, cursor));
        for (name, ranges) in of_pools.into_iter().filter(|(_, ranges)| !ranges.is_empty()) {
            let cursor = before.2.get(&name).map_or(0, |scope| scope.cursor);
            self.pools.insert(name, scope(ranges, &held, cursor));
        }
    }

    /// Takes over from the family before a change of the range: who was released lately, and where the search goes on.
    pub(crate) fn follow(&mut self, old: &Self) {
        for ip in old.set.released().map(|offset| old.address(offset)) {
            if let Some(offset) = self.offset(ip) {
                self.set.mark_released(offset);
            }
        }
        let cursor = old.general.as_ref().map_or(old.whole.cursor, |general| general.cursor);
        // At the beginning of the old range nothing has been searched yet.
        if (1..old.size()).contains(&cursor) {
            self.whole.cursor = self.offset(old.address(cursor)).unwrap_or(0);
        }
    }

    pub(crate) fn holder(&self, offset: u128, all: &Holders) -> Option<Slot> {
        let (ip, v4) = (self.address(offset), self.is_v4());
        self.holders.find(hash(offset), |slot| all.get(slot).is_some_and(|holder| holder.addresses.of(v4) == Some(ip)))
    }

    /// See [`Table::touch`].
    #[inline(always)]
    pub(crate) fn touch(&self, offset: u128) {
        self.holders.touch(hash(offset));
    }

    /// The same for what [`Family::take_next`] will take.
    #[inline(always)]
    pub(crate) fn touch_next(&self) {
        let scope = self.general.as_ref().unwrap_or(&self.whole);
        if let Some(offset) = self.set.next(&scope.ranges, scope.cursor) {
            self.touch(offset);
        }
    }

    /// Takes a chosen offset that nobody holds.
    pub(crate) fn take(&mut self, offset: u128) -> Option<Undo> {
        self.set.take(offset).map(|taken| Undo { taken, scope: None })
    }

    /// Takes the next offset for requests that name no pool.
    pub(crate) fn take_next(&mut self) -> Option<(u128, Undo)> {
        let scope = self.general.as_mut().unwrap_or(&mut self.whole);
        Self::take_from(&mut self.set, scope, || Whence::General)
    }

    /// Takes the next offset of a pool.
    pub(crate) fn take_of_pool(&mut self, pool: &PoolName) -> Option<(u128, Undo)> {
        Self::take_from(&mut self.set, self.pools.get_mut(pool)?, || Whence::Pool(pool.clone()))
    }

    fn take_from(set: &mut FreeSet, scope: &mut Scope, whence: impl FnOnce() -> Whence) -> Option<(u128, Undo)> {
        if scope.available() == 0 {
            return None;
        }
        let taken = set.take_next(&scope.ranges, scope.cursor)?;
        let undo = Undo { taken, scope: Some((whence(), scope.cursor)) };
        if !taken.was_released() {
            scope.cursor = taken.offset + 1;
        }
        Some((taken.offset, undo))
    }

    /// Undoes the last taking.
    pub(crate) fn undo(&mut self, undo: Undo) {
        self.set.undo(undo.taken);
        match undo.scope {
            Some((Whence::General, cursor)) => self.general.as_mut().unwrap_or(&mut self.whole).cursor = cursor,
            Some((Whence::Pool(pool), cursor)) => {
                if let Some(scope) = self.pools.get_mut(&pool) {
                    scope.cursor = cursor;
                }
            }
            None => {}
        }
    }

    #[inline(always)]
    fn each_scope(&mut self, offset: u128, count: impl Fn(&mut u128)) {
        for scope in std::iter::once(&mut self.whole).chain(&mut self.general).chain(self.pools.values_mut()) {
            if scope.ranges.contains(offset) {
                count(&mut scope.used);
            }
        }
    }

    /// Notes who holds what was taken.
    pub(crate) fn hold(&mut self, offset: u128, slot: Slot) {
        self.holders.insert(hash(offset), slot);
        self.each_scope(offset, |used| *used += 1);
    }

    /// Forgets who held `offset`.
    pub(crate) fn unhold(&mut self, offset: u128, slot: Slot) {
        self.holders.remove(hash(offset), slot);
        self.each_scope(offset, |used| *used -= 1);
    }

    /// Gives back what was held.
    #[inline(always)]
    pub(crate) fn give(&mut self, offset: u128, slot: Slot) {
        self.touch(offset);
        // First, since it takes time and the search for the holder waits for memory.
        self.set.give(offset);
        self.unhold(offset, slot);
    }

    /// How many hold addresses of this range that may not be allocated any more.
    pub(crate) fn held_in_reserve(&self) -> u128 {
        self.holders.len() as u128 - self.whole.used
    }
}
