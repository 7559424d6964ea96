//! One subnet: its ranges, its pools, and who holds addresses of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::Cidrs;
use ipnet::IpNet;

use crate::error::{PoolError, family_name};
use crate::family::{Family, Undo};
use crate::holders::{Holders, Slot};
use crate::queue::Room;
use crate::request::{Addresses, PoolName, Request, SubnetName, VpcName};

/// What the allocator must know of a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetSpec {
    /// VPC within which MACs are unique.
    pub vpc: VpcName,
    /// Ranges; a subnet without them gives MACs alone.
    pub cidrs: Option<Cidrs>,
    /// Inclusive ranges that are never allocated: gateways and excludes. Each costs the same whatever its length.
    pub excluded: Vec<(IpAddr, IpAddr)>,
}

impl SubnetSpec {
    /// A subnet of `vpc` with these ranges.
    #[must_use]
    pub fn new(vpc: VpcName, cidrs: impl Into<Option<Cidrs>>, excluded: Vec<(IpAddr, IpAddr)>) -> Self {
        Self { vpc, cidrs: cidrs.into().filter(|cidrs| !cidrs.is_empty()), excluded }
    }

    fn nets(&self) -> impl Iterator<Item = IpNet> + use<> {
        self.cidrs.into_iter().flat_map(|cidrs| cidrs.iter())
    }
}

/// A part of a subnet with a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolSpec {
    /// Inclusive ranges. What of them lies outside the subnet or in its reserve is left out.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// Whether only requests that name the pool, or one of its addresses, get an address of it.
    pub exclusive: bool,
}

/// The state of one subnet.
pub(crate) struct Subnet {
    pub(crate) name: SubnetName,
    pub(crate) spec: SubnetSpec,
    pub(crate) pools: BTreeMap<PoolName, PoolSpec>,
    pub(crate) families: Vec<Family>,
    /// How many holders there are.
    pub(crate) held: usize,
    /// Who holds addresses outside the ranges.
    strays: BTreeMap<IpAddr, Slot>,
}

/// What was taken for one request, and what must be known to undo that.
#[derive(Default)]
pub(crate) struct Taking {
    pub(crate) addresses: Addresses,
    undo: [Option<Undo>; 2],
}

impl Subnet {
    pub(crate) fn new(name: SubnetName, spec: SubnetSpec, pools: BTreeMap<PoolName, PoolSpec>) -> Self {
        let families = spec.nets().map(Family::new).collect();
        let mut subnet = Self { name, spec, pools, families, held: 0, strays: BTreeMap::new() };
        subnet.set_scopes();
        subnet
    }

    /// Takes over a changed spec; `held` is what all holders have.
    pub(crate) fn change(&mut self, spec: SubnetSpec, held: &[(IpAddr, Slot)]) {
        let old = std::mem::take(&mut self.families);
        self.spec = spec;
        self.strays.clear();
        let mut fresh = Vec::new();
        let mut old: Vec<Option<Family>> = old.into_iter().map(Some).collect();
        for net in self.spec.nets() {
            let before = old.iter_mut().find(|f| f.as_ref().is_some_and(|f| f.is_v4() == net.addr().is_ipv4())).and_then(Option::take);
            let changed = before.as_ref().is_none_or(|family| family.net != net);
            self.families.push(match before {
                Some(family) if !changed => family,
                Some(family) => {
                    let mut new = Family::new(net);
                    new.follow(&family);
                    new
                }
                None => Family::new(net),
            });
            fresh.push(changed);
        }
        for (ip, slot) in held {
            match self.place(*ip) {
                Some((at, offset)) if fresh[at] => {
                    self.families[at].take(offset);
                    self.families[at].hold(offset, *slot);
                }
                Some(_) => {}
                None => drop(self.strays.insert(*ip, *slot)),
            }
        }
        self.set_scopes();
    }

    pub(crate) fn set_scopes(&mut self) {
        for family in &mut self.families {
            family.set_scopes(&self.spec, &self.pools);
        }
    }

