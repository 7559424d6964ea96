//! The allocator once more, as simple as can be: lists that are searched, copies for undoing. It foretells which address
//! each gets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::MacAddr;
use ipam::{Claim, Families, Holding, PoolSpec, Request, SubnetSpec};

pub type Members = Vec<(String, Request)>;

/// What refuses a request, and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Room(bool, Vec<String>, Vec<IpAddr>),
    Address(IpAddr),
    Mac(String, MacAddr),
    Change,
}

#[derive(Clone)]
pub struct Subnet {
    pub spec: SubnetSpec,
    pub pools: BTreeMap<String, PoolSpec>,
    /// Released addresses in their order.
    released: Vec<IpAddr>,
    /// Where the search goes on, by family and pool.
    cursors: BTreeMap<(bool, Option<String>), u128>,
}

#[derive(Clone)]
pub struct Held {
    pub subnet: String,
    pub addresses: Vec<IpAddr>,
    pub mac: Option<MacAddr>,
    pub claim: Claim,
}

#[derive(Clone)]
struct Waiting {
    members: Members,
    subnet: String,
    reason: Reason,
}

#[derive(Clone, Default)]
pub struct Model {
    pub subnets: BTreeMap<String, Subnet>,
    pub held: BTreeMap<String, Held>,
    waiting: BTreeMap<u64, Waiting>,
    woken: BTreeSet<(String, Reason)>,
    arrivals: u64,
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

impl Subnet {
    pub fn new(spec: SubnetSpec) -> Self {
        Self { spec, pools: BTreeMap::new(), released: Vec::new(), cursors: BTreeMap::new() }
    }

    /// All addresses of a family.
    pub fn all(&self, v4: bool) -> Vec<IpAddr> {
        let net = self.spec.cidrs.and_then(|cidrs| cidrs.iter().find(|net| net.addr().is_ipv4() == v4));
        let Some(net) = net else { return Vec::new() };
        let (first, last) = (number(net.network()), number(net.broadcast()));
        let ip = |n| if v4 { Ipv4Addr::from_bits(u32::try_from(n).unwrap()).into() } else { Ipv6Addr::from_bits(n).into() };
        (first..=last).map(ip).collect()
    }

    /// Those that are not reserved.
    pub fn offered(&self, v4: bool) -> Vec<IpAddr> {
        let all = self.all(v4);
        let ends = [all.first().copied(), all.last().copied().filter(|_| v4)];
        let excluded = |ip: &IpAddr| self.spec.excluded.iter().any(|(a, b)| a.is_ipv4() == v4 && a <= ip && ip <= b);
        all.into_iter().filter(|ip| !ends.contains(&Some(*ip)) && !excluded(ip)).collect()
    }

    pub fn in_pool(&self, pool: &str, v4: bool) -> Vec<IpAddr> {
        let Some(pool) = self.pools.get(pool) else { return Vec::new() };
        self.offered(v4).into_iter().filter(|ip| pool.ranges.iter().any(|(a, b)| a <= ip && ip <= b)).collect()
    }

    fn general(&self, v4: bool) -> Vec<IpAddr> {
        let exclusive: Vec<IpAddr> =
            self.pools.iter().filter(|(_, spec)| spec.exclusive).flat_map(|(name, _)| self.in_pool(name, v4)).collect();
        self.offered(v4).into_iter().filter(|ip| !exclusive.contains(ip)).collect()
    }
}

impl Model {
    pub fn holder(&self, subnet: &str, ip: IpAddr) -> Option<&String> {
        self.held.iter().find(|(_, held)| held.subnet == subnet && held.addresses.contains(&ip)).map(|(owner, _)| owner)
    }

    /// Who else holds the MAC of an owner in its VPC.
    pub fn shares_mac(&self, owner: &str) -> bool {
        let own = &self.held[owner];
        let vpc = |held: &Held| self.subnets[&held.subnet].spec.vpc.clone();
        self.held.iter().any(|(other, held)| other != owner && held.mac == own.mac && vpc(held) == vpc(own))
    }

