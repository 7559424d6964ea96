//! Why nothing was allocated.

use std::net::IpAddr;

use api::{Cidrs, MacAddr};

use crate::request::{Owner, PoolName, SubnetName, VpcName};

/// Why an address cannot be taken from a subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Not in the subnet's ranges.
    #[error("address {0} lies outside the subnet's range {1}")]
    Outside(IpAddr, Cidrs),
    /// The subnet gives MACs alone.
    #[error("address {0} is asked for, but the subnet has no range")]
    NoRange(IpAddr),
    /// The family alone is asked for, and the subnet lacks it.
    #[error("{0} alone is asked for, but the subnet has no {0} range")]
    NoFamily(&'static str),
    /// A NIC holds one address of a family.
    #[error("address {0} is the second of its family for one NIC")]
    SecondOfFamily(IpAddr),
    /// The network or broadcast address, the gateway, or an excluded one.
    #[error("address {0} is reserved in the subnet")]
    Reserved(IpAddr),
    /// Held by somebody.
    #[error("address {0} is in use")]
    InUse(IpAddr),
    /// No address of the family is free, or those that are were asked for earlier.
    #[error("no free {0} address is left")]
    Full(&'static str),
    /// The same, of the named pools.
    #[error("no free {family} address is left in pool {}", pools.join(", "))]
    PoolFull {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The pools asked for.
        pools: Vec<PoolName>,
    },
    /// The same, of the candidates.
    #[error("none of the {0} addresses to choose from is free")]
    CandidatesInUse(&'static str),
    /// None of the pools asked for exists; the first is named.
    #[error("pool {0} does not exist")]
    UnknownPool(PoolName),
}

/// Why nothing was allocated. The request waits until what it lacks is there: see [`crate::Ipam::retry`].
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
    /// One owner asks for two things at once; such a request does not wait.
    #[error("{0} asks twice in one request")]
    AskedTwice(Owner),
}

/// Why nothing was allocated to several NICs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{owner}: {error}")]
pub struct Refused {
    /// The first that cannot have what it asks for.
    pub owner: Owner,
    /// Why.
    pub error: AllocateError,
}

pub(crate) const fn family_name(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}