    /// The family whose range holds `ip`, and where.
    #[inline(always)]
    fn place(&self, ip: IpAddr) -> Option<(usize, u128)> {
        self.families.iter().enumerate().find_map(|(at, family)| family.offset(ip).map(|offset| (at, offset)))
    }

    pub(crate) fn holder(&self, ip: IpAddr, all: &Holders) -> Option<Slot> {
        match self.place(ip) {
            Some((at, offset)) => self.families[at].holder(offset, all),
            None => self.strays.get(&ip).copied(),
        }
    }

    /// Whether `ip` may be allocated to somebody.
    pub(crate) fn offers(&self, ip: IpAddr) -> bool {
        self.place(ip).is_some_and(|(at, offset)| self.families[at].whole.ranges.contains(offset))
    }

    /// Takes an address of each family that is asked for, or none at all.
    pub(crate) fn take(&mut self, request: &Request, all: &Holders) -> Result<Taking, PoolError> {
        let chosen = Addresses::new(&request.addresses).map_err(PoolError::SecondOfFamily)?;
        if let Some(outside) = chosen.iter().find(|ip| self.place(*ip).is_none()) {
            return Err(self.outside(outside));
        }
        if !self.families.is_empty() {
            if let Some(unknown) = request.pools.first()
                && !request.pools.iter().any(|pool| self.pools.contains_key(pool))
            {
                return Err(PoolError::UnknownPool(unknown.clone()));
            }
            if !self.families.iter().any(|family| request.families.has(family.is_v4())) {
                return Err(PoolError::NoFamily(family_name(!self.families[0].is_v4())));
            }
        }
        let mut taking = Taking::default();
        for at in 0..self.families.len() {
            let family = &mut self.families[at];
            match take(family, request, chosen, all) {
                Ok(Some((offset, undo))) => {
                    taking.addresses.set(family.address(offset));
                    taking.undo[at] = Some(undo);
                }
                Ok(None) => {}
                Err(error) => {
                    self.undo(taking);
                    return Err(error);
                }
            }
        }
        // The pools exist, but nothing of them lies in the subnet.
        match self.families.first() {
            Some(family) if taking.addresses.iter().next().is_none() => Err(Room::of(request, family.is_v4()).full()),
            _ => Ok(taking),
        }
    }

    pub(crate) fn outside(&self, ip: IpAddr) -> PoolError {
        self.spec.cidrs.map_or(PoolError::NoRange(ip), |cidrs| PoolError::Outside(ip, cidrs))
    }

    /// Undoes a taking, before anything else is taken.
    pub(crate) fn undo(&mut self, taking: Taking) {
        for (family, undo) in self.families.iter_mut().zip(taking.undo) {
            if let Some(undo) = undo {
                family.undo(undo);
            }
        }
    }

    /// Notes who holds what was taken.
    pub(crate) fn hold(&mut self, addresses: Addresses, slot: Slot) {
        for ip in addresses.iter() {
            if let Some((at, offset)) = self.place(ip) {
                self.families[at].hold(offset, slot);
            }
        }
    }

    /// Undoes [`Subnet::hold`].
    pub(crate) fn unhold(&mut self, addresses: Addresses, slot: Slot) {
        for ip in addresses.iter() {
            if let Some((at, offset)) = self.place(ip) {
                self.families[at].unhold(offset, slot);
            }
        }
    }

    /// Reads what a request will look up: see [`crate::table::Table::touch`].
    pub(crate) fn touch(&self, request: &Request) {
        for family in &self.families {
            match request.chosen(family.is_v4()).map(|ip| family.offset(ip)) {
                Some(Some(offset)) => family.touch(offset),
                None if request.pools.is_empty() && request.candidates.is_empty() => family.touch_next(),
                _ => {}
            }
        }
    }

    /// Takes in an address that nobody holds, wherever it lies: it is its holder's.
    pub(crate) fn adopt(&mut self, ip: IpAddr, slot: Slot) {
        match self.place(ip) {
            Some((at, offset)) => {
                self.families[at].take(offset);
                self.families[at].hold(offset, slot);
            }
            None => drop(self.strays.insert(ip, slot)),
        }
    }