    /// Takes the address that is next: never released ones from the cursor on, then the one released first.
    fn next(&mut self, name: &str, v4: bool, pool: Option<String>) -> Option<IpAddr> {
        let subnet = &self.subnets[name];
        let among = pool.as_ref().map_or_else(|| subnet.general(v4), |pool| subnet.in_pool(pool, v4));
        let free: Vec<IpAddr> = among.into_iter().filter(|ip| self.holder(name, *ip).is_none()).collect();
        let fresh: Vec<IpAddr> = free.iter().copied().filter(|ip| !subnet.released.contains(ip)).collect();
        let cursor = subnet.cursors.get(&(v4, pool.clone())).copied().unwrap_or(0);
        if let Some(ip) = fresh.iter().find(|ip| number(**ip) >= cursor).or_else(|| fresh.first()).copied() {
            self.subnets.get_mut(name)?.cursors.insert((v4, pool), number(ip) + 1);
            return Some(ip);
        }
        subnet.released.iter().copied().find(|ip| free.contains(ip))
    }

    fn attempt(&mut self, owner: &str, request: &Request) -> Result<(), Reason> {
        let name = request.subnet.as_ref();
        let subnet = self.subnets.get(name).ok_or(Reason::Change)?;
        if let Some(mac) = request.mac
            && self.held.values().any(|h| h.mac == Some(mac) && self.subnets[&h.subnet].spec.vpc == subnet.spec.vpc)
        {
            return Err(Reason::Mac(subnet.spec.vpc.to_string(), mac));
        }
        let families: Vec<bool> = [true, false].into_iter().filter(|v4| !subnet.all(*v4).is_empty()).collect();
        let wants = |v4: bool| request.families != if v4 { Families::V6 } else { Families::V4 };
        if request.addresses.iter().any(|ip| !subnet.all(ip.is_ipv4()).contains(ip)) {
            return Err(Reason::Change);
        }
        if !families.is_empty() {
            let unknown = !request.pools.is_empty() && !request.pools.iter().any(|pool| subnet.pools.contains_key(pool.as_ref()));
            if unknown || !families.iter().any(|v4| wants(*v4)) {
                return Err(Reason::Change);
            }
        }
        let (before, mut addresses) = (self.clone(), Vec::new());
        for v4 in families.iter().copied() {
            match self.take(request, v4, wants(v4)) {
                Ok(ip) => addresses.extend(ip),
                Err(reason) => {
                    *self = before;
                    return Err(reason);
                }
            }
        }
        if !families.is_empty() && addresses.is_empty() {
            *self = before;
            return Err(room(request, families[0]));
        }
        let subnet = self.subnets.get_mut(name).unwrap();
        subnet.released.retain(|ip| !addresses.contains(ip));
        let held = Held { subnet: name.to_owned(), addresses, mac: request.mac, claim: Claim::default() };
        self.held.insert(owner.to_owned(), held);
        Ok(())
    }

    fn take(&mut self, request: &Request, v4: bool, wants: bool) -> Result<Option<IpAddr>, Reason> {
        let name = request.subnet.to_string();
        let subnet = &self.subnets[&name];
        if let Some(ip) = request.addresses.iter().copied().find(|ip| ip.is_ipv4() == v4) {
            return match self.holder(&name, ip) {
                Some(_) => Err(Reason::Address(ip)),
                None if !subnet.offered(v4).contains(&ip) => Err(Reason::Change),
                None => Ok(Some(ip)),
            };
        }
        if !wants {
            return Ok(None);
        }
        let candidates: Vec<IpAddr> = request.candidates.iter().copied().filter(|ip| ip.is_ipv4() == v4).collect();
        if !candidates.is_empty() {
            let usable: Vec<IpAddr> = candidates.into_iter().filter(|ip| subnet.offered(v4).contains(ip)).collect();
            if usable.is_empty() {
                return Err(Reason::Change);
            }
            let free: Vec<IpAddr> = usable.into_iter().filter(|ip| self.holder(&name, *ip).is_none()).collect();
            let fresh = free.iter().copied().find(|ip| !subnet.released.contains(ip));
            let best = fresh.or_else(|| subnet.released.iter().copied().find(|ip| free.contains(ip)));
            return best.map(Some).ok_or_else(|| room(request, v4));
        }
        if request.pools.is_empty() {
            return self.next(&name, v4, None).map(Some).ok_or_else(|| room(request, v4));
        }
        if request.pools.iter().all(|pool| subnet.in_pool(pool, v4).is_empty()) {
            return Ok(None);
        }
        let pools = request.pools.iter().map(ToString::to_string);
        pools.into_iter().find_map(|pool| self.next(&name, v4, Some(pool))).map(Some).ok_or_else(|| room(request, v4))
    }

