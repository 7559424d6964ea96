//! The allocator: who holds what, and who waits.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use api::MacAddr;
use rustc_hash::{FxHashMap, FxHasher};

use crate::pool::{Pool, PoolError, SubnetSpec};

/// Name of a subnet.
pub type SubnetName = Arc<str>;
/// Name of a VPC.
pub type VpcName = Arc<str>;
/// Who holds an address: a name that is unique among all holders.
pub type Owner = Arc<str>;

/// What is asked for one NIC. All or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Subnet.
    pub subnet: SubnetName,
    /// Chosen addresses; a family of the subnet without one gets the next free address.
    pub addresses: Vec<IpAddr>,
    /// Chosen MAC; otherwise one is made.
    pub mac: Option<MacAddr>,
}

/// What one NIC holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Subnet.
    pub subnet: SubnetName,
    /// Addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// MAC.
    pub mac: MacAddr,
}

/// Addresses of a subnet by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// IPv4 addresses held.
    pub v4_used: u128,
    /// IPv4 addresses that can still be allocated.
    pub v4_available: u128,
    /// IPv6 addresses held.
    pub v6_used: u128,
    /// IPv6 addresses that can still be allocated.
    pub v6_available: u128,
}

/// Why nothing was allocated. The request waits until the subnet changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// The subnet is not known (yet).
    #[error("subnet {0} does not exist")]
    UnknownSubnet(SubnetName),
    /// The subnet refuses.
    #[error("subnet {subnet}: {error}{}", holder.as_ref().map(|h| format!(" by {h}")).unwrap_or_default())]
    Pool {
        /// Subnet.
        subnet: SubnetName,
        /// Why.
        error: PoolError,
        /// Who holds the address.
        holder: Option<Owner>,
    },
    /// The MAC is held in the same VPC.
    #[error("MAC address {mac} is in use by {holder} in VPC {vpc}")]
    MacInUse {
        /// MAC.
        mac: MacAddr,
        /// Who holds it.
        holder: Owner,
        /// VPC.
        vpc: VpcName,
    },
}

struct Subnet {
    pool: Pool,
    waiting: BTreeMap<u64, Owner>,
    holders: BTreeSet<Owner>,
}

/// The allocator.
#[derive(Default)]
pub struct Ipam {
    subnets: FxHashMap<SubnetName, Subnet>,
    holdings: FxHashMap<Owner, Holding>,
    addresses: FxHashMap<(SubnetName, IpAddr), Owner>,
    macs: FxHashMap<(VpcName, MacAddr), Owner>,
    requests: FxHashMap<Owner, (u64, Request)>,
    arrivals: u64,
}

impl Ipam {
    /// Adds a subnet or changes it. Holders keep what they hold, even outside the new range.
    pub fn set_subnet(&mut self, name: &SubnetName, spec: SubnetSpec) {
        let (waiting, holders) = match self.subnets.remove(name) {
            Some(old) if old.pool.spec == spec => {
                self.subnets.insert(Arc::clone(name), old);
                return;
            }
            Some(old) => (old.waiting, old.holders),
            None => (self.waiting_for(name), BTreeSet::new()),
        };
        let mut pool = Pool::new(spec);
        for holding in holders.iter().filter_map(|owner| self.holdings.get(owner)) {
            for ip in &holding.addresses {
                // What lies outside the new range, or in its reserve, stays with its holder but counts for nothing here.
                let _ = pool.take(*ip);
            }
        }
        self.subnets.insert(Arc::clone(name), Subnet { pool, waiting, holders });
    }

    fn waiting_for(&self, name: &SubnetName) -> BTreeMap<u64, Owner> {
        self.requests.iter().filter(|(_, (_, r))| r.subnet == *name).map(|(owner, (at, _))| (*at, Arc::clone(owner))).collect()
    }

    /// Forgets a subnet. Its holders lose what they hold and are returned.
    pub fn remove_subnet(&mut self, name: &SubnetName) -> Vec<Owner> {
        let holders: Vec<Owner> = self.subnets.get(name).map(|s| s.holders.iter().cloned().collect()).unwrap_or_default();
        for owner in &holders {
            self.release(owner);
        }
        self.subnets.remove(name);
        holders
    }