    pub(crate) fn give(&mut self, addresses: Addresses, slot: Slot) {
        for ip in addresses.iter() {
            match self.place(ip) {
                Some((at, offset)) => self.families[at].give(offset, slot),
                None => drop(self.strays.remove(&ip)),
            }
        }
    }

    /// Whether a holder of `addresses` has what is asked for. Addresses outside the ranges, or of a pool that was changed, are
    /// kept when they are asked for by name.
    pub(crate) fn allows(&self, addresses: Addresses, request: &Request) -> bool {
        addresses.iter().filter(|ip| !request.addresses.contains(ip)).all(|ip| {
            let v4 = ip.is_ipv4();
            let mut candidates = request.candidates(v4).peekable();
            request.families.has(v4)
                && if candidates.peek().is_some() {
                    candidates.any(|candidate| candidate == ip)
                } else {
                    request.pools.is_empty() || request.pools.iter().any(|pool| self.in_pool(pool, ip))
                }
        })
    }

    fn in_pool(&self, pool: &str, ip: IpAddr) -> bool {
        let Some((at, offset)) = self.place(ip) else { return false };
        self.families[at].pools.get(pool).is_some_and(|scope| scope.ranges.contains(offset))
    }

    /// The rooms in which a request would look for addresses.
    pub(crate) fn rooms(&self, request: &Request) -> impl Iterator<Item = Room> {
        let families = self.families.iter().map(Family::is_v4);
        let wanted = families.filter(|v4| request.chosen(*v4).is_none() && request.families.has(*v4));
        wanted.map(|v4| Room::of(request, v4))
    }

    /// How many hold an address of the family that may not be allocated any more.
    pub(crate) fn strays(&self, v4: bool) -> u128 {
        let outside = self.strays.keys().filter(|ip| ip.is_ipv4() == v4).count() as u128;
        outside + self.family(v4).map_or(0, Family::held_in_reserve)
    }

    pub(crate) fn family(&self, v4: bool) -> Option<&Family> {
        self.families.iter().find(|family| family.is_v4() == v4)
    }
}

/// Takes what a request wants of one family: nothing, when it wants none.
fn take(family: &mut Family, request: &Request, chosen: Addresses, all: &Holders) -> Result<Option<(u128, Undo)>, PoolError> {
    let v4 = family.is_v4();
    if let Some(ip) = chosen.of(v4) {
        let Some(offset) = family.offset(ip) else { return Ok(None) };
        if family.holder(offset, all).is_some() {
            return Err(PoolError::InUse(ip));
        }
        if !family.whole.ranges.contains(offset) {
            return Err(PoolError::Reserved(ip));
        }
        return family.take(offset).map(|undo| Some((offset, undo))).ok_or(PoolError::InUse(ip));
    }
    if !request.families.has(v4) {
        return Ok(None);
    }
    let full = || Room::of(request, v4).full();
    if let Some(first) = request.candidates(v4).next() {
        return choose(family, request, first).map(Some);
    }
    if request.pools.is_empty() {
        return family.take_next().map(Some).ok_or_else(full);
    }
    if !request.pools.iter().any(|pool| family.pools.contains_key(pool)) {
        return Ok(None);
    }
    request.pools.iter().find_map(|pool| family.take_of_pool(pool)).map(Some).ok_or_else(full)
}

fn choose(family: &mut Family, request: &Request, first: IpAddr) -> Result<(u128, Undo), PoolError> {
    let v4 = family.is_v4();
    let offers = |offset: &u128| family.whole.ranges.contains(*offset);
    let usable: Vec<u128> = request.candidates(v4).filter_map(|ip| family.offset(ip)).filter(offers).collect();
    if usable.is_empty() {
        return Err(PoolError::Reserved(first));
    }
    let fresh = usable.iter().copied().find(|offset| family.set.is_plainly_free(*offset));
    let best = fresh.or_else(|| family.set.released().find(|offset| usable.contains(offset)));
    best.and_then(|offset| Some((offset, family.take(offset)?))).ok_or_else(|| Room::of(request, v4).full())
}
