//! What a switch sends.

use crate::bundle::{BundleId, BundleStep};
use crate::error::ErrorReply;
use crate::flow::Cookie;
use crate::message::{HEADER, VERSION, Xid, kind, multipart};

/// A message of the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The first one. Whether both sides speak our version ("Connection Setup"); if not, the connection is of no use.
    Hello {
        /// Whether they do.
        agreed: bool,
    },
    /// A request was refused.
    Error(ErrorReply),
    /// Is to be answered by an echo reply with the same data.
    EchoRequest(Vec<u8>),
    /// An echo request of ours was answered.
    EchoReply(Vec<u8>),
    /// Everything sent before the barrier has been carried out.
    BarrierReply,
    /// A step of a bundle is done.
    Bundle(BundleId, BundleStep),
    /// Others have added, changed or removed flows that have, or had, these cookies; none, as an answer to [`crate::Message::WatchFlows`].
    FlowsChanged(Vec<Cookie>),
    /// Something that we never ask for, such as news of ports: its type. To be ignored.
    Other(u8),
}

/// Bytes that are not OpenFlow 1.4. The connection cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Less than a header.
    #[error("a message of type {0} claims a length of {1} bytes, less than its header")]
    Length(u8, u16),
    /// Another version than agreed.
    #[error("a message of type {0} is of version {1:#04x}, not {VERSION:#04x}")]
    Version(u8, u8),
    /// A body that is too short, or says what it cannot.
    #[error("the body of a message of type {0} is malformed")]
    Body(u8),
}

/// Reads the first message of `bytes`: its xid, what it says, and its length. `None` while it has not arrived whole.
///
/// # Errors
/// When this is not OpenFlow 1.4.
pub fn decode(bytes: &[u8]) -> Result<Option<(Xid, Reply, usize)>, DecodeError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let [version, kind, l0, l1, x0, x1, x2, x3] = *header;
    let length = u16::from_be_bytes([l0, l1]);
    let size = usize::from(length).checked_sub(HEADER).ok_or(DecodeError::Length(kind, length))?;
    // Only a hello may come in a version of the peer's choice.
    if version != VERSION && kind != kind::HELLO {
        return Err(DecodeError::Version(kind, version));
    }
    let Some(body) = rest.get(..size) else { return Ok(None) };
    let reply = match kind {
        kind::HELLO => Reply::Hello { agreed: agreed(version, body) },
        kind::ERROR => error(body).ok_or(DecodeError::Body(kind))?,
        kind::ECHO_REQUEST => Reply::EchoRequest(body.to_vec()),
        kind::ECHO_REPLY => Reply::EchoReply(body.to_vec()),
        kind::BARRIER_REPLY => Reply::BarrierReply,
        kind::MULTIPART_REPLY if body.starts_with(&multipart::FLOW_MONITOR.to_be_bytes()) => {
            changes(body.get(8..).unwrap_or_default()).map(Reply::FlowsChanged).ok_or(DecodeError::Body(kind))?
        }
        kind::BUNDLE_CONTROL => bundle(body).ok_or(DecodeError::Body(kind))?,
        other => Reply::Other(other),
    };
    Ok(Some((Xid(u32::from_be_bytes([x0, x1, x2, x3])), reply, usize::from(length))))
}

/// "Connection Setup": with a bitmap, the peer's versions are known; without, the lower of both versions is spoken, and ours is one.
fn agreed(version: u8, mut elements: &[u8]) -> bool {
    const BITMAP: u16 = 1;
    while let Some(([t0, t1, l0, l1], rest)) = elements.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let Some(value) = length.checked_sub(4).and_then(|size| rest.get(..size)) else { break };
        if u16::from_be_bytes([*t0, *t1]) == BITMAP {
            return value.first_chunk::<4>().is_some_and(|bits| u32::from_be_bytes(*bits) & 1 << VERSION != 0);
        }
        elements = elements.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    version >= VERSION
}

fn error(body: &[u8]) -> Option<Reply> {
    let ([t0, t1, c0, c1], data) = body.split_first_chunk::<4>()?;
    let (kind, code) = (u16::from_be_bytes([*t0, *t1]), u16::from_be_bytes([*c0, *c1]));
    Some(Reply::Error(ErrorReply { kind, code, data: data.to_vec() }))
}

fn bundle(body: &[u8]) -> Option<Reply> {
    let ([i0, i1, i2, i3, t0, t1, _, _], _) = body.split_first_chunk::<8>()?;
    let step = BundleStep::of_reply(u16::from_be_bytes([*t0, *t1]))?;
    Some(Reply::Bundle(BundleId(u32::from_be_bytes([*i0, *i1, *i2, *i3])), step))
}