    /// What `owner` holds.
    #[must_use]
    pub fn holding(&self, owner: &str) -> Option<&Holding> {
        self.holdings.get(owner)
    }

    /// Number of holders.
    #[must_use]
    pub fn len(&self) -> usize {
        self.holdings.len()
    }

    /// Whether nobody holds anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.holdings.is_empty()
    }

    /// Counts of a subnet.
    #[must_use]
    pub fn usage(&self, subnet: &str) -> Usage {
        let Some(subnet) = self.subnets.get(subnet) else { return Usage::default() };
        let ((v4_used, v4_available), (v6_used, v6_available)) = (subnet.pool.usage(true), subnet.pool.usage(false));
        Usage { v4_used, v4_available, v6_used, v6_available }
    }

    /// The holders in a subnet, in the order of their names.
    pub fn holders(&self, subnet: &str) -> &BTreeSet<Owner> {
        static NOBODY: BTreeSet<Owner> = BTreeSet::new();
        self.subnets.get(subnet).map_or(&NOBODY, |s| &s.holders)
    }

    /// Takes in what a holder already has, as recorded in Kubernetes.
    ///
    /// # Errors
    /// When somebody else holds the address or the MAC; then nothing changes.
    pub fn adopt(&mut self, owner: &Owner, holding: Holding) -> Result<(), AllocateError> {
        if self.holdings.get(owner) == Some(&holding) {
            return Ok(());
        }
        self.release(owner);
        let subnet = self.subnets.get_mut(&holding.subnet).ok_or_else(|| AllocateError::UnknownSubnet(Arc::clone(&holding.subnet)))?;
        for ip in &holding.addresses {
            if let Some(holder) = self.addresses.get(&(Arc::clone(&holding.subnet), *ip)) {
                let (subnet, holder) = (Arc::clone(&holding.subnet), Some(Arc::clone(holder)));
                return Err(AllocateError::Pool { subnet, error: PoolError::InUse(*ip), holder });
            }
        }
        let vpc = Arc::clone(&subnet.pool.spec.vpc);
        if let Some(holder) = self.macs.get(&(Arc::clone(&vpc), holding.mac)) {
            return Err(AllocateError::MacInUse { mac: holding.mac, holder: Arc::clone(holder), vpc });
        }
        for ip in &holding.addresses {
            // A record outside the range, or in what has since been excluded, is honoured: it is the holder's.
            let _ = subnet.pool.take(*ip);
        }
        self.hold(owner, holding, vpc);
        Ok(())
    }

    /// Allocates for `owner`. The same request again returns the same holding; a changed one is made anew. On failure the
    /// request waits: see [`Ipam::retry`].
    ///
    /// # Errors
    /// See [`AllocateError`]; nothing was taken.
    pub fn allocate(&mut self, owner: &Owner, request: &Request) -> Result<Holding, AllocateError> {
        if let Some(holding) = self.holdings.get(owner)
            && holding.subnet == request.subnet
            && request.addresses.iter().all(|ip| holding.addresses.contains(ip))
            && request.mac.is_none_or(|mac| mac == holding.mac)
        {
            return Ok(holding.clone());
        }
        self.release(owner);
        match self.attempt(owner, request) {
            Ok(holding) => Ok(holding),
            Err(error) => {
                self.arrivals += 1;
                self.requests.insert(Arc::clone(owner), (self.arrivals, request.clone()));
                if let Some(subnet) = self.subnets.get_mut(&request.subnet) {
                    subnet.waiting.insert(self.arrivals, Arc::clone(owner));
                }
                Err(error)
            }
        }
    }

    fn attempt(&mut self, owner: &Owner, request: &Request) -> Result<Holding, AllocateError> {
        let name = &request.subnet;
        let subnet = self.subnets.get_mut(name).ok_or_else(|| AllocateError::UnknownSubnet(Arc::clone(name)))?;
        let vpc = Arc::clone(&subnet.pool.spec.vpc);
        let mac = match request.mac {
            Some(mac) => match self.macs.get(&(Arc::clone(&vpc), mac)) {
                Some(holder) => return Err(AllocateError::MacInUse { mac, holder: Arc::clone(holder), vpc }),
                None => mac,
            },
            None => free_mac(&self.macs, &vpc, owner),
        };
        let mut addresses = Vec::with_capacity(2);
        let mut failed = None;
        for ip in &request.addresses {
            match subnet.pool.take(*ip) {
                Ok(()) => addresses.push(*ip),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let nets: Vec<_> =
            subnet.pool.nets().filter(|net| !request.addresses.iter().any(|ip| ip.is_ipv4() == net.addr().is_ipv4())).collect();
        for net in nets {
            if failed.is_none() {
                match subnet.pool.take_next(net) {
                    Ok(ip) => addresses.push(ip),
                    Err(error) => failed = Some(error),
                }
            }
        }
        if let Some(error) = failed {
            for ip in addresses {
                subnet.pool.give(ip);
            }
            let holder = match &error {
                PoolError::InUse(ip) => self.addresses.get(&(Arc::clone(name), *ip)).cloned(),
                _ => None,
            };
            return Err(AllocateError::Pool { subnet: Arc::clone(name), error, holder });
        }
        addresses.sort_by_key(IpAddr::is_ipv6);
        let holding = Holding { subnet: Arc::clone(name), addresses, mac };
        self.hold(owner, holding.clone(), vpc);
        Ok(holding)
    }

    fn hold(&mut self, owner: &Owner, holding: Holding, vpc: VpcName) {
        if let Some((at, request)) = self.requests.remove(owner)
            && let Some(subnet) = self.subnets.get_mut(&request.subnet)
        {
            subnet.waiting.remove(&at);
        }
        for ip in &holding.addresses {
            self.addresses.insert((Arc::clone(&holding.subnet), *ip), Arc::clone(owner));
        }
        self.macs.insert((vpc, holding.mac), Arc::clone(owner));
        if let Some(subnet) = self.subnets.get_mut(&holding.subnet) {
            subnet.holders.insert(Arc::clone(owner));
        }
        self.holdings.insert(Arc::clone(owner), holding);
    }

    /// Takes everything from `owner`, its place in the queue too. Returns what it held.
    pub fn release(&mut self, owner: &str) -> Option<Holding> {
        if let Some((at, request)) = self.requests.remove(owner)
            && let Some(subnet) = self.subnets.get_mut(&request.subnet)
        {
            subnet.waiting.remove(&at);
        }
        let holding = self.holdings.remove(owner)?;
        for ip in &holding.addresses {
            self.addresses.remove(&(Arc::clone(&holding.subnet), *ip));
        }
        if let Some(subnet) = self.subnets.get_mut(&holding.subnet) {
            subnet.holders.remove(owner);
            for ip in &holding.addresses {
                subnet.pool.give(*ip);
            }
            self.macs.remove(&(Arc::clone(&subnet.pool.spec.vpc), holding.mac));
        }
        Some(holding)
    }

    /// Serves those who wait for `subnet`, in the order of their arrival, after something was released or changed there.
    /// Returns who got what.
    pub fn retry(&mut self, subnet: &str) -> Vec<(Owner, Holding)> {
        let waiting: Vec<Owner> = self.subnets.get(subnet).map(|s| s.waiting.values().cloned().collect()).unwrap_or_default();
        let mut served = Vec::new();
        for owner in waiting {
            let Some((_, request)) = self.requests.get(&owner).cloned() else { continue };
            match self.attempt(&owner, &request) {
                Ok(holding) => served.push((owner, holding)),
                // The next in the queue would find the same.
                Err(AllocateError::Pool { error: PoolError::Full(_), .. }) if request.addresses.is_empty() => break,
                Err(_) => {}
            }
        }
        served
    }
}

/// A MAC that nobody holds in the VPC: the same for the same owner whenever it is free.
fn free_mac(macs: &FxHashMap<(VpcName, MacAddr), Owner>, vpc: &VpcName, owner: &Owner) -> MacAddr {
    let mut attempt = 0u64;
    loop {
        let mut hasher = FxHasher::default();
        (vpc.as_ref(), owner.as_ref(), attempt).hash(&mut hasher);
        let mac = MacAddr::local(0, hasher.finish() >> 13);
        if !macs.contains_key(&(Arc::clone(vpc), mac)) {
            return mac;
        }
        attempt += 1;
    }
}
