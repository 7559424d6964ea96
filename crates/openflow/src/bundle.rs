//! Bundles: changes that a switch applies all at once, or not at all ("Bundle Messages").

use crate::flow::FlowMod;
use crate::message::{Message, TooLong, Xid};

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

/// A bundle as bytes, and how its replies are recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Open, changes, commit.
    pub bytes: Vec<u8>,
    /// Of the opening; the first change has the next one, and so on.
    pub open: Xid,
    /// Of the commit: the bundle is in effect when its reply arrives.
    pub commit: Xid,
}

impl Bundle {
    /// All messages from opening to commit, numbered upwards from `first`. If any fails, the switch answers with an error
    /// for it, and for the commit, and nothing has changed.
    ///
    /// # Errors
    /// When a flow has too many actions.
    pub fn encode(&self, first: Xid) -> Result<Sent, TooLong> {
        let mut bytes = Vec::with_capacity(128 * (self.flows.len() + 2));
        let mut xid = first;
        Message::BundleControl(self.id, BundleStep::Open).append(xid, &mut bytes)?;
        for flow in &self.flows {
            xid = Xid(xid.0.wrapping_add(1));
            Message::BundleAdd(self.id, flow.clone()).append(xid, &mut bytes)?;
        }
        xid = Xid(xid.0.wrapping_add(1));
        Message::BundleControl(self.id, BundleStep::Commit).append(xid, &mut bytes)?;
        Ok(Sent { bytes, open: first, commit: xid })
    }
}

impl Sent {
    /// Which change a reply speaks of, as an index into the bundle's flows.
    #[must_use]
    pub const fn flow(&self, xid: Xid) -> Option<usize> {
        let count = self.commit.0.wrapping_sub(self.open.0);
        let at = xid.0.wrapping_sub(self.open.0);
        if at >= 1 && at < count { Some(at as usize - 1) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Match, Priority};

    #[test]
    fn a_reply_is_traced_to_its_flow() {
        let flow = FlowMod::add(Priority(1), Match::default(), Vec::new());
        // Numbers wrap around.
        let sent = Bundle { id: BundleId(1), flows: vec![flow.clone(), flow] }.encode(Xid(u32::MAX)).unwrap();
        assert_eq!((sent.open, sent.commit), (Xid(u32::MAX), Xid(2)));
        let traced = [u32::MAX - 1, u32::MAX, 0, 1, 2, 3].map(|xid| sent.flow(Xid(xid)));
        assert_eq!(traced, [None, None, Some(0), Some(1), None, None]);
    }
}
