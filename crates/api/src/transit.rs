//! The link between a VPC's router and the host stack of each node: the same two addresses and MACs on every node, so that one
//! route serves all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{Cidrs, DEFAULT_VPC, MacAddr};

/// How pods of the default VPC reach hosts outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Egress {
    /// By a switch that every node has its own end of, over this link: one route for all.
    Localnet(Transit),
    /// By the node's own port in the VPC: one port group and one policy for each node.
    Join,
}

/// The nodes that pods of a centralized subnet leave by (`gatewayNode`), in their order, each with the addresses that they leave under;
/// without any under that of the node. Elements are joined by commas: `node` or `node:address`, and a node that is there twice, once for each family,
/// has both addresses.
///
/// # Errors
/// Which element is wrong, and why.
pub fn gateway_nodes(text: &str) -> Result<Vec<(&str, Vec<IpAddr>)>, String> {
    let mut nodes: Vec<(&str, Vec<IpAddr>)> = Vec::new();
    for element in text.split(',').map(str::trim).filter(|element| !element.is_empty()) {
        let (node, address) = element.split_once(':').map_or((element, None), |(node, address)| (node.trim(), Some(address.trim())));
        let address =
            address.map(|text| text.parse::<IpAddr>().map_err(|_| format!("{element:?}: {text:?} is not an address"))).transpose()?;
        if node.is_empty() {
            return Err(format!("{element:?} names no node"));
        }
        let at = nodes.iter().position(|(known, _)| *known == node).unwrap_or_else(|| {
            nodes.push((node, Vec::new()));
            nodes.len() - 1
        });
        if let Some(address) = address {
            if nodes[at].1.iter().any(|known| known.is_ipv4() == address.is_ipv4()) {
                return Err(format!("{element:?} is the second address of a family for {node}"));
            }
            nodes[at].1.push(address);
        }
    }
    Ok(nodes)
}

/// Name of the physical network that nodes map to their gateway bridge (`ovn-bridge-mappings`, ovn-controller(8)).
pub const EGRESS_NETWORK: &str = "public";

/// Name of the port of a VPC's egress switch that is the node's end. No name of a Kubernetes object has an underscore.
#[must_use]
pub fn egress_port(vpc: &str) -> String {
    format!("{EGRESS_NETWORK}_{vpc}_localnet")
}

/// The links of the VPCs besides the default one that leave through hosts: a number of each, for [`Transit::numbered`] and
/// [`Transit::numbered_mac`]. It follows from the names alone, so that the controller and all agents find the same ones; where two
/// names have one number, the older VPC has it and the other one the next that is free. Of more than [`Transit::NUMBERED`] VPCs the
/// youngest have none.
pub fn host_links<N: AsRef<str> + Ord>(vpcs: impl IntoIterator<Item = (i64, N)>) -> BTreeMap<N, u16> {
    let mut vpcs: Vec<(i64, N)> = vpcs.into_iter().collect();
    vpcs.sort_unstable();
    let mut taken = BTreeSet::new();
    let mut links = BTreeMap::new();
    for (_, vpc) in vpcs {
        let wanted = number_of(vpc.as_ref());
        let free = (0..Transit::NUMBERED).map(|step| (wanted + step) % Transit::NUMBERED).find(|number| taken.insert(*number));
        let Some(number) = free else { break };
        links.insert(vpc, number);
    }
    links
}

/// Ranges of a subnet whose pods leave through hosts. One host stack has one route to an address: of two VPCs one has it.
#[derive(Clone, Copy, Debug)]
pub struct HostRanges<'a> {
    /// VPC.
    pub vpc: &'a str,
    /// Subnet.
    pub subnet: &'a str,
    /// Its creation, in seconds since 1970.
    pub created: i64,
    /// Ranges.
    pub cidrs: Cidrs,
}

impl HostRanges<'_> {
    /// Whether these may not leave because of the others, and which two ranges overlap: those of the default VPC, by which nodes
    /// reach their pods, come first, and then the older subnet's.
    #[must_use]
    pub fn yield_to(&self, other: &HostRanges<'_>) -> Option<(IpNet, IpNet)> {
        let place = |ranges: &HostRanges<'_>| (ranges.vpc != DEFAULT_VPC, ranges.created);
        let first = (place(other), other.subnet) < (place(self), self.subnet);
        if other.vpc != self.vpc && first { self.cidrs.overlap(&other.cidrs) } else { None }
    }
}

/// FNV-1a of a name, folded.
fn number_of(name: &str) -> u16 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    ((hash ^ (hash >> 16)) % u32::from(Transit::NUMBERED)) as u16
}

/// Prefixes of the link, one per address family at most, IPv4 first. The first host of each is the router, the second the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transit(Vec<IpNet>);

