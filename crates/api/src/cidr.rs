//! The address ranges of a subnet: one IPv4 prefix, one IPv6 prefix, or one of each ("dual stack"); or none.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// One or two prefixes, at most one per address family; written `v4`, `v6` or `v4,v6`. No text stands for [`Cidrs::NONE`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidrs {
    v4: Option<Ipv4Net>,
    v6: Option<Ipv6Net>,
}

/// Why a text does not name the ranges of a subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrsError {
    /// Nothing was given.
    #[error("no CIDR given: expected one such as 10.16.0.0/16")]
    Empty,
    /// One part is not `address/length`.
    #[error("{0:?} is not a CIDR: expected one such as 10.16.0.0/16 or fd00::/64")]
    Malformed(String),
    /// Two prefixes of one family, or more than two.
    #[error("{0:?} holds more than one {1} CIDR")]
    SameFamily(String, &'static str),
    /// No room for a gateway and one workload.
    #[error("CIDR {0} is too small: it must hold a gateway and at least one more address")]
    TooSmall(IpNet),
    /// Multicast, loopback, link-local or unspecified space cannot be routed between workloads.
    #[error("CIDR {0} lies in {1} space, which cannot be routed between workloads")]
    Unusable(IpNet, &'static str),
}

impl Cidrs {
    /// No range: a subnet that gives MACs alone.
    pub const NONE: Self = Self { v4: None, v6: None };

    /// Whether there is no range.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// The IPv4 prefix, truncated to its network address.
    #[must_use]
    pub const fn v4(&self) -> Option<Ipv4Net> {
        self.v4
    }

    /// The IPv6 prefix, truncated to its network address.
    #[must_use]
    pub const fn v6(&self) -> Option<Ipv6Net> {
        self.v6
    }

    /// The prefixes, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + use<> {
        self.v4.map(IpNet::V4).into_iter().chain(self.v6.map(IpNet::V6))
    }

    /// Whether one of the prefixes holds `ip`.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.iter().any(|net| net.contains(&ip))
    }

    /// The prefix of `ip`'s family.
    #[must_use]
    pub fn of_family(&self, ip: IpAddr) -> Option<IpNet> {
        self.iter().find(|net| net.addr().is_ipv4() == ip.is_ipv4())
    }

    /// The first pair of prefixes, one of each side, that share an address.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> Option<(IpNet, IpNet)> {
        self.iter().find_map(|a| other.iter().find(|b| a.contains(b) || b.contains(&a)).map(|b| (a, b)))
    }

    /// The lowest usable address of each prefix, IPv4 first: the conventional gateways.
    #[must_use]
    pub fn first_hosts(&self) -> Vec<IpAddr> {
        let v4 = self.v4.map(|net| IpAddr::V4(Ipv4Addr::from_bits(net.network().to_bits() + 1)));
        let v6 = self.v6.map(|net| IpAddr::V6(Ipv6Addr::from_bits(net.network().to_bits() + 1)));
        v4.into_iter().chain(v6).collect()
    }

    /// `IPv4`, `IPv6`, `Dual` or `Mac`, as `Subnet.spec.protocol` spells it.
    #[must_use]
    pub const fn protocol(&self) -> &'static str {
        match (self.v4, self.v6) {
            (Some(_), Some(_)) => "Dual",
            (None, Some(_)) => "IPv6",
            (Some(_), None) => "IPv4",
            (None, None) => "Mac",
        }
    }
}

impl FromStr for Cidrs {
    type Err = CidrsError;

    fn from_str(text: &str) -> Result<Self, CidrsError> {
        if text.trim().is_empty() {
            return Err(CidrsError::Empty);
        }
        let (mut v4, mut v6) = (None, None);
        for part in text.split(',').map(str::trim) {
            let net: IpNet = part.parse().map_err(|_| CidrsError::Malformed(part.to_owned()))?;
            let net = net.trunc();
            if net.max_prefix_len() - net.prefix_len() < 2 {
                return Err(CidrsError::TooSmall(net));
            }
            if let Some(space) = unusable(net) {
                return Err(CidrsError::Unusable(net, space));
            }
            match net {
                IpNet::V4(net) if v4.replace(net).is_some() => return Err(CidrsError::SameFamily(text.to_owned(), "IPv4")),
                IpNet::V6(net) if v6.replace(net).is_some() => return Err(CidrsError::SameFamily(text.to_owned(), "IPv6")),
                _ => {}
            }
        }
        Ok(Self { v4, v6 })
    }
}

/// Address space that no workload may be routed in (RFC 6890).
fn unusable(net: IpNet) -> Option<&'static str> {
    let ip = net.network();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    [(ip.is_multicast(), "multicast"), (ip.is_loopback(), "loopback"), (link_local, "link-local"), (ip.is_unspecified(), "unspecified")]
        .into_iter()
        .find_map(|(hit, name)| hit.then_some(name))
}

impl fmt::Display for Cidrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, net) in self.iter().enumerate() {
            write!(f, "{}{net}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Cidrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Parses a comma-joined list of addresses, one per family at most.
///
/// # Errors
/// Names the part that is no address, or the family given twice.
pub fn parse_addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let mut out: Vec<IpAddr> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let ip: IpAddr = part.parse().map_err(|_| format!("{part:?} is not an IP address"))?;
        if out.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            return Err(format!("{text:?} holds two addresses of one family"));
        }
        out.push(ip);
    }
    out.sort_by_key(IpAddr::is_ipv6);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_to_the_network_address() {
        assert_eq!("fd00::5/64, 10.0.1.7/16".parse::<Cidrs>().unwrap().to_string(), "10.0.0.0/16,fd00::/64");
    }

    #[test]
    fn refuses_what_could_never_work() {
        for (bad, why) in [
            ("", "no CIDR"),
            ("10.0.0.0/33", "not a CIDR"),
            ("10.0.0.0", "not a CIDR"),
            ("10.0.0.0/16,10.1.0.0/16", "more than one IPv4"),
            ("10.0.0.0/31", "too small"),
            ("224.0.0.0/16", "multicast"),
            ("127.0.0.0/16", "loopback"),
            ("0.0.0.0/0", "unspecified"),
        ] {
            let error = bad.parse::<Cidrs>().unwrap_err().to_string();
            assert!(error.contains(why), "{bad:?}: {error}");
        }
    }

    #[test]
    fn finds_overlap_per_family() {
        let a: Cidrs = "10.0.0.0/16,fd00:1::/64".parse().unwrap();
        let b: Cidrs = "10.1.0.0/16,fd00::/16".parse().unwrap();
        assert_eq!(a.overlap(&b).unwrap().0.to_string(), "fd00:1::/64");
        assert!(a.overlap(&"10.1.0.0/16".parse().unwrap()).is_none());
    }
}
