//! What is asked, what is held, and by which right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use api::MacAddr;

/// Name of a subnet.
pub type SubnetName = Arc<str>;
/// Name of a VPC.
pub type VpcName = Arc<str>;
/// Name of a pool; unique within its subnet.
pub type PoolName = Arc<str>;
/// Who holds an address: a name that is unique among all holders.
pub type Owner = Arc<str>;

/// Which families of a subnet are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// Each that the subnet has.
    #[default]
    All,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

impl Families {
    pub(crate) fn has(self, v4: bool) -> bool {
        self != if v4 { Self::V6 } else { Self::V4 }
    }
}

/// What is asked for one NIC. All or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Subnet.
    pub subnet: SubnetName,
    /// Chosen addresses, one of a family at most, also from a pool that is not named here. A family of the subnet without one
    /// gets one by the rules below.
    pub addresses: Vec<IpAddr>,
    /// Addresses of which one is given for each family that occurs among them, in this order as long as they were not
    /// released lately.
    pub candidates: Vec<IpAddr>,
    /// Pools to allocate from: the first with a free address. A family in which none of them has a range is left out. When
    /// empty, the subnet without what belongs to exclusive pools.
    pub pools: Vec<PoolName>,
    /// Families.
    pub families: Families,
    /// Chosen MAC; otherwise one is made.
    pub mac: Option<MacAddr>,
}

impl Request {
    /// A request for the next free address of each family of `subnet`, and a MAC.
    #[must_use]
    pub fn new(subnet: SubnetName) -> Self {
        Self { subnet, ..Self::default() }
    }

    pub(crate) fn chosen(&self, v4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|ip| ip.is_ipv4() == v4)
    }

    pub(crate) fn candidates(&self, v4: bool) -> impl Iterator<Item = IpAddr> {
        self.candidates.iter().copied().filter(move |ip| ip.is_ipv4() == v4)
    }
}

/// What one NIC holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Subnet.
    pub subnet: SubnetName,
    /// Addresses, IPv4 first; one of a family at most.
    pub addresses: Vec<IpAddr>,
    /// MAC.
    pub mac: MacAddr,
}

/// By which right a workload holds its address. Of two that record the same one a running workload wins over a stopped one,
/// then the older object, then the one that came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whether the workload runs, so that taking its address away would cut it off.
    pub running: bool,
    /// When the object was created: the lower is the older. Seconds since 1970, or any order of the caller's.
    pub age: i64,
}

impl Default for Claim {
    /// The claim of whom nobody displaces.
    fn default() -> Self {
        Self { running: true, age: i64::MIN }
    }
}

impl Claim {
    pub(crate) const fn beats(self, other: Self) -> bool {
        if self.running == other.running { self.age < other.age } else { self.running }
    }
}

/// What taking in a holder did to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Who lost everything, because the claim on one of the addresses was weaker, and what that was.
    pub displaced: Vec<(Owner, Holding)>,
    /// Who holds the same MAC in the VPC.
    pub mac_shared_with: Option<Owner>,
}

/// At most one address of a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// The address that is the second of its family is the error.
    pub(crate) fn new(addresses: &[IpAddr]) -> Result<Self, IpAddr> {
        let mut all = Self::default();
        for ip in addresses {
            if all.set(*ip) {
                return Err(*ip);
            }
        }
        Ok(all)
    }

    /// Sets the address of its family; `true` when there was one.
    pub(crate) const fn set(&mut self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.replace(ip).is_some(),
            IpAddr::V6(ip) => self.v6.replace(ip).is_some(),
        }
    }

    #[inline(always)]
    pub(crate) fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    pub(crate) fn contains(self, ip: IpAddr) -> bool {
        self.iter().any(|held| held == ip)
    }

    #[inline(always)]
    pub(crate) fn of(self, v4: bool) -> Option<IpAddr> {
        if v4 { self.v4.map(IpAddr::V4) } else { self.v6.map(IpAddr::V6) }
    }
}
