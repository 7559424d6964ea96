//! Queueing disciplines at the root of a link: rate limits (tc-tbf(8)) and impaired lines (tc-netem(8)).

use futures::StreamExt;
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use crate::link::absent;
use crate::{Error, Handle, Result};

/// A token bucket: what leaves the link is delayed to a rate, and dropped when too much waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tbf {
    /// Rate in bytes per second, headers of the link included.
    pub rate: u64,
    /// What may leave at once, in bytes.
    pub burst: u32,
    /// What may wait, in bytes.
    pub limit: u32,
}

/// A line that is worse than it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Netem {
    /// Delay in microseconds.
    pub latency: u32,
    /// Random variation of the delay in microseconds.
    pub jitter: u32,
    /// Share that is lost, of `u32::MAX`.
    pub loss: u32,
    /// Packets that may wait.
    pub limit: u32,
}

/// What stands at the root of a link: both, in which case a packet is impaired and then held to the rate, or one, or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Qdiscs {
    /// Rate limit.
    pub tbf: Option<Tbf>,
    /// Impairment.
    pub netem: Option<Netem>,
}

impl Qdiscs {
    /// Whether these are as `wanted`, but for what is lost in ticks.
    fn is(self, wanted: Self) -> bool {
        let near = |a: u32, b: u32| a.abs_diff(b) <= b / 100 + 1;
        let tbf = match (self.tbf, wanted.tbf) {
            (Some(a), Some(b)) => a.rate == b.rate && a.limit == b.limit && near(a.burst, b.burst),
            (a, b) => a == b,
        };
        let netem = match (self.netem, wanted.netem) {
            (Some(a), Some(b)) => (a.loss, a.limit) == (b.loss, b.limit) && near(a.latency, b.latency) && near(a.jitter, b.jitter),
            (a, b) => a == b,
        };
        tbf && netem
    }
}

/// Nanoseconds in a tick of the packet scheduler (`/proc/net/psched`), in which netem takes delays.
const TICK: u64 = 64;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const ETHERNET: u8 = 1;

/// Handles that are ours: whatever else stands at a root is another's.
const TBF: TcHandle = TcHandle { major: 0xfe44, minor: 0 };
const NETEM: TcHandle = TcHandle { major: 0xfe45, minor: 0 };

impl Handle {
    /// Makes the root of a link what `wanted` says, unless it is so. What others put there is left alone while nothing is wanted.
    ///
    /// # Errors
    /// When the kernel refuses; it is [`Error::is_missing`] when it has no such discipline.
    pub async fn set_qdiscs(&self, index: u32, wanted: Qdiscs) -> Result<()> {
        let shown = self.qdiscs(index).await?;
        if shown.is(wanted) {
            return Ok(());
        }
        let ours = shown != Qdiscs::default();
        if ours
            && (wanted == Qdiscs::default()
                || shown.tbf.is_some() != wanted.tbf.is_some()
                || shown.netem.is_some() != wanted.netem.is_some())
        {
            let mut request = self.netlink.qdisc().del(i32_of(index));
            request.message_mut().header.parent = TcHandle::ROOT;
            match request.execute().await {
                Ok(()) => {}
                Err(error) => drop(absent::<()>(self.failed(&object(index), "delete", error))?),
            }
        }
        let root = TcHandle::ROOT;
        if let Some(tbf) = wanted.tbf {
            self.put(index, root, TBF, "tbf", options(tbf)).await?;
        }
        if let Some(netem) = wanted.netem {
            let parent = if wanted.tbf.is_some() { TcHandle { major: TBF.major, minor: 1 } } else { root };
            let options = TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, bytes_of(netem)));
            self.put(index, parent, NETEM, "netem", options).await?;
        }
        Ok(())
    }

    /// What of ours stands at the root of a link.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn qdiscs(&self, index: u32) -> Result<Qdiscs> {
        let found = self.collect("queueing disciplines", || self.netlink.qdisc().get().index(i32_of(index)).execute()).await?;
        let mut shown = Qdiscs::default();
        for message in found.iter().filter(|message| message.header.index == i32_of(index)) {
            if message.header.handle == TBF {
                shown.tbf = message.attributes.iter().find_map(tbf_of);
            } else if message.header.handle == NETEM {
                shown.netem = message.attributes.iter().find_map(netem_of);
            }
        }
        Ok(shown)
    }

    async fn put(&self, index: u32, parent: TcHandle, handle: TcHandle, kind: &str, options: TcAttribute) -> Result<()> {
        let mut message = TcMessage::default();
        message.header.index = i32_of(index);
        message.header.parent = parent;
        message.header.handle = handle;
        message.attributes = vec![TcAttribute::Kind(kind.to_owned()), options];
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let failed = |error| self.failed(&object(index), format!("set {kind} as"), error);
        let mut answers = self.netlink.clone().request(request).map_err(failed)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(failed(rtnetlink::Error::NetlinkError(error)));
            }
        }
        Ok(())
    }
}

