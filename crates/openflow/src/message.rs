//! Messages and their header ("OpenFlow Header").

use crate::bundle::{BundleId, BundleStep, FLAGS};
use crate::flow::{FlowMod, Table};
use crate::matching::Match;

/// Version of the wire protocol: OpenFlow 1.4.
pub const VERSION: u8 = 0x05;
/// Length of the header in bytes.
pub(crate) const HEADER: usize = 8;

/// Pairs a reply with its request; chosen by whoever sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid(pub u32);

/// A message whose length does not fit the header's 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an OpenFlow message of {0} bytes is longer than 65535")]
pub struct TooLong(pub usize);

/// A message that we send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first on a connection, on either side: which versions we speak (`ofp_hello`).
    Hello,
    /// Asks whether the peer is there.
    EchoRequest(Vec<u8>),
    /// Returns what an echo request carried.
    EchoReply(Vec<u8>),
    /// A change of flows, outside of any bundle.
    FlowMod(FlowMod),
    /// Is answered when everything sent before has been carried out.
    BarrierRequest,
    /// From now on the switch tells of flows that others add, change or remove, whatever their table ("Flow Monitoring"). One of these at most
    /// on a connection.
    WatchFlows,
    /// Opens, closes, commits or discards a bundle (`ofp_bundle_ctrl_msg`).
    BundleControl(BundleId, BundleStep),
    /// Puts a change of flows into a bundle (`ofp_bundle_add_msg`).
    BundleAdd(BundleId, FlowMod),
}

/// Message types (`ofp_type`).
pub(crate) mod kind {
    pub(crate) const HELLO: u8 = 0;
    pub(crate) const ERROR: u8 = 1;
    pub(crate) const ECHO_REQUEST: u8 = 2;
    pub(crate) const ECHO_REPLY: u8 = 3;
    pub(crate) const FLOW_MOD: u8 = 14;
    pub(crate) const MULTIPART_REQUEST: u8 = 18;
    pub(crate) const MULTIPART_REPLY: u8 = 19;
    pub(crate) const BARRIER_REQUEST: u8 = 20;
    pub(crate) const BARRIER_REPLY: u8 = 21;
    pub(crate) const BUNDLE_CONTROL: u8 = 33;
    pub(crate) const BUNDLE_ADD: u8 = 34;
}

/// What a multipart message is about (`ofp_multipart_type`).
pub(crate) mod multipart {
    pub(crate) const FLOW_MONITOR: u16 = 16;
}

/// Adds zeroes, after a structure of `length` bytes, up to a multiple of 8.
pub(crate) fn pad(out: &mut Vec<u8>, length: usize) {
    out.resize(out.len() + length.next_multiple_of(8) - length, 0);
}

impl Message {
    /// The message as bytes.
    ///
    /// # Errors
    /// When it is too long: a flow with more than some 4,000 actions, or a larger echo.
    pub fn encode(&self, xid: Xid) -> Result<Vec<u8>, TooLong> {
        let mut out = Vec::with_capacity(128);
        self.append(xid, &mut out)?;
        Ok(out)
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Hello => kind::HELLO,
            Self::EchoRequest(_) => kind::ECHO_REQUEST,
            Self::EchoReply(_) => kind::ECHO_REPLY,
            Self::FlowMod(_) => kind::FLOW_MOD,
            Self::BarrierRequest => kind::BARRIER_REQUEST,
            Self::WatchFlows => kind::MULTIPART_REQUEST,
            Self::BundleControl(..) => kind::BUNDLE_CONTROL,
            Self::BundleAdd(..) => kind::BUNDLE_ADD,
        }
    }

    /// Appends the message. On failure `out` holds rubbish at its end.
    pub(crate) fn append(&self, xid: Xid, out: &mut Vec<u8>) -> Result<(), TooLong> {
        message(self.kind(), xid, out, |out| match self {
            Self::Hello => {
                // `ofp_hello_elem_versionbitmap`: type 1, length 8, one bit per version.
                out.extend_from_slice(&[0, 1, 0, 8]);
                out.extend_from_slice(&(1u32 << VERSION).to_be_bytes());
                Ok(())
            }
            Self::EchoRequest(data) | Self::EchoReply(data) => {
                out.extend_from_slice(data);
                Ok(())
            }
            Self::FlowMod(flow) => flow.encode(out),
            Self::BarrierRequest => Ok(()),
            Self::WatchFlows => {
                const MONITOR: u32 = 1;
                const ANY: u32 = u32::MAX;
                // `OFPFMF_ADD`, `OFPFMF_REMOVED`, `OFPFMF_MODIFY`: not those that are there; and what this connection does comes abbreviated.
                const WHICH: u16 = 0b1110;
                const ADD: u8 = 0;
                out.extend_from_slice(&multipart::FLOW_MONITOR.to_be_bytes());
                out.extend_from_slice(&[0; 6]);
                for word in [MONITOR, ANY, ANY] {
                    out.extend_from_slice(&word.to_be_bytes());
                }
                out.extend_from_slice(&WHICH.to_be_bytes());
                out.extend_from_slice(&[Table::ALL.0, ADD]);
                Match::default().encode(out);
                Ok(())
            }
            Self::BundleControl(bundle, step) => {
                out.extend_from_slice(&bundle.0.to_be_bytes());
                out.extend_from_slice(&step.request().to_be_bytes());
                out.extend_from_slice(&FLAGS.to_be_bytes());
                Ok(())
            }
            Self::BundleAdd(bundle, flow) => {
                out.extend_from_slice(&bundle.0.to_be_bytes());
                out.extend_from_slice(&[0; 2]);
                out.extend_from_slice(&FLAGS.to_be_bytes());
                // The message inside carries the same xid ("Bundle Add Message").
                message(kind::FLOW_MOD, xid, out, |out| flow.encode(out))
            }
        })
    }
}

/// Appends a header, what `body` appends, and puts the length in.
fn message(kind: u8, xid: Xid, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLong>) -> Result<(), TooLong> {
    let start = out.len();
    out.extend_from_slice(&[VERSION, kind, 0, 0]);
    out.extend_from_slice(&xid.0.to_be_bytes());
    body(out)?;
    let length = out.len() - start;
    let bytes = u16::try_from(length).map_err(|_| TooLong(length))?.to_be_bytes();
    out[start + 2..start + 4].copy_from_slice(&bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Port, Priority};

    #[test]
    fn the_longest_message_fits_and_a_longer_one_is_refused() {
        let longest = usize::from(u16::MAX) - HEADER;
        assert_eq!(Message::EchoRequest(vec![0; longest]).encode(Xid(1)).map(|bytes| bytes.len()), Ok(65535));
        assert_eq!(Message::EchoRequest(vec![0; longest + 1]).encode(Xid(1)), Err(TooLong(65536)));
        let flow = FlowMod::add(Priority(1), Match::default(), vec![Action::Output(Port::LOCAL); 5000]);
        assert!(Message::BundleAdd(BundleId(1), flow).encode(Xid(1)).is_err());
    }
}
