//! The addresses of one subnet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::Cidrs;
use ipnet::IpNet;

use crate::FreeSet;
use crate::ipam::VpcName;

/// What the allocator must know of a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetSpec {
    /// VPC within which MACs are unique.
    pub vpc: VpcName,
    /// Ranges.
    pub cidrs: Cidrs,
    /// Inclusive ranges that are never allocated: gateways and excludes.
    pub excluded: Vec<(IpAddr, IpAddr)>,
}

/// Why an address cannot be taken from a pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Not in the subnet's ranges.
    #[error("address {0} lies outside the subnet's range {1}")]
    Outside(IpAddr, Cidrs),
    /// The network or broadcast address, the gateway, or an excluded one.
    #[error("address {0} is reserved in the subnet")]
    Reserved(IpAddr),
    /// Held by somebody.
    #[error("address {0} is in use")]
    InUse(IpAddr),
    /// No address of the family is free.
    #[error("no free {0} address is left")]
    Full(&'static str),
}

/// One family's range.
pub(crate) struct Family {
    net: IpNet,
    first: u128,
    free: FreeSet,
    reserved: u128,
}

pub(crate) struct Pool {
    pub(crate) spec: SubnetSpec,
    families: Vec<Family>,
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

impl Family {
    fn new(net: IpNet, excluded: &[(IpAddr, IpAddr)]) -> Self {
        let (first, last) = (bits(net.network()), bits(net.broadcast()));
        let mut family = Self { net, first, free: FreeSet::new((last - first).saturating_add(1)), reserved: 0 };
        // The network address and, in IPv4, the broadcast address (RFC 1122); in IPv6 the subnet-router anycast (RFC 4291 §2.6.1).
        family.free.take(0);
        if net.addr().is_ipv4() {
            family.free.take(last - first);
        }
        for (from, to) in excluded.iter().filter(|(from, to)| from.is_ipv4() == net.addr().is_ipv4() && to.is_ipv4() == from.is_ipv4()) {
            let (from, to) = (bits(*from).max(first), bits(*to).min(last));
            // Excluding more than a /96 is taken at its word only up to 2^20 addresses; more are refused at admission.
            for offset in from..=to.min(from.saturating_add(1 << 20)) {
                family.free.take(offset - first);
            }
        }
        family.reserved = family.free.used();
        family
    }

    fn address(&self, offset: u128) -> IpAddr {
        let value = self.first + offset;
        match self.net {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(value).unwrap_or(u32::MAX))),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(value)),
        }
    }
}

impl Pool {
    pub(crate) fn new(spec: SubnetSpec) -> Self {
        let families = spec.cidrs.iter().map(|net| Family::new(net, &spec.excluded)).collect();
        Self { spec, families }
    }

    fn family(&mut self, ip: IpAddr) -> Option<&mut Family> {
        self.families.iter_mut().find(|f| f.net.contains(&ip))
    }

    pub(crate) fn nets(&self) -> impl Iterator<Item = IpNet> {
        self.families.iter().map(|f| f.net)
    }

    fn is_reserved(&self, ip: IpAddr) -> bool {
        let excluded = self.spec.excluded.iter().any(|(from, to)| from.is_ipv4() == ip.is_ipv4() && *from <= ip && ip <= *to);
        excluded || self.spec.cidrs.iter().any(|net| ip == net.network() || (ip.is_ipv4() && ip == net.broadcast()))
    }

    /// Takes a chosen address.
    pub(crate) fn take(&mut self, ip: IpAddr) -> Result<(), PoolError> {
        let (cidrs, reserved) = (self.spec.cidrs, self.is_reserved(ip));
        let family = self.family(ip).ok_or(PoolError::Outside(ip, cidrs))?;
        if reserved {
            return Err(PoolError::Reserved(ip));
        }
        if family.free.take(bits(ip) - family.first) { Ok(()) } else { Err(PoolError::InUse(ip)) }
    }

    /// Takes the next free address of the family of `net`.
    pub(crate) fn take_next(&mut self, net: IpNet) -> Result<IpAddr, PoolError> {
        let family = self.families.iter_mut().find(|f| f.net == net);
        let name = if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        let family = family.ok_or(PoolError::Full(name))?;
        family.free.take_next().map(|offset| family.address(offset)).ok_or(PoolError::Full(name))
    }

    pub(crate) fn give(&mut self, ip: IpAddr) {
        if !self.is_reserved(ip)
            && let Some(family) = self.family(ip)
        {
            family.free.give(bits(ip) - family.first);
        }
    }

    /// Used and available addresses of the IPv4 or the IPv6 range.
    pub(crate) fn usage(&self, v4: bool) -> (u128, u128) {
        let family = self.families.iter().find(|f| f.net.addr().is_ipv4() == v4);
        family.map_or((0, 0), |f| (f.free.used() - f.reserved, f.free.size() - f.free.used()))
    }
}