/// Why a text does not name such a link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitError {
    /// One part is not `address/length`.
    #[error("{0:?} is not a CIDR: expected one such as {default}", default = Transit::DEFAULT)]
    Malformed(String),
    /// Two prefixes of one family.
    #[error("{0:?} holds more than one prefix of a family")]
    SameFamily(String),
    /// No room for both ends.
    #[error("{0} is too small: it must hold two hosts")]
    TooSmall(IpNet),
}

impl Transit {
    /// Link-local, and unique local, space, which nobody else routes.
    pub const DEFAULT: &str = "169.254.77.0/30,fd00:169:254:77::/126";
    /// MAC of the router's end. The allocator's begin with 02, and those of other router ports follow from 40 bits of a digest.
    pub const ROUTER_MAC: MacAddr = MacAddr::local(0x0e, 0xfe_0000_0001);
    /// MAC under which the router knows the node's end, whatever the node's own is.
    pub const NODE_MAC: MacAddr = MacAddr::local(0x0e, 0xfe_0000_0002);

    /// How many links [`Transit::numbered`] tells apart.
    pub const NUMBERED: u16 = 83 * 64;

    /// One of many links beside that of [`Transit::DEFAULT`], in 169.254.172.0 to 169.254.254.255 and fd00:169:254:128::/64; numbers
    /// count modulo [`Transit::NUMBERED`]. Below are addresses that clouds serve their hosts at (metadata, names, time, credentials:
    /// 169.254.169.0/24 and 169.254.170.0/24), above the ones that RFC 3927 §2.1 reserves.
    #[must_use]
    pub fn numbered(number: u16) -> Self {
        let offset = u32::from(number % Self::NUMBERED) * 4;
        let v4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(169, 254, 172, 0)) + offset);
        let v6 = Ipv6Addr::from(u128::from(Ipv6Addr::new(0xfd00, 0x169, 0x254, 0x128, 0, 0, 0, 0)) + u128::from(offset));
        Self(vec![IpNet::V4(Ipv4Net::new_assert(v4, 30)), IpNet::V6(Ipv6Net::new_assert(v6, 126))])
    }

    /// What the node's addresses of all [`Transit::numbered`] have in common, of each family: a value, and which of its bits count.
    pub const NUMBERED_NODES: ((Ipv4Addr, Ipv4Addr), (Ipv6Addr, Ipv6Addr)) = (
        (Ipv4Addr::new(169, 254, 128, 2), Ipv4Addr::new(255, 255, 128, 3)),
        (Ipv6Addr::new(0xfd00, 0x169, 0x254, 0x128, 0, 0, 0, 2), Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 3)),
    );

    /// MAC of the router's end of the link [`Transit::numbered`], which tells hosts what VPC a packet is from.
    #[must_use]
    pub const fn numbered_mac(number: u16) -> MacAddr {
        MacAddr::local(0x0e, 0xfe_0001_0000 + (number % Self::NUMBERED) as u64)
    }

    /// The prefixes, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + use<'_> {
        self.0.iter().copied()
    }

    /// The router's addresses, with the length of their prefixes.
    #[must_use]
    pub fn router(&self) -> Vec<IpNet> {
        self.end(0)
    }

    /// The node's addresses, with the length of their prefixes.
    #[must_use]
    pub fn node(&self) -> Vec<IpNet> {
        self.end(1)
    }

    fn end(&self, number: usize) -> Vec<IpNet> {
        let end =
            |net: &IpNet| net.hosts().filter(|ip| *ip != net.network()).nth(number).and_then(|ip| IpNet::new(ip, net.prefix_len()).ok());
        self.0.iter().filter_map(end).collect()
    }

    /// The prefix of the family of `ip`.
    #[must_use]
    pub fn of_family(&self, ip: IpAddr) -> Option<IpNet> {
        self.0.iter().copied().find(|net| net.addr().is_ipv4() == ip.is_ipv4())
    }
}

impl Default for Transit {
    /// [`Transit::DEFAULT`].
    fn default() -> Self {
        let (v4, v6) = (Ipv4Addr::new(169, 254, 77, 0), Ipv6Addr::new(0xfd00, 0x169, 0x254, 0x77, 0, 0, 0, 0));
        Self(vec![IpNet::V4(Ipv4Net::new_assert(v4, 30)), IpNet::V6(Ipv6Net::new_assert(v6, 126))])
    }
}

impl FromStr for Transit {
    type Err = TransitError;

    fn from_str(text: &str) -> Result<Self, TransitError> {
        let mut nets = Vec::new();
        for part in text.split(',') {
            let net: IpNet = part.trim().parse().map_err(|_| TransitError::Malformed(part.to_owned()))?;
            if net.prefix_len() + 2 > net.max_prefix_len() {
                return Err(TransitError::TooSmall(net));
            }
            nets.push(net.trunc());
        }
        nets.sort_by_key(|net| !net.addr().is_ipv4());
        match nets.windows(2).all(|pair| pair[0].addr().is_ipv4() != pair[1].addr().is_ipv4()) {
            true => Ok(Self(nets)),
            false => Err(TransitError::SameFamily(text.to_owned())),
        }
    }
}