impl Error {
    /// Whether the kernel lacks what was asked for, such as a queueing discipline that is not compiled in.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        use rustix::io::Errno;
        self.is_missing() || self.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error())
    }
}

fn object(index: u32) -> String {
    format!("queueing discipline of link {index}")
}

/// Indexes are positive.
const fn i32_of(index: u32) -> i32 {
    index.cast_signed()
}

/// `struct tc_tbf_qopt` of linux/pkt_sched.h, and what does not fit into it.
fn options(tbf: Tbf) -> TcAttribute {
    let rate = u32::try_from(tbf.rate).unwrap_or(u32::MAX);
    let mut parms = Vec::with_capacity(36);
    parms.extend([0, ETHERNET, 0, 0, 0, 0, 0, 0]);
    parms.extend(rate.to_ne_bytes());
    parms.extend([0; 12]);
    parms.extend(tbf.limit.to_ne_bytes());
    parms.extend([0; 8]);
    let mut nested = vec![TcOption::Other(DefaultNla::new(TCA_TBF_PARMS, parms))];
    nested.push(TcOption::Other(DefaultNla::new(TCA_TBF_BURST, tbf.burst.to_ne_bytes().to_vec())));
    if rate == u32::MAX {
        nested.push(TcOption::Other(DefaultNla::new(TCA_TBF_RATE64, tbf.rate.to_ne_bytes().to_vec())));
    }
    TcAttribute::Options(nested)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The options as the kernel wrote them.
fn raw(attribute: &TcAttribute) -> Option<Vec<u8>> {
    let TcAttribute::Options(options) = attribute else { return None };
    let [TcOption::Other(nla)] = options.as_slice() else { return None };
    let mut bytes = vec![0; nla.value_len()];
    nla.emit_value(&mut bytes);
    Some(bytes)
}

/// The kernel tells the bucket's size as the time that it takes to fill, in ticks.
fn tbf_of(attribute: &TcAttribute) -> Option<Tbf> {
    let bytes = raw(attribute)?;
    let nested = |kind| NlasIterator::new(&bytes).filter_map(std::result::Result::ok).find(|nla| nla.kind() == kind);
    let parms = nested(TCA_TBF_PARMS)?.value().to_vec();
    let rate = match nested(TCA_TBF_RATE64) {
        Some(nla) => u64::from_ne_bytes(nla.value().try_into().ok()?),
        None => u64::from(word(&parms, 8)?),
    };
    let nanoseconds = u64::from(word(&parms, 28)?) * TICK;
    let burst = u128::from(nanoseconds) * u128::from(rate) / 1_000_000_000;
    Some(Tbf { rate, burst: u32::try_from(burst).ok()?, limit: word(&parms, 24)? })
}

/// `struct tc_netem_qopt` of linux/pkt_sched.h.
fn bytes_of(netem: Netem) -> Vec<u8> {
    let ticks = |microseconds: u32| u32::try_from(u64::from(microseconds) * 1000 / TICK).unwrap_or(u32::MAX);
    let fields = [ticks(netem.latency), netem.limit, netem.loss, 0, 0, ticks(netem.jitter)];
    fields.iter().flat_map(|field| field.to_ne_bytes()).collect()
}

fn netem_of(attribute: &TcAttribute) -> Option<Netem> {
    let bytes = raw(attribute)?;
    let microseconds = |ticks: u32| u32::try_from(u64::from(ticks) * TICK / 1000).unwrap_or(u32::MAX);
    let (latency, jitter) = (microseconds(word(&bytes, 0)?), microseconds(word(&bytes, 20)?));
    Some(Netem { latency, jitter, loss: word(&bytes, 8)?, limit: word(&bytes, 4)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VethEnd;
    use crate::scratch::Scratch;

    #[tokio::test]
    async fn a_rate_is_set_changed_and_taken_away() {
        let scratch = Scratch::new("qdisc");
        let handle = Handle::open(&scratch.netns).unwrap();
        let near = VethEnd { name: "a", ..VethEnd::default() };
        handle.create_veth(&near, &VethEnd { name: "b", ..near }).await.unwrap();
        let a = handle.index("a").await.unwrap();
        assert_eq!(handle.qdiscs(a).await.unwrap(), Qdiscs::default());
        for (rate, burst) in [(1_250_000, 65_536), (12_500_000, 131_072), (12_500_000_000, 1 << 20)] {
            let wanted = Qdiscs { tbf: Some(Tbf { rate, burst, limit: burst * 2 }), netem: None };
            handle.set_qdiscs(a, wanted).await.unwrap();
            let shown = handle.qdiscs(a).await.unwrap().tbf.unwrap();
            assert_eq!((shown.rate, shown.limit), (rate, burst * 2));
            assert!(handle.qdiscs(a).await.unwrap().is(wanted), "{shown:?}");
        }
        handle.set_qdiscs(a, Qdiscs::default()).await.unwrap();
        assert_eq!(handle.qdiscs(a).await.unwrap(), Qdiscs::default());
    }
}
