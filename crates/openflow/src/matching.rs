//! Which packets a flow is for: OXM ("Flow Match Structures").

use std::net::{Ipv4Addr, Ipv6Addr};

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
    /// An ARP packet (RFC 826).
    Arp {
        /// What it is: 1 a question, 2 an answer.
        operation: u16,
        /// Address that it is for, and which of its bits count.
        target: Option<(Ipv4Addr, Ipv4Addr)>,
    },
    /// A message of neighbour discovery (RFC 4861).
    Discovery {
        /// Its type: 135 a question, 136 an answer.
        kind: u8,
        /// Address that it is about, and which of its bits count.
        target: Option<(Ipv6Addr, Ipv6Addr)>,
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
    /// Type of an ICMP message, of the family that `network` has; without one, and in [`Network::Discovery`], it asks for nothing.
    pub icmp: Option<u8>,
}

/// A part of a packet, or of what the switch keeps beside it (ovs-fields(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// Port that the packet came from.
    InPort,
    /// Destination of the frame.
    EthDst,
    /// Source of the frame.
    EthSrc,
    /// What the frame carries.
    EthType,
    /// VLAN, with a bit that there is one.
    VlanVid,
    /// What an IP packet carries.
    IpProto,
    /// Source of an IPv4 packet.
    Ipv4Src,
    /// Destination of an IPv4 packet.
    Ipv4Dst,
    /// Type of an ICMP message.
    Icmpv4Type,
    /// What an ARP packet is: a question or an answer.
    ArpOp,
    /// IPv4 address of the sender of an ARP packet.
    ArpSpa,
    /// IPv4 address that an ARP packet is for.
    ArpTpa,
    /// MAC of the sender of an ARP packet.
    ArpSha,
    /// MAC that an ARP packet is for.
    ArpTha,
    /// Source of an IPv6 packet.
    Ipv6Src,
    /// Destination of an IPv6 packet.
    Ipv6Dst,
    /// Type of an ICMPv6 message.
    Icmpv6Type,
    /// Address that neighbour discovery is about.
    NdTarget,
    /// MAC that neighbour discovery answers with.
    NdTll,
    /// Type of the first option of neighbour discovery.
    NdOptionsType,
    /// 32 bits beside the packet, which the switch keeps as long as it has it.
    Register,
}

impl Field {
    /// Class, number in it, length in bytes.
    const fn place(self) -> (u16, u8, u8) {
        /// `OFPXMC_OPENFLOW_BASIC`.
        const BASIC: u16 = 0x8000;
        /// Extensions of Open vSwitch (ovs-fields(7)).
        const NXM_1: u16 = 0x0001;
        const ERICSSON: u16 = 0x1000;
        match self {
            Self::InPort => (BASIC, 0, 4),
            Self::EthDst => (BASIC, 3, 6),
            Self::EthSrc => (BASIC, 4, 6),
            Self::EthType => (BASIC, 5, 2),
            Self::VlanVid => (BASIC, 6, 2),
            Self::IpProto => (BASIC, 10, 1),
            Self::Ipv4Src => (BASIC, 11, 4),
            Self::Ipv4Dst => (BASIC, 12, 4),
            Self::Icmpv4Type => (BASIC, 19, 1),
            Self::ArpOp => (BASIC, 21, 2),
            Self::ArpSpa => (BASIC, 22, 4),
            Self::ArpTpa => (BASIC, 23, 4),
            Self::ArpSha => (BASIC, 24, 6),
            Self::ArpTha => (BASIC, 25, 6),
            Self::Ipv6Src => (BASIC, 26, 16),
            Self::Ipv6Dst => (BASIC, 27, 16),
            Self::Icmpv6Type => (BASIC, 29, 1),
            Self::NdTarget => (BASIC, 31, 16),
            Self::NdTll => (BASIC, 33, 6),
            Self::NdOptionsType => (ERICSSON, 2, 1),
            Self::Register => (NXM_1, 0, 4),
        }
    }

    /// Length in bits.
    pub(crate) const fn bits(self) -> u16 {
        self.place().2 as u16 * 8
    }

    /// How it is named on the wire, without a mask.
    pub(crate) const fn header(self) -> [u8; 4] {
        let (class, number, length) = self.place();
        let [high, low] = class.to_be_bytes();
        [high, low, number << 1, length]
    }
}

/// One field without a mask: class, field, length, value ("Flow Match Field Structures").
pub(crate) fn exact(out: &mut Vec<u8>, field: Field, value: &[u8]) {
    debug_assert_eq!(value.len() * 8, usize::from(field.bits()), "{field:?}");
    out.extend_from_slice(&field.header());
    out.extend_from_slice(value);
}

/// A field of which the bits of a mask count.
fn masked<const N: usize>(out: &mut Vec<u8>, field: Field, value: [u8; N], mask: [u8; N]) {
    // A mask of zeroes is the same as no field, one of ones as no mask; neither is allowed.
    if mask == [0xff; N] {
        return exact(out, field, &value);
    }
    if mask != [0; N] {
        let [high, low, number, length] = field.header();
        out.extend_from_slice(&[high, low, number | 1, 2 * length]);
        // Value bits outside of the mask must be zero ("Flow Match Field Masking").
        out.extend(value.iter().zip(&mask).map(|(value, mask)| value & mask));
        out.extend_from_slice(&mask);
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
            Network::Ipv6 { .. } | Network::Discovery { .. } => Some(EtherType::IPV6),
            Network::Arp { .. } => Some(EtherType::ARP),
        };
        if let Some(family) = family {
            ether_type(&mut fields, family);
        }
        let icmp = match family {
            Some(EtherType::IPV4) => Some((1, Field::Icmpv4Type)),
            Some(EtherType::IPV6) => Some((58, Field::Icmpv6Type)),
            _ => None,
        };
        let kind = if let Network::Discovery { kind, .. } = self.network { Some(kind) } else { self.icmp };
        let icmp = kind.zip(icmp);
        if let Some((_, (protocol, _))) = icmp {
            exact(&mut fields, Field::IpProto, &[protocol]);
        }
        match self.network {
            Network::Any | Network::Type(_) | Network::Discovery { .. } => {}
            Network::Arp { operation, target } => {
                exact(&mut fields, Field::ArpOp, &operation.to_be_bytes());
                if let Some((address, mask)) = target {
                    masked(&mut fields, Field::ArpTpa, address.octets(), mask.octets());
                }
            }
            Network::Ipv4 { source, destination } => {
                for (field, net) in [(Field::Ipv4Src, source), (Field::Ipv4Dst, destination)] {
                    if let Some(net) = net {
                        masked(&mut fields, field, net.addr().octets(), net.netmask().octets());
                    }
                }
            }
            Network::Ipv6 { source, destination } => {
                for (field, net) in [(Field::Ipv6Src, source), (Field::Ipv6Dst, destination)] {
                    if let Some(net) = net {
                        masked(&mut fields, field, net.addr().octets(), net.netmask().octets());
                    }
                }
            }
        }
        if let Some((kind, (_, field))) = icmp {
            exact(&mut fields, field, &[kind]);
        }
        if let Network::Discovery { target: Some((address, mask)), .. } = self.network {
            masked(&mut fields, Field::NdTarget, address.octets(), mask.octets());
        }
        out.extend_from_slice(&OXM.to_be_bytes());
        // At most 8 + 10 + 10 + 6 + 6 + 5 + 36 + 36 + 5 bytes of fields.
        out.extend_from_slice(&(fields.len() as u16 + 4).to_be_bytes());
        out.extend_from_slice(&fields);
        pad(out, fields.len() + 4);
    }
}
