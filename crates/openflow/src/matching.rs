//! Which packets a flow is for: OXM ("Flow Match Structures").

use ipnet::{Ipv4Net, Ipv6Net};

use crate::message::pad;
use crate::port::Port;

/// An Ethernet address; unlike a link's own it may be multicast.
pub type Mac = [u8; 6];

/// What an Ethernet frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// Internet Protocol version 4.
    pub const IPV4: Self = Self(0x0800);
    /// Address Resolution Protocol.
    pub const ARP: Self = Self(0x0806);
    /// Internet Protocol version 6.
    pub const IPV6: Self = Self(0x86dd);
}

/// What is asked of a packet above Ethernet addresses. IP addresses may be matched only in packets of their family ("Flow Match
/// Field Prerequisite").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// Nothing.
    #[default]
    Any,
    /// What the frame carries.
    Type(EtherType),
    /// An IPv4 packet from and to these ranges. Bits below the prefix are ignored.
    Ipv4 {
        /// Range of the source.
        source: Option<Ipv4Net>,
        /// Range of the destination.
        destination: Option<Ipv4Net>,
    },
    /// An IPv6 packet from and to these ranges. Bits below the prefix are ignored.
    Ipv6 {
        /// Range of the source.
        source: Option<Ipv6Net>,
        /// Range of the destination.
        destination: Option<Ipv6Net>,
    },
}

/// A conjunction; what is absent matches everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Match {
    /// Port that the packet came from.
    pub in_port: Option<Port>,
    /// Destination.
    pub eth_dst: Option<Mac>,
    /// Source.
    pub eth_src: Option<Mac>,
    /// Whether the frame must be without a VLAN's tag.
    pub untagged: bool,
    /// Above Ethernet addresses.
    pub network: Network,
    /// Type of an ICMP message, of the family that `network` has; without one it asks for nothing.
    pub icmp: Option<u8>,
}

/// Fields of the class `OFPXMC_OPENFLOW_BASIC` (`oxm_ofb_match_fields`).
#[derive(Clone, Copy)]
pub(crate) enum Field {
    InPort = 0,
    EthDst = 3,
    EthSrc = 4,
    EthType = 5,
    VlanVid = 6,
    IpProto = 10,
    Ipv4Src = 11,
    Ipv4Dst = 12,
    Icmpv4Type = 19,
    Ipv6Src = 26,
    Ipv6Dst = 27,
    Icmpv6Type = 29,
}

/// One field without a mask: class, field, length, value ("Flow Match Field Structures").
pub(crate) fn exact(out: &mut Vec<u8>, field: Field, value: &[u8]) {
    header(out, field, false, value.len());
    out.extend_from_slice(value);
}

fn header(out: &mut Vec<u8>, field: Field, masked: bool, length: usize) {
    debug_assert!(length <= 32, "no field of ours is longer with its mask");
    out.extend_from_slice(&[0x80, 0x00, (field as u8) << 1 | u8::from(masked), length as u8]);
}

/// The addresses of a range: `octets` of the network and of its mask.
fn range<const N: usize>(out: &mut Vec<u8>, field: Field, length: u8, network: [u8; N], mask: [u8; N]) {
    match usize::from(length) {
        // A mask of zeroes is the same as no field, and not allowed.
        0 => {}
        whole if whole == 8 * N => exact(out, field, &network),
        // Value bits outside of the mask must be zero ("Flow Match Field Masking").
        _ => {
            header(out, field, true, 2 * N);
            out.extend_from_slice(&network);
            out.extend_from_slice(&mask);
        }
    }
}

impl Match {
    /// `ofp_match`: type, length without the padding, fields, padding to 8 bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        const OXM: u16 = 1;
        let mut fields = Vec::with_capacity(48);
        if let Some(port) = self.in_port {
            exact(&mut fields, Field::InPort, &port.number().to_be_bytes());
        }
        if let Some(mac) = self.eth_dst {
            exact(&mut fields, Field::EthDst, &mac);
        }
        if let Some(mac) = self.eth_src {
            exact(&mut fields, Field::EthSrc, &mac);
        }
        if self.untagged {
            // `OFPVID_NONE`.
            exact(&mut fields, Field::VlanVid, &[0, 0]);
        }
        let ether_type = |fields: &mut Vec<u8>, EtherType(value)| exact(fields, Field::EthType, &value.to_be_bytes());
        // A prerequisite comes before what needs it.
        let family = match self.network {
            Network::Any => None,
            Network::Type(value) => Some(value),
            Network::Ipv4 { .. } => Some(EtherType::IPV4),
            Network::Ipv6 { .. } => Some(EtherType::IPV6),
        };
        if let Some(family) = family {
            ether_type(&mut fields, family);
        }
        let icmp = match family {
            Some(EtherType::IPV4) => Some((1, Field::Icmpv4Type)),
            Some(EtherType::IPV6) => Some((58, Field::Icmpv6Type)),
            _ => None,
        };
        let icmp = self.icmp.zip(icmp);
        if let Some((_, (protocol, _))) = icmp {
            exact(&mut fields, Field::IpProto, &[protocol]);
        }
        match self.network {
            Network::Any | Network::Type(_) => {}
            Network::Ipv4 { source, destination } => {
                for (field, net) in [(Field::Ipv4Src, source), (Field::Ipv4Dst, destination)] {
                    if let Some(net) = net {
                        range(&mut fields, field, net.prefix_len(), net.network().octets(), net.netmask().octets());
                    }
                }
            }
            Network::Ipv6 { source, destination } => {
                for (field, net) in [(Field::Ipv6Src, source), (Field::Ipv6Dst, destination)] {
                    if let Some(net) = net {
                        range(&mut fields, field, net.prefix_len(), net.network().octets(), net.netmask().octets());
                    }
                }
            }
        }
        if let Some((kind, (_, field))) = icmp {
            exact(&mut fields, field, &[kind]);
        }
        out.extend_from_slice(&OXM.to_be_bytes());
        // At most 8 + 10 + 10 + 6 + 6 + 5 + 36 + 36 + 5 bytes of fields.
        out.extend_from_slice(&(fields.len() as u16 + 4).to_be_bytes());
        out.extend_from_slice(&fields);
        pad(out, fields.len() + 4);
    }
}