    fn satisfied(&self, owner: &str, request: &Request) -> bool {
        let Some(held) = self.held.get(owner).filter(|held| held.subnet == request.subnet.as_ref()) else { return false };
        let subnet = &self.subnets[&held.subnet];
        let allowed = |ip: &IpAddr| {
            let v4 = ip.is_ipv4();
            let candidates: Vec<&IpAddr> = request.candidates.iter().filter(|c| c.is_ipv4() == v4).collect();
            let pooled = || request.pools.is_empty() || request.pools.iter().any(|pool| subnet.in_pool(pool, v4).contains(ip));
            let family = request.families != if v4 { Families::V6 } else { Families::V4 };
            request.addresses.contains(ip) || family && if candidates.is_empty() { pooled() } else { candidates.contains(&ip) }
        };
        request.addresses.iter().all(|ip| held.addresses.contains(ip))
            && request.mac.is_none_or(|mac| Some(mac) == held.mac)
            && held.addresses.iter().all(allowed)
    }

    fn attempt_all(&mut self, members: &Members) -> Result<(), (usize, Reason)> {
        let before = self.clone();
        for (at, (owner, request)) in members.iter().enumerate() {
            if !self.held.contains_key(owner)
                && let Err(reason) = self.attempt(owner, request)
            {
                *self = before;
                return Err((at, reason));
            }
        }
        Ok(())
    }

    /// Whether it was served.
    pub fn allocate_all(&mut self, members: &Members) -> bool {
        let place = self.waiting.iter().find(|(_, w)| w.members == *members).map(|(arrival, _)| *arrival);
        for (owner, request) in members {
            if !self.satisfied(owner, request) {
                self.give_up(owner);
            }
            if place.is_none() {
                self.leave_alone(owner);
            }
        }
        let result = self.promised(place, members).map_or_else(|| self.attempt_all(members), Err);
        match &result {
            Ok(()) => place.into_iter().for_each(|place| self.leave(place)),
            Err((at, reason)) => self.wait(place, members.clone(), *at, reason.clone()),
        }
        result.is_ok()
    }

    fn promised(&self, place: Option<u64>, members: &Members) -> Option<(usize, Reason)> {
        members.iter().enumerate().filter(|(_, (owner, _))| !self.held.contains_key(owner)).find_map(|(at, (_, request))| {
            let subnet = self.subnets.get(request.subnet.as_ref())?;
            let chosen = |v4| request.addresses.iter().any(|ip| ip.is_ipv4() == v4);
            let wants = |v4| request.families != if v4 { Families::V6 } else { Families::V4 };
            let families = [true, false].into_iter().filter(|v4| !subnet.all(*v4).is_empty() && !chosen(*v4) && wants(*v4));
            let earlier = |reason: &Reason| {
                let before = |arrival: u64| place.is_none_or(|place| arrival < place);
                self.waiting.iter().any(|(arrival, w)| before(*arrival) && w.subnet == request.subnet.as_ref() && w.reason == *reason)
            };
            families.map(|v4| room(request, v4)).find(earlier).map(|reason| (at, reason))
        })
    }

    fn wait(&mut self, place: Option<u64>, members: Members, at: usize, reason: Reason) {
        let arrival = place.unwrap_or(self.arrivals + 1);
        self.arrivals = self.arrivals.max(arrival);
        self.leave(arrival);
        let subnet = members[at].1.subnet.to_string();
        self.waiting.insert(arrival, Waiting { members, subnet, reason });
    }

    fn leave(&mut self, arrival: u64) {
        if let Some(gone) = self.waiting.remove(&arrival) {
            let line = (gone.subnet, gone.reason);
            self.wake(|w| (w.subnet.clone(), w.reason.clone()) == line);
        }
    }

