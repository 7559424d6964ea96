//! Flow entries: adding, changing and removing them (`ofp_flow_mod`).

use std::net::IpAddr;

use crate::matching::{Field, Mac, Match, exact};
use crate::message::{TooLong, pad};
use crate::port::Port;

/// Which of several flows that match wins: the highest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub u16);

/// A flow table. Packets start in table 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(pub u8);

impl Table {
    /// All tables (`OFPTT_ALL`), for [`Command::Delete`] only.
    pub const ALL: Self = Self(0xff);
}

/// A number of ours on a flow, by which it is recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cookie(pub u64);

/// What is done with the flow (`ofp_flow_mod_command`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Adds the flow; one with the same match and priority is replaced.
    Add = 0,
    /// Removes all flows that are as specific as the match, or more, whatever their priority.
    Delete = 3,
    /// Removes the flow with exactly this match and priority.
    DeleteStrict = 4,
}

/// What is done with a packet, in order ("Action Structures").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Sends the packet, as it is now, through a port.
    Output(Port),
    /// Rewrites the destination of the frame.
    SetEthDst(Mac),
    /// Rewrites the source of the frame.
    SetEthSrc(Mac),
    /// Rewrites the source of the packet, which must be of this family, and its checksums.
    SetIpSrc(IpAddr),
    /// Rewrites what an ARP packet is.
    SetArpOp(u16),
    /// Rewrites the sender's MAC of an ARP packet.
    SetArpSha(Mac),
    /// Rewrites the type of an ICMPv6 message.
    SetIcmpv6Type(u8),
    /// Rewrites the type of the first option of neighbour discovery (RFC 4861 §4.6). Open vSwitch 2.11 or newer, and not with the
    /// kernel's datapath, for which it refuses the flow.
    SetNdOption(u8),
    /// Rewrites the MAC that neighbour discovery answers with.
    SetNdTll(Mac),
    /// Copies one field into another of its length (`move` of ovs-actions(7)).
    Move(Field, Field),
    /// Goes on with what a flow of another table does with the packet as it is now (`resubmit` of ovs-actions(7)).
    Resubmit(Table),
}

/// A change of flow entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlowMod {
    /// What is done.
    pub command: Command,
    /// Table.
    pub table: Table,
    /// Priority.
    pub priority: Priority,
    /// The flow's cookie, or that of the flows to remove.
    pub cookie: Cookie,
    /// Removal: which bits of the cookie a flow must have in common; 0 for any cookie.
    pub cookie_mask: u64,
    /// Which packets.
    pub matching: Match,
    /// What is done with them; packets of a flow without actions are dropped.
    pub actions: Vec<Action>,
}

impl FlowMod {
    /// Adds a flow to table 0.
    #[must_use]
    pub const fn add(priority: Priority, matching: Match, actions: Vec<Action>) -> Self {
        Self { command: Command::Add, table: Table(0), priority, cookie: Cookie(0), cookie_mask: 0, matching, actions }
    }

    /// Removes every flow of all tables whose cookie is `cookie`.
    #[must_use]
    pub fn delete_by_cookie(cookie: Cookie) -> Self {
        let (table, priority, matching) = (Table::ALL, Priority(0), Match::default());
        Self { command: Command::Delete, table, priority, cookie, cookie_mask: u64::MAX, matching, actions: Vec::new() }
    }

    /// The same with a cookie.
    #[must_use]
    pub fn with_cookie(self, cookie: Cookie) -> Self {
        Self { cookie, ..self }
    }

    /// The same in another table.
    #[must_use]
    pub fn in_table(self, table: Table) -> Self {
        Self { table, ..self }
    }

