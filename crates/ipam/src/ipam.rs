//! The allocator: subnets, pools, and who holds what.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::family::Family;
use crate::holders::{Holder, Holders, Slot, SubnetId};
use crate::listing::{Footprint, Listing, State, Usage};
use crate::macs::Macs;
use crate::queue::Queue;
use crate::request::{Claim, Holding, Owner, PoolName, SubnetName, VpcName};
use crate::subnet::{PoolSpec, Subnet, SubnetSpec};

/// The allocator.
#[derive(Default)]
pub struct Ipam {
    ids: FxHashMap<SubnetName, SubnetId>,
    pub(crate) subnets: Vec<Option<Subnet>>,
    /// Pools of subnets that are not known (yet).
    pools: FxHashMap<SubnetName, BTreeMap<PoolName, PoolSpec>>,
    pub(crate) vpcs: FxHashMap<VpcName, Macs>,
    pub(crate) holders: Holders,
    pub(crate) queue: Queue,
}

impl Ipam {
    /// Adds a subnet or changes it. Holders keep what they hold, even outside the new range: see [`Ipam::stranded`].
    pub fn set_subnet(&mut self, name: &SubnetName, spec: SubnetSpec) {
        let id = self.id(name);
        match id.and_then(|id| self.subnets[id as usize].as_ref()).map(|subnet| &subnet.spec) {
            Some(old) if *old == spec => return,
            Some(old) if old.vpc != spec.vpc => {
                let from = old.vpc.clone();
                self.move_macs(name, &from, &spec.vpc);
            }
            Some(_) => {}
            None => self.vpcs.entry(spec.vpc.clone()).or_default().subnets += 1,
        }
        match id {
            Some(id) => {
                let held = self.held(name);
                if let Some(subnet) = &mut self.subnets[id as usize] {
                    subnet.change(spec, &held);
                }
            }
            None => {
                let subnet = Some(Subnet::new(name.clone(), spec, self.pools.remove(name).unwrap_or_default()));
                let id = self.subnets.iter().position(Option::is_none).unwrap_or(self.subnets.len());
                if id == self.subnets.len() {
                    self.subnets.push(subnet)
                } else {
                    self.subnets[id] = subnet
                }
                // A subnet has a name of its own in memory: there are not 2^32 of them.
                self.ids.insert(name.clone(), SubnetId::try_from(id).unwrap_or(SubnetId::MAX));
            }
        }
        self.queue.changed(name);
    }

    fn of_subnet(&self, subnet: &str) -> impl Iterator<Item = (Slot, &Holder)> {
        let known = self.id(subnet).and_then(|id| Some((id, self.subnets.get(id as usize)?.as_ref()?.held)));
        known.into_iter().flat_map(|(id, count)| self.holders.of_subnet(id, count))
    }

    fn held(&self, subnet: &str) -> Vec<(IpAddr, Slot)> {
        self.of_subnet(subnet).flat_map(|(slot, holder)| holder.addresses.iter().map(move |ip| (ip, slot))).collect()
    }

    fn move_macs(&mut self, subnet: &str, from: &VpcName, to: &VpcName) {
        let held: Vec<_> = self.of_subnet(subnet).map(|(slot, holder)| (slot, holder.mac)).collect();
        self.vpcs.entry(to.clone()).or_default().subnets += 1;
        for (slot, mac) in held {
            if self.vpcs.get_mut(from).is_some_and(|macs| macs.release(mac, slot)) {
                self.queue.released("", std::iter::empty(), Some((from.clone(), mac)));
            }
            if let Some(macs) = self.vpcs.get_mut(to) {
                macs.hold(mac, slot, &self.holders);
            }
        }
        self.leave_vpc(from);
    }

    fn leave_vpc(&mut self, vpc: &VpcName) {
        if let Some(macs) = self.vpcs.get_mut(vpc) {
            macs.subnets -= 1;
            if macs.subnets == 0 {
                self.vpcs.remove(vpc);
            }
        }
    }

    /// Forgets a subnet. Its holders lose what they hold and are returned, in the order of their names. Its pools and those who
    /// wait for it stay, should it come back.
    pub fn remove_subnet(&mut self, name: &SubnetName) -> Vec<Owner> {
        let mut holders: Vec<Owner> = self.holders(name).iter().cloned().collect();
        holders.sort_unstable();
        for owner in &holders {
            self.give_up(owner);
        }
        if let Some(subnet) = self.ids.remove(name).and_then(|id| self.subnets[id as usize].take()) {
            self.leave_vpc(&subnet.spec.vpc);
            if !subnet.pools.is_empty() {
                self.pools.insert(name.clone(), subnet.pools);
            }
        }
        holders
    }

    /// The holders of addresses that `subnet` offers now and would not offer under `spec`, in the order of their names: reasons
    /// to refuse the change. They would keep their addresses.
    #[must_use]
    pub fn stranded(&self, subnet: &str, spec: &SubnetSpec) -> Vec<(Owner, IpAddr)> {
        let Some(now) = self.subnet(subnet) else { return Vec::new() };
        let then = Subnet::new(now.name.clone(), spec.clone(), BTreeMap::new());
        let lost = self.held(subnet).into_iter().filter(|(ip, _)| now.offers(*ip) && !then.offers(*ip));
        let mut lost: Vec<_> = lost.filter_map(|(ip, slot)| Some((self.holders.owner(slot)?, ip))).collect();
        lost.sort_unstable();
        lost
    }

