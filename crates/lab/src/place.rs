//! The places of a lab: where its components run, and their addresses on the physical network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use linux::{IpPrefix, Mac};
use serde::{Deserialize, Serialize};

/// Prefix length of the physical network, 10.9.0.0/24. Every lab uses the same one, inside its own namespaces.
const PHYSICAL_LENGTH: u8 = 24;
/// And of fd00:10:9::/64, which it has beside it.
const PHYSICAL_LENGTH6: u8 = 64;
/// MTU of the physical network in bytes.
pub const PHYSICAL_MTU: u32 = 1500;
/// Most nodes that the physical network has addresses for.
pub const MAX_NODES: u32 = 80;
/// Most hosts of OVN's central services.
pub const MAX_CENTRAL: u32 = 3;
/// Port of the API server on central's physical address.
pub const API_PORT: u16 = 6443;

/// A place of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Place {
    /// The machine itself.
    Host,
    /// The physical switch.
    Fabric,
    /// A host of OVN's central services, counted from 1; the first also has the API server and the controller.
    Central(u32),
    /// A node, counted from 1.
    Node(u32),
    /// A host of the physical network that is no part of the cluster, counted from 1.
    Outside(u32),
}

impl Place {
    /// The first host of OVN's central services.
    pub const CENTRAL: Self = Self::Central(1);

    /// Address on the physical network.
    #[must_use]
    pub fn address(self) -> Option<Ipv4Addr> {
        let last = match self {
            Self::Host | Self::Fabric => return None,
            Self::Central(1) => 10,
            Self::Central(n) => 6 + n,
            Self::Node(n) => 10 + n,
            Self::Outside(n) => 100 + n,
        };
        u8::try_from(last).ok().map(|last| Ipv4Addr::new(10, 9, 0, last))
    }

    /// Both addresses on the physical network, with the lengths of its prefixes: 10.9.0.N/24 and fd00:10:9::N/64, N in hexadecimal digits.
    #[must_use]
    pub fn addresses(self) -> Vec<IpPrefix> {
        let Some(v4) = self.address() else { return Vec::new() };
        let v6 = Ipv6Addr::new(0xfd00, 0x10, 9, 0, 0, 0, 0, v4.octets()[3].into());
        let both = [(IpAddr::V4(v4), PHYSICAL_LENGTH), (IpAddr::V6(v6), PHYSICAL_LENGTH6)];
        both.into_iter().filter_map(|(address, length)| IpPrefix::new(address, length).ok()).collect()
    }

    /// Hardware address on the physical network, made of the address.
    #[must_use]
    pub fn mac(self) -> Option<Mac> {
        self.address().map(|address| {
            let [a, b, c, d] = address.octets();
            [0x02, 0xfe, a, b, c, d]
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Fabric => f.write_str("fabric"),
            Self::Central(1) => f.write_str("central"),
            Self::Central(n) => write!(f, "central{n}"),
            Self::Node(n) => write!(f, "node{n}"),
            Self::Outside(n) => write!(f, "outside{n}"),
        }
    }
}

/// Why a text is not a place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place of a lab: expected central, node1… or outside1…")]
pub struct PlaceError(String);

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let counted = |prefix: &str| text.strip_prefix(prefix)?.parse::<u32>().ok().filter(|n| *n > 0 && *n <= MAX_NODES);
        let place = match text {
            "host" => Self::Host,
            "fabric" => Self::Fabric,
            "central" => Self::CENTRAL,
            _ => counted("node")
                .map(Self::Node)
                .or_else(|| counted("outside").map(Self::Outside))
                .or_else(|| counted("central").filter(|n| *n <= MAX_CENTRAL).map(Self::Central))
                .ok_or_else(|| PlaceError(text.to_owned()))?,
        };
        // One spelling only: no "node01" or "node+1".
        if place.to_string() == text { Ok(place) } else { Err(PlaceError(text.to_owned())) }
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl TryFrom<String> for Place {
    type Error = PlaceError;

    fn try_from(text: String) -> Result<Self, PlaceError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_back_and_have_distinct_addresses() {
        for place in [Place::Host, Place::CENTRAL, Place::Central(3), Place::Node(3), Place::Outside(1), Place::Fabric] {
            assert_eq!(place.to_string().parse::<Place>().unwrap(), place);
        }
        assert_eq!(Place::Node(2).address().unwrap().to_string(), "10.9.0.12");
        assert_eq!(Place::Outside(1).address().unwrap().to_string(), "10.9.0.101");
        let both: Vec<_> = Place::Node(2).addresses().iter().map(ToString::to_string).collect();
        assert_eq!(both, ["10.9.0.12/24", "fd00:10:9::c/64"]);
        for bad in ["node", "node0", "node01", "node+1", "outside", "xnode1", "central1", "central4"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
