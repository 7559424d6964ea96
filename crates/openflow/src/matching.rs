//! Which packets a flow is for: OXM ("Flow Match Structures").

use ipnet::Ipv4Net;

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

/// What is asked of a packet above Ethernet addresses. IPv4 addresses may be matched only in IPv4 packets ("Flow Match
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
    /// Above Ethernet addresses.
    pub network: Network,
}

/// Fields of the class `OFPXMC_OPENFLOW_BASIC` (`oxm_ofb_match_fields`).
#[derive(Clone, Copy)]
pub(crate) enum Field {
    InPort = 0,
    EthDst = 3,
    EthSrc = 4,
    EthType = 5,
    Ipv4Src = 11,
    Ipv4Dst = 12,
}

/// One field without a mask: class, field, length, value ("Flow Match Field Structures").
pub(crate) fn exact(out: &mut Vec<u8>, field: Field, value: &[u8]) {
    header(out, field, false, value.len());
    out.extend_from_slice(value);
}

fn header(out: &mut Vec<u8>, field: Field, masked: bool, length: usize) {
    debug_assert!(length <= 12, "no field of ours is longer with its mask");
    out.extend_from_slice(&[0x80, 0x00, (field as u8) << 1 | u8::from(masked), length as u8]);
}

fn range(out: &mut Vec<u8>, field: Field, range: Ipv4Net) {
    match range.prefix_len() {
        // A mask of zeroes is the same as no field, and not allowed.
        0 => {}
        32 => exact(out, field, &range.addr().octets()),
        // Value bits outside of the mask must be zero ("Flow Match Field Masking").
        _ => {
            header(out, field, true, 8);
            out.extend_from_slice(&range.network().octets());
            out.extend_from_slice(&range.netmask().octets());
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
        let ether_type = |fields: &mut Vec<u8>, EtherType(value)| exact(fields, Field::EthType, &value.to_be_bytes());
        match self.network {
            Network::Any => {}
            Network::Type(value) => ether_type(&mut fields, value),
            Network::Ipv4 { source, destination } => {
                // A prerequisite comes before what needs it.
                ether_type(&mut fields, EtherType::IPV4);
                if let Some(source) = source {
                    range(&mut fields, Field::Ipv4Src, source);
                }
                if let Some(destination) = destination {
                    range(&mut fields, Field::Ipv4Dst, destination);
                }
            }
        }
        out.extend_from_slice(&OXM.to_be_bytes());
        // At most 8 + 10 + 10 + 6 + 12 + 12 bytes of fields.
        out.extend_from_slice(&(fields.len() as u16 + 4).to_be_bytes());
        out.extend_from_slice(&fields);
        pad(out, fields.len() + 4);
    }
}