/// "Flow Monitoring": a list of updates, each with its length and what happened.
fn changes(mut updates: &[u8]) -> Option<Vec<Cookie>> {
    // `OFPFME_INITIAL`, `OFPFME_ADDED`, `OFPFME_REMOVED`, `OFPFME_MODIFIED`; others are about changes of ours, or about no flow.
    const FULL: std::ops::RangeInclusive<u16> = 0..=3;
    let mut cookies = Vec::new();
    while !updates.is_empty() {
        let [l0, l1, e0, e1] = *updates.first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let update = updates.get(..length).filter(|_| length >= 8)?;
        if FULL.contains(&u16::from_be_bytes([e0, e1])) {
            // Table, reason, two timeouts, priority and four bytes are before it.
            cookies.push(Cookie(u64::from_be_bytes(*update.get(16..)?.first_chunk()?)));
        }
        updates = &updates[length..];
    }
    Some(cookies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_agreed_on_by_bitmap_or_by_number() {
        let hello = |bytes: &[u8]| decode(bytes).map(|found| found.map(|(_, reply, _)| reply));
        let yes = Ok(Some(Reply::Hello { agreed: true }));
        let no = Ok(Some(Reply::Hello { agreed: false }));
        // A switch that speaks 1.0 to 1.5 says hello in 1.5.
        assert_eq!(hello(&[6, 0, 0, 16, 0, 0, 0, 1, 0, 1, 0, 8, 0, 0, 0, 0x7e]), yes);
        assert_eq!(hello(&[6, 0, 0, 16, 0, 0, 0, 1, 0, 1, 0, 8, 0, 0, 0, 0x10]), no);
        assert_eq!(hello(&[6, 0, 0, 8, 0, 0, 0, 1]), yes);
        assert_eq!(hello(&[4, 0, 0, 8, 0, 0, 0, 1]), no);
        // Elements that we do not know are passed over; broken ones end the list.
        assert_eq!(hello(&[4, 0, 0, 24, 0, 0, 0, 1, 0, 9, 0, 5, 7, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0x20]), yes);
        assert_eq!(hello(&[4, 0, 0, 12, 0, 0, 0, 1, 0, 1, 0, 0]), no);
    }

    #[test]
    fn half_a_message_waits_and_a_second_one_is_left() {
        let barrier = [5, 21, 0, 8, 0, 0, 0, 7];
        for cut in 0..8 {
            assert_eq!(decode(&barrier[..cut]), Ok(None));
        }
        assert_eq!(decode(&[barrier, barrier].concat()), Ok(Some((Xid(7), Reply::BarrierReply, 8))));
    }

    #[test]
    fn replies_are_read() {
        let read = |bytes: &[u8]| decode(bytes).unwrap().unwrap().1;
        assert_eq!(read(&[5, 33, 0, 16, 0, 0, 0, 1, 0, 0, 0, 9, 0, 5, 0, 3]), Reply::Bundle(BundleId(9), BundleStep::Commit));
        assert_eq!(read(&[5, 2, 0, 9, 0, 0, 0, 1, 42]), Reply::EchoRequest(vec![42]));
        assert_eq!(read(&[5, 12, 0, 8, 0, 0, 0, 1]), Reply::Other(12));
        let Reply::Error(error) = read(&[5, 1, 0, 13, 0, 0, 0, 1, 0, 17, 0, 13, 9]) else { panic!("no error") };
        assert_eq!((error.to_string().as_str(), error.data.as_slice()), ("the switch refused: BUNDLE_FAILED: MSG_FAILED", &[9][..]));
        assert_eq!(ErrorReply { kind: 4, code: 2, data: vec![] }.to_string(), "the switch refused: BAD_MATCH: code 2");
        assert_eq!(ErrorReply { kind: 99, code: 2, data: vec![] }.to_string(), "the switch refused: error of type 99, code 2");
    }

    #[test]
    fn changes_of_flows_by_others_are_read() {
        let message = |updates: &[&[u8]]| {
            let updates = updates.concat();
            [&[5, 19, 0, 16 + updates.len() as u8, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0][..], &updates].concat()
        };
        let removed = [0, 32, 0, 2, 0, 2, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 4, 0, 0, 0, 0];
        let abbreviated = [0, 8, 0, 4, 0, 0, 0, 7];
        let read = |bytes: &[u8]| decode(bytes).map(|found| found.unwrap().1);
        assert_eq!(read(&message(&[&abbreviated, &removed])), Ok(Reply::FlowsChanged(vec![Cookie(9)])));
        assert_eq!(read(&message(&[])), Ok(Reply::FlowsChanged(Vec::new())));
        for broken in [&removed[..20], &[0, 4, 0, 2], &[0, 0, 0, 2, 0, 0, 0, 0], &[0, 8, 0, 2, 0, 0, 0, 0]] {
            assert_eq!(read(&message(&[broken])), Err(DecodeError::Body(19)), "{broken:?}");
        }
        assert_eq!(read(&[5, 19, 0, 16, 0, 0, 0, 0, 0, 13, 0, 0, 0, 0, 0, 0]), Ok(Reply::Other(19)));
    }

    #[test]
    fn what_is_not_openflow_is_refused() {
        assert_eq!(decode(&[5, 21, 0, 7, 0, 0, 0, 1]), Err(DecodeError::Length(21, 7)));
        assert_eq!(decode(&[4, 21, 0, 8, 0, 0, 0, 1]), Err(DecodeError::Version(21, 4)));
        assert_eq!(decode(&[5, 1, 0, 11, 0, 0, 0, 1, 0, 0, 0]), Err(DecodeError::Body(1)));
        assert_eq!(decode(&[5, 33, 0, 16, 0, 0, 0, 1, 0, 0, 0, 9, 0, 4, 0, 3]), Err(DecodeError::Body(33)));
    }
}