impl fmt::Display for Transit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_follow_from_names_and_of_two_with_one_number_the_older_has_it() {
        // Among so many two have one number.
        let many: Vec<String> = (0..400).map(|i| format!("vpc{i}")).collect();
        let (one, other) = many
            .iter()
            .enumerate()
            .find_map(|(at, one)| many[..at].iter().find(|other| number_of(other) == number_of(one)).map(|other| (one, other)))
            .unwrap();
        let links = host_links([(7, one), (9, other)]);
        assert_eq!((links[one], links[other]), (number_of(one), (number_of(one) + 1) % Transit::NUMBERED));
        assert_eq!(host_links([(9, one), (7, other)])[other], number_of(other));
        assert_eq!(host_links(many.iter().map(|name| (0, name))).values().collect::<BTreeSet<_>>().len(), 400);
        assert_eq!(Transit::numbered_mac(0x0fff).to_string(), "0e:fe:00:01:0f:ff");
    }

    #[test]
    fn of_two_vpcs_with_one_range_the_default_one_or_the_older_subnet_leaves() {
        let ranges = |vpc, subnet, created, cidrs: &str| HostRanges { vpc, subnet, created, cidrs: cidrs.parse().unwrap() };
        let default = ranges(DEFAULT_VPC, "z", 9, "10.0.0.0/16");
        let (red, blue) = (ranges("red", "r", 2, "10.0.1.0/24,fd00::/64"), ranges("blue", "b", 3, "10.2.0.0/16,fd00::/48"));
        assert!(red.yield_to(&default).is_some() && default.yield_to(&red).is_none());
        assert_eq!(blue.yield_to(&red).unwrap().0.to_string(), "fd00::/48");
        assert!(red.yield_to(&blue).is_none() && blue.yield_to(&default).is_none());
        assert!(red.yield_to(&HostRanges { created: 1, ..red }).is_none(), "one VPC is in accord with itself");
    }

    #[test]
    fn gateway_nodes_may_have_an_address_of_each_family() {
        let (v4, v6) = ("192.0.2.9".parse().unwrap(), "fd00::9".parse().unwrap());
        let read = gateway_nodes(" n1:192.0.2.9 , n2,n1:fd00::9,n2,").unwrap();
        assert_eq!(read, [("n1", vec![v4, v6]), ("n2", vec![])]);
        for (bad, why) in [
            ("n1:x", "\"n1:x\": \"x\" is not an address"),
            (":192.0.2.9", "names no node"),
            ("n1:192.0.2.9,n1:192.0.2.8", "\"n1:192.0.2.8\" is the second address of a family for n1"),
        ] {
            assert!(gateway_nodes(bad).unwrap_err().contains(why), "{bad}");
        }
    }

    #[test]
    fn the_first_host_is_the_router_and_the_second_the_node() {
        let transit: Transit = Transit::DEFAULT.parse().unwrap();
        let texts = |nets: Vec<IpNet>| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(transit.router()), ["169.254.77.1/30", "fd00:169:254:77::1/126"]);
        assert_eq!(texts(transit.node()), ["169.254.77.2/30", "fd00:169:254:77::2/126"]);
        assert_eq!((transit.to_string().as_str(), &transit), (Transit::DEFAULT, &Transit::default()));
        assert_eq!(texts(Transit::numbered(0).router()), ["169.254.172.1/30", "fd00:169:254:128::1/126"]);
        assert_eq!(texts(Transit::numbered(Transit::NUMBERED - 1).node()), ["169.254.254.254/30", "fd00:169:254:128::52fe/126"]);
        assert_eq!(Transit::numbered(Transit::NUMBERED), Transit::numbered(0));
        let ((v4, mask4), (v6, mask6)) = Transit::NUMBERED_NODES;
        for number in 0..Transit::NUMBERED {
            let link = Transit::numbered(number);
            let has = |net: &IpNet| match net.addr() {
                IpAddr::V4(ip) => ip.to_bits() & mask4.to_bits() == v4.to_bits(),
                IpAddr::V6(ip) => ip.to_bits() & mask6.to_bits() == v6.to_bits(),
            };
            assert!(link.node().iter().all(has) && !link.router().iter().any(has), "{link}");
        }
        assert_eq!("fd00::/64,172.168.0.0/30".parse::<Transit>().unwrap().to_string(), "172.168.0.0/30,fd00::/64");
        for (bad, why) in [
            ("nonsense", "\"nonsense\" is not a CIDR"),
            ("10.0.0.0/31", "10.0.0.0/31 is too small"),
            ("10.0.0.0/30,10.1.0.0/30", "more than one prefix of a family"),
        ] {
            assert!(bad.parse::<Transit>().unwrap_err().to_string().contains(why), "{bad}");
        }
    }
}