    /// Adds a pool to a subnet, known or not, or changes it. Holders keep what they hold.
    pub fn set_pool(&mut self, subnet: &SubnetName, pool: &PoolName, spec: PoolSpec) {
        self.change_pools(subnet, |pools| drop(pools.insert(pool.clone(), spec)));
    }

    /// Removes a pool from a subnet. Holders keep what they hold.
    pub fn remove_pool(&mut self, subnet: &SubnetName, pool: &str) {
        self.change_pools(subnet, |pools| drop(pools.remove(pool)));
    }

    fn change_pools(&mut self, subnet: &SubnetName, change: impl FnOnce(&mut BTreeMap<PoolName, PoolSpec>)) {
        if let Some(known) = self.id(subnet).and_then(|id| self.subnets[id as usize].as_mut()) {
            change(&mut known.pools);
            known.set_scopes();
            self.queue.changed(subnet);
        } else {
            let pools = self.pools.entry(subnet.clone()).or_default();
            change(pools);
            if pools.is_empty() {
                self.pools.remove(subnet);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn id(&self, subnet: &str) -> Option<SubnetId> {
        self.ids.get(subnet).copied()
    }

    pub(crate) fn subnet(&self, name: &str) -> Option<&Subnet> {
        self.subnets.get(self.id(name)? as usize)?.as_ref()
    }

    /// What `owner` holds.
    #[must_use]
    pub fn holding(&self, owner: &str) -> Option<Holding> {
        self.holders.get(self.holders.find(owner)?).and_then(|holder| self.describe(holder))
    }

    pub(crate) fn describe(&self, holder: &Holder) -> Option<Holding> {
        let subnet = self.subnets.get(holder.subnet as usize)?.as_ref()?.name.clone();
        Some(Holding { subnet, addresses: holder.addresses.iter().collect(), mac: holder.mac })
    }

    /// Who holds `ip` in `subnet`.
    #[must_use]
    pub fn holder(&self, subnet: &str, ip: IpAddr) -> Option<&Owner> {
        self.holders.get(self.subnet(subnet)?.holder(ip, &self.holders)?).map(|holder| &holder.owner)
    }

    /// Changes by which right `owner` holds what it holds, as when its workload stops or starts.
    pub fn set_claim(&mut self, owner: &str, claim: Claim) {
        if let Some(holder) = self.holders.find(owner).and_then(|slot| self.holders.get_mut(slot)) {
            holder.claim = claim;
        }
    }

    /// Number of holders.
    #[must_use]
    pub fn len(&self) -> usize {
        self.holders.len()
    }

    /// Whether nobody holds anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.holders.len() == 0
    }

    /// Counts of a subnet; zero when it is not known.
    #[must_use]
    pub fn usage(&self, subnet: &str) -> Usage {
        self.subnet(subnet).map(Usage::of_subnet).unwrap_or_default()
    }

    /// Counts of a pool; zero when it or its subnet is not known.
    #[must_use]
    pub fn pool_usage(&self, subnet: &str, pool: &str) -> Usage {
        self.subnet(subnet).map(|subnet| Usage::of_pool(subnet, pool)).unwrap_or_default()
    }

    /// The addresses that are held of those that a subnet offers.
    #[must_use]
    pub fn used_ranges(&self, subnet: &str) -> Listing {
        self.list(subnet, None, State::Used)
    }

    /// The addresses of a subnet that can still be allocated.
    #[must_use]
    pub fn available_ranges(&self, subnet: &str) -> Listing {
        self.list(subnet, None, State::Available)
    }

    /// The addresses of a pool that are held.
    #[must_use]
    pub fn pool_used_ranges(&self, subnet: &str, pool: &str) -> Listing {
        self.list(subnet, Some(pool), State::Used)
    }

    /// The addresses of a pool that can still be allocated.
    #[must_use]
    pub fn pool_available_ranges(&self, subnet: &str, pool: &str) -> Listing {
        self.list(subnet, Some(pool), State::Available)
    }

    fn list(&self, subnet: &str, pool: Option<&str>, state: State) -> Listing {
        self.subnet(subnet).map(|subnet| Listing::of(subnet, pool, state)).unwrap_or_default()
    }

    /// Memory of the sets that know what is free in a subnet.
    #[must_use]
    pub fn footprint(&self, subnet: &str) -> Footprint {
        self.subnet(subnet).map(Footprint::of).unwrap_or_default()
    }

    /// Number of addresses in a subnet's ranges, IPv4 and IPv6.
    #[must_use]
    pub fn size(&self, subnet: &str) -> (u128, u128) {
        let size = |v4| self.subnet(subnet).and_then(|subnet| subnet.family(v4)).map_or(0, Family::size);
        (size(true), size(false))
    }

    /// The holders in a subnet, in no particular order.
    #[must_use]
    pub fn holders(&self, subnet: &str) -> SubnetHolders<'_> {
        let subnet = self.id(subnet).and_then(|id| Some((id, self.subnets.get(id as usize)?.as_ref()?.held)));
        let (subnet, len) = subnet.unwrap_or_default();
        SubnetHolders { all: &self.holders, subnet, len }
    }
}

/// The holders in one subnet.
#[derive(Clone, Copy)]
pub struct SubnetHolders<'a> {
    all: &'a Holders,
    subnet: SubnetId,
    len: usize,
}

impl<'a> SubnetHolders<'a> {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Their names, in no particular order. All holders of all subnets are looked at.
    pub fn iter(&self) -> impl Iterator<Item = &'a Owner> + use<'a> {
        self.all.of_subnet(self.subnet, self.len).map(|(_, holder)| &holder.owner)
    }
}
