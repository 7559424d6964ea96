//! Bundles: changes that a switch applies all at once, or not at all ("Bundle Messages").

use crate::error::ErrorReply;
use crate::flow::FlowMod;
use crate::message::{Message, TooLong, Xid};
use crate::reply::Reply;

/// Number of a bundle, unique on its connection while the bundle is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleId(pub u32);

/// Every message of a bundle carries these: `OFPBF_ATOMIC` (a packet meets all changes or none, and so does a failure) and
/// `OFPBF_ORDERED` (changes are applied as they were added).
pub(crate) const FLAGS: u16 = 0b11;

/// What happens to a bundle (`ofp_bundle_ctrl_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BundleStep {
    /// It begins.
    Open,
    /// No more changes follow. A commit closes, too.
    Close,
    /// It takes effect and ends.
    Commit,
    /// It ends without effect.
    Discard,
}

impl BundleStep {
    const ALL: [Self; 4] = [Self::Open, Self::Close, Self::Commit, Self::Discard];

    /// `OFPBCT_…_REQUEST`; the reply is one more.
    pub(crate) const fn request(self) -> u16 {
        match self {
            Self::Open => 0,
            Self::Close => 2,
            Self::Commit => 4,
            Self::Discard => 6,
        }
    }

    pub(crate) fn of_reply(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.request() + 1 == number)
    }
}

/// Changes of flows that take effect together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Its number.
    pub id: BundleId,
    /// The changes, in order.
    pub flows: Vec<FlowMod>,
}

/// A bundle that has been sent and not yet committed. Open vSwitch answers a change that it refuses when it is *added* with an
/// error, and would commit the rest: so the commit waits until the closing has been answered, and a refusal discards all.
#[derive(Clone, Debug)]
pub struct Exchange {
    first: Xid,
    close: Xid,
    end: Xid,
    commit: Vec<u8>,
    discard: Vec<u8>,
    refused: Option<Refused>,
}

/// Why a bundle was not applied. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {error}", match flow { Some(index) => format!("flow {index} of the bundle"), None => "the bundle".to_owned() })]
pub struct Refused {
    /// Which flow is to blame, as an index into the bundle's; `None` for the bundle itself.
    pub flow: Option<usize>,
    /// What the switch says.
    pub error: ErrorReply,
}

/// What follows from a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// More replies are to come.
    Wait,
    /// This is to be sent.
    Send(Vec<u8>),
    /// The bundle is in effect, or nothing of it is.
    Done(Result<(), Refused>),
}

impl Bundle {
    /// What is to be sent first: opening, changes and closing, numbered upwards from `first`. One more number is used at the
    /// end. Replies are then given to the [`Exchange`].
    ///
    /// # Errors
    /// When a flow has too many actions.
    pub fn begin(&self, first: Xid) -> Result<(Vec<u8>, Exchange), TooLong> {
        let next = |xid: Xid| Xid(xid.0.wrapping_add(1));
        let mut bytes = Vec::with_capacity(128 * (self.flows.len() + 2));
        let mut xid = first;
        Message::BundleControl(self.id, BundleStep::Open).append(xid, &mut bytes)?;
        for flow in &self.flows {
            xid = next(xid);
            Message::BundleAdd(self.id, flow.clone()).append(xid, &mut bytes)?;
        }
        let close = next(xid);
        Message::BundleControl(self.id, BundleStep::Close).append(close, &mut bytes)?;
        let end = next(close);
        let [commit, discard] = [BundleStep::Commit, BundleStep::Discard].map(|step| Message::BundleControl(self.id, step).encode(end));
        Ok((bytes, Exchange { first, close, end, commit: commit?, discard: discard?, refused: None }))
    }
}

impl Exchange {
    /// Takes note of a reply; one to something else changes nothing.
    pub fn receive(&mut self, xid: Xid, reply: &Reply) -> Next {
        let place = |xid: Xid| xid.0.wrapping_sub(self.first.0);
        if place(xid) > place(self.end) {
            return Next::Wait;
        }
        if let Reply::Error(error) = reply {
            let is_flow = xid != self.first && place(xid) < place(self.close);
            let flow = is_flow.then(|| place(xid) as usize - 1);
            // The first error is the cause; what comes after follows from it.
            self.refused.get_or_insert_with(|| Refused { flow, error: error.clone() });
        } else if !matches!(reply, Reply::Bundle(..)) {
            return Next::Wait;
        }
        match (xid == self.close, xid == self.end, &self.refused) {
            (true, _, None) => Next::Send(std::mem::take(&mut self.commit)),
            (true, _, Some(_)) => Next::Send(std::mem::take(&mut self.discard)),
            (_, true, refused) => Next::Done(refused.clone().map_or(Ok(()), Err)),
            _ => Next::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Match, Priority};

    fn begun() -> Exchange {
        let flow = FlowMod::add(Priority(1), Match::default(), Vec::new());
        // Numbers wrap around: opening -1, flows 0 and 1, closing 2, end 3.
        Bundle { id: BundleId(1), flows: vec![flow.clone(), flow] }.begin(Xid(u32::MAX)).unwrap().1
    }

    fn done(step: BundleStep) -> Reply {
        Reply::Bundle(BundleId(1), step)
    }

    fn error(code: u16) -> Reply {
        Reply::Error(ErrorReply { kind: 17, code, data: Vec::new() })
    }

    #[test]
    fn the_commit_waits_until_all_changes_were_taken() {
        let mut exchange = begun();
        assert_eq!(exchange.receive(Xid(u32::MAX), &done(BundleStep::Open)), Next::Wait);
        assert_eq!(exchange.receive(Xid(77), &error(1)), Next::Wait);
        let commit = Message::BundleControl(BundleId(1), BundleStep::Commit).encode(Xid(3)).unwrap();
        assert_eq!(exchange.receive(Xid(2), &done(BundleStep::Close)), Next::Send(commit));
        assert_eq!(exchange.receive(Xid(3), &done(BundleStep::Commit)), Next::Done(Ok(())));
    }

    #[test]
    fn a_change_that_is_refused_discards_the_bundle_and_is_named() {
        let mut exchange = begun();
        assert_eq!(exchange.receive(Xid(1), &error(10)), Next::Wait);
        let discard = Message::BundleControl(BundleId(1), BundleStep::Discard).encode(Xid(3)).unwrap();
        assert_eq!(exchange.receive(Xid(2), &done(BundleStep::Close)), Next::Send(discard));
        let Next::Done(Err(refused)) = exchange.receive(Xid(3), &done(BundleStep::Discard)) else { panic!("not refused") };
        assert_eq!(refused.to_string(), "flow 1 of the bundle: the switch refused: BUNDLE_FAILED: MSG_UNSUP");
    }

    #[test]
    fn a_commit_that_fails_names_the_first_cause() {
        let mut exchange = begun();
        assert!(matches!(exchange.receive(Xid(2), &done(BundleStep::Close)), Next::Send(_)));
        assert_eq!(exchange.receive(Xid(0), &error(1)), Next::Wait);
        let Next::Done(Err(refused)) = exchange.receive(Xid(3), &error(13)) else { panic!("not refused") };
        assert_eq!((refused.flow, refused.error.code), (Some(0), 1));
    }
}