    fn leave_alone(&mut self, owner: &str) {
        let found = self.waiting.iter_mut().find(|(_, w)| w.members.iter().any(|(member, _)| member == owner));
        let Some((arrival, group)) = found else { return };
        group.members.retain(|(member, _)| member != owner);
        let (arrival, empty, line) = (*arrival, group.members.is_empty(), (group.subnet.clone(), group.reason.clone()));
        if empty {
            self.leave(arrival);
        } else {
            self.woken.insert(line);
        }
    }

    fn wake(&mut self, which: impl Fn(&Waiting) -> bool) {
        self.woken.extend(self.waiting.values().filter(|w| which(w)).map(|w| (w.subnet.clone(), w.reason.clone())));
    }

    pub fn release(&mut self, owner: &str) {
        self.leave_alone(owner);
        self.give_up(owner);
    }

    pub fn give_up(&mut self, owner: &str) {
        let Some(held) = self.held.remove(owner) else { return };
        let vpc = self.subnets[&held.subnet].spec.vpc.clone();
        let subnet = self.subnets.get_mut(&held.subnet).unwrap();
        let inside = |ip: &&IpAddr| subnet.spec.cidrs.is_some_and(|cidrs| cidrs.contains(**ip));
        let inside: Vec<IpAddr> = held.addresses.iter().filter(inside).copied().collect();
        subnet.released.extend(inside);
        self.wake(|w| {
            w.subnet == held.subnet
                && match &w.reason {
                    Reason::Room(..) => true,
                    Reason::Address(ip) => held.addresses.contains(ip),
                    _ => false,
                }
        });
        if let Some(mac) = held.mac {
            self.mac_released(&vpc, mac);
        }
    }

    fn mac_released(&mut self, vpc: &str, mac: MacAddr) {
        if !self.held.values().any(|h| h.mac == Some(mac) && self.subnets[&h.subnet].spec.vpc.as_ref() == vpc) {
            self.wake(|w| w.reason == Reason::Mac(vpc.to_owned(), mac));
        }
    }

    pub fn changed(&mut self, subnet: &str) {
        self.wake(|w| w.subnet == subnet);
    }

    pub fn set_subnet(&mut self, name: &str, spec: SubnetSpec) {
        let Some(subnet) = self.subnets.get_mut(name) else {
            self.subnets.insert(name.to_owned(), Subnet::new(spec));
            return self.changed(name);
        };
        if subnet.spec == spec {
            return;
        }
        let old = std::mem::replace(&mut subnet.spec, spec);
        for v4 in [true, false] {
            let net = |spec: &SubnetSpec| spec.cidrs.and_then(|cidrs| cidrs.iter().find(|net| net.addr().is_ipv4() == v4));
            if net(&old) != net(&subnet.spec) {
                // Searches in pools begin anew; the search in all goes on where it was, if that is still inside.
                let all = subnet.all(v4).into_iter().map(number).collect::<BTreeSet<_>>();
                let in_old = |at: &u128| net(&old).is_some_and(|net| *at <= number(net.broadcast()));
                subnet.cursors.retain(|(family, pool), at| *family != v4 || pool.is_none() && all.contains(at) && in_old(at));
                subnet.released.retain(|ip| ip.is_ipv4() != v4 || all.contains(&number(*ip)));
            }
        }
        self.forget_cursors(name);
        if old.vpc != self.subnets[name].spec.vpc {
            let macs: Vec<MacAddr> = self.held.values().filter(|h| h.subnet == name).filter_map(|h| h.mac).collect();
            macs.into_iter().for_each(|mac| self.mac_released(&old.vpc, mac));
        }
        self.changed(name);
    }

    /// A pool that lost all its addresses is searched from the beginning when it has some again.
    fn forget_cursors(&mut self, name: &str) {
        let subnet = self.subnets.get_mut(name).unwrap();
        let seen = subnet.clone();
        subnet.cursors.retain(|(v4, pool), _| pool.as_ref().is_none_or(|pool| !seen.in_pool(pool, *v4).is_empty()));
    }

