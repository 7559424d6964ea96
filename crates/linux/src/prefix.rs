//! An address with a prefix length, as netlink takes it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// `address/length`; host bits may be set (an interface address) or not (a route's destination).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

/// Why a text or a pair is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpPrefixError {
    /// The length exceeds the family's 32 or 128 bits.
    #[error("prefix length {0} is too long for {1}")]
    TooLong(u8, IpAddr),
    /// Not `address/length`.
    #[error("{0:?} is not an address with a prefix length, such as 10.0.0.1/24")]
    Malformed(String),
}

impl IpPrefix {
    /// Everything of IPv4: the destination of its default route.
    pub const DEFAULT_V4: Self = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 };
    /// Everything of IPv6.
    pub const DEFAULT_V6: Self = Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 0 };

    /// Checks the length against the family.
    ///
    /// # Errors
    /// When the length exceeds 32 or 128.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, IpPrefixError> {
        if length > max_length(address) { Err(IpPrefixError::TooLong(length, address)) } else { Ok(Self { address, length }) }
    }

    /// The address alone: /32 or /128.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self { address, length: max_length(address) }
    }

    /// The default destination of `address`'s family.
    #[must_use]
    pub const fn default_of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::DEFAULT_V4 } else { Self::DEFAULT_V6 }
    }

    /// The address part.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether the address is an IPv6 one that counts on its link alone (`fe80::/10`; RFC 4291, section 2.5.6).
    #[must_use]
    pub const fn is_link_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(address) if address.is_unicast_link_local())
    }

    /// The prefix length in bits.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }
}

const fn max_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for IpPrefix {
    type Err = IpPrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || IpPrefixError::Malformed(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(malformed)?;
        Self::new(address.parse().map_err(|_| malformed())?, length.parse().map_err(|_| malformed())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_the_family_is_refused() {
        assert_eq!("10.0.0.1/24".parse::<IpPrefix>().unwrap().to_string(), "10.0.0.1/24");
        assert_eq!("10.0.0.1/33".parse::<IpPrefix>().unwrap_err().to_string(), "prefix length 33 is too long for 10.0.0.1");
        assert!("10.0.0.1".parse::<IpPrefix>().is_err());
    }
}