    /// `ofp_flow_mod` without its header.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        const NO_BUFFER: u32 = u32::MAX;
        const ANY_PORT: u32 = u32::MAX;
        const ANY_GROUP: u32 = u32::MAX;
        out.extend_from_slice(&self.cookie.0.to_be_bytes());
        out.extend_from_slice(&self.cookie_mask.to_be_bytes());
        out.extend_from_slice(&[self.table.0, self.command as u8]);
        // No idle and no hard timeout: flows stay until they are removed.
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.priority.0.to_be_bytes());
        for word in [NO_BUFFER, ANY_PORT, ANY_GROUP] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        // Neither flags nor importance.
        out.extend_from_slice(&[0; 4]);
        self.matching.encode(out);
        if self.actions.is_empty() {
            return Ok(());
        }
        // One `ofp_instruction_actions`: type, length, padding, actions.
        const APPLY_ACTIONS: u16 = 4;
        let mut actions = Vec::with_capacity(24 * self.actions.len());
        for action in &self.actions {
            action.encode(&mut actions);
        }
        let length = u16::try_from(8 + actions.len()).map_err(|_| TooLong(out.len() + 8 + actions.len()))?;
        out.extend_from_slice(&APPLY_ACTIONS.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&actions);
        Ok(())
    }
}

impl Action {
    fn encode(self, out: &mut Vec<u8>) {
        const OUTPUT: u16 = 0;
        const SET_FIELD: u16 = 25;
        const EXPERIMENTER: u16 = 0xffff;
        const NICIRA: [u8; 4] = 0x2320_u32.to_be_bytes();
        let mut body = Vec::with_capacity(20);
        let kind = match self {
            Self::Output(port) => {
                body.extend_from_slice(&port.number().to_be_bytes());
                // `max_len` counts for the controller's port alone; then padding.
                body.extend_from_slice(&[0; 8]);
                OUTPUT
            }
            Self::SetEthDst(mac) => set(&mut body, Field::EthDst, &mac, SET_FIELD),
            Self::SetEthSrc(mac) => set(&mut body, Field::EthSrc, &mac, SET_FIELD),
            Self::SetIpSrc(IpAddr::V4(address)) => set(&mut body, Field::Ipv4Src, &address.octets(), SET_FIELD),
            Self::SetIpSrc(IpAddr::V6(address)) => set(&mut body, Field::Ipv6Src, &address.octets(), SET_FIELD),
            Self::SetArpOp(operation) => set(&mut body, Field::ArpOp, &operation.to_be_bytes(), SET_FIELD),
            Self::SetArpSha(mac) => set(&mut body, Field::ArpSha, &mac, SET_FIELD),
            Self::SetIcmpv6Type(kind) => set(&mut body, Field::Icmpv6Type, &[kind], SET_FIELD),
            Self::SetNdOption(kind) => set(&mut body, Field::NdOptionsType, &[kind], SET_FIELD),
            Self::SetNdTll(mac) => set(&mut body, Field::NdTll, &mac, SET_FIELD),
            Self::Move(from, to) => {
                // `NXAST_REG_MOVE`: number of bits, the first of each field, and the fields.
                const REG_MOVE: u16 = 6;
                debug_assert_eq!(from.bits(), to.bits(), "{from:?}, {to:?}");
                body.extend_from_slice(&NICIRA);
                for number in [REG_MOVE, from.bits().min(to.bits()), 0, 0] {
                    body.extend_from_slice(&number.to_be_bytes());
                }
                body.extend_from_slice(&from.header());
                body.extend_from_slice(&to.header());
                EXPERIMENTER
            }
            Self::Resubmit(Table(table)) => {
                // `NXAST_RESUBMIT_TABLE`: as if from the same port (`OFPP_IN_PORT` of 16 bits).
                const RESUBMIT_TABLE: u16 = 14;
                body.extend_from_slice(&NICIRA);
                body.extend_from_slice(&RESUBMIT_TABLE.to_be_bytes());
                body.extend_from_slice(&0xfff8_u16.to_be_bytes());
                body.extend_from_slice(&[table, 0, 0, 0]);
                EXPERIMENTER
            }
        };
        // Type and length come before it, and padding behind.
        let length = (4 + body.len()).next_multiple_of(8) as u16;
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&body);
        pad(out, 4 + body.len());
    }
}

/// One OXM.
fn set(out: &mut Vec<u8>, field: Field, value: &[u8], kind: u16) -> u16 {
    exact(out, field, value);
    kind
}