    pub fn set_pool(&mut self, name: &str, pool: &str, spec: Option<PoolSpec>) {
        let pools = &mut self.subnets.get_mut(name).unwrap().pools;
        match spec {
            Some(spec) => drop(pools.insert(pool.to_owned(), spec)),
            None => drop(pools.remove(pool)),
        }
        self.forget_cursors(name);
        self.changed(name);
    }

    /// Who was displaced, or that the claim was too weak.
    pub fn adopt(&mut self, owner: &str, holding: &Holding, claim: Claim) -> Option<BTreeSet<String>> {
        let name = holding.subnet.as_ref();
        let others: BTreeSet<String> =
            holding.addresses.iter().filter_map(|ip| self.holder(name, *ip).cloned()).filter(|o| o != owner).collect();
        let stronger = |other: &String| {
            let theirs = self.held[other].claim;
            (!claim.running, claim.age) >= (!theirs.running, theirs.age)
        };
        if others.iter().any(stronger) {
            return None;
        }
        self.leave_alone(owner);
        let same = |h: &Held| h.subnet == name && h.addresses == holding.addresses && h.mac == Some(holding.mac);
        if let Some(held) = self.held.get_mut(owner).filter(|h| same(h)) {
            held.claim = claim;
            return Some(BTreeSet::new());
        }
        self.give_up(owner);
        // In the order of the addresses, as the allocator does it.
        let order: Vec<String> = holding.addresses.iter().filter_map(|ip| self.holder(name, *ip).cloned()).collect();
        order.iter().for_each(|other| self.give_up(other));
        let subnet = self.subnets.get_mut(name).unwrap();
        subnet.released.retain(|ip| !holding.addresses.contains(ip));
        let (subnet, addresses) = (name.to_owned(), holding.addresses.clone());
        self.held.insert(owner.to_owned(), Held { subnet, addresses, mac: Some(holding.mac), claim });
        Some(others)
    }

    /// Who is served.
    pub fn retry(&mut self, name: &str) -> Vec<String> {
        let woken: BTreeSet<Reason> = self.woken.iter().filter(|(s, _)| s == name).map(|(_, reason)| reason.clone()).collect();
        let queue: Vec<(u64, Waiting)> = self.waiting.iter().filter(|(_, w)| w.subnet == name).map(|(a, w)| (*a, w.clone())).collect();
        let (mut served, mut stopped) = (Vec::new(), BTreeSet::new());
        for (arrival, group) in queue.into_iter().filter(|(_, w)| woken.contains(&w.reason)) {
            if stopped.contains(&group.reason) {
                continue;
            }
            match self.attempt_all(&group.members) {
                Ok(()) => {
                    self.leave(arrival);
                    served.extend(group.members.into_iter().map(|(owner, _)| owner));
                }
                Err((at, reason)) => {
                    if reason != Reason::Change && group.members[at].1.subnet.as_ref() == name {
                        stopped.insert(reason.clone());
                    }
                    self.wait(Some(arrival), group.members, at, reason);
                }
            }
        }
        self.woken.retain(|(subnet, _)| subnet != name);
        served
    }

    /// The first of each line in a subnet that could be served.
    pub fn forgotten(&self, name: &str) -> Option<Members> {
        let mut seen = BTreeSet::new();
        let mut firsts =
            self.waiting.values().filter(|w| w.subnet == name && (w.reason == Reason::Change || seen.insert(w.reason.clone())));
        firsts.find(|w| self.clone().attempt_all(&w.members).is_ok()).map(|w| w.members.clone())
    }

    pub fn restart(&mut self) {
        self.waiting.clear();
        self.woken.clear();
        for subnet in self.subnets.values_mut() {
            subnet.released.clear();
            subnet.cursors.clear();
        }
    }
}

fn room(request: &Request, v4: bool) -> Reason {
    let candidates: Vec<IpAddr> = request.candidates.iter().copied().filter(|ip| ip.is_ipv4() == v4).collect();
    let pools = if candidates.is_empty() { request.pools.iter().map(ToString::to_string).collect() } else { Vec::new() };
    Reason::Room(v4, pools, candidates)
}
