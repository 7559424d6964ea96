//! Who waits, and for what: a request waits for exactly that which refused it last. Those who wait for the same stand in one
//! line, in the order of their arrival, so that only the first of each must be asked whether it can be served.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::IpAddr;
use std::ops::Bound;

use api::MacAddr;
use rustc_hash::FxHashMap;

use crate::error::{AllocateError, PoolError, family_name};
use crate::request::{Owner, PoolName, Request, SubnetName, VpcName};

/// Where a request looks for an address of one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Room {
    v4: bool,
    pools: Vec<PoolName>,
    candidates: Vec<IpAddr>,
}

impl Room {
    pub(crate) fn of(request: &Request, v4: bool) -> Self {
        let candidates: Vec<IpAddr> = request.candidates(v4).collect();
        let pools = if candidates.is_empty() { request.pools.clone() } else { Vec::new() };
        Self { v4, pools, candidates }
    }

    /// That nothing is free here.
    pub(crate) fn full(self) -> PoolError {
        let family = family_name(self.v4);
        match self {
            Self { candidates, .. } if !candidates.is_empty() => PoolError::CandidatesInUse(family),
            Self { pools, .. } if !pools.is_empty() => PoolError::PoolFull { family, pools },
            _ => PoolError::Full(family),
        }
    }
}

/// What a request waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WaitFor {
    /// A free address.
    Room(Room),
    /// A chosen address.
    Address(IpAddr),
    /// A chosen MAC.
    Mac(VpcName, MacAddr),
    /// A change of the subnet or its pools.
    Change,
}

impl WaitFor {
    pub(crate) fn of(error: &AllocateError, request: &Request) -> Self {
        match error {
            AllocateError::MacInUse { mac, vpc, .. } => Self::Mac(vpc.clone(), *mac),
            AllocateError::Pool { error, .. } => match error {
                PoolError::InUse(ip) => Self::Address(*ip),
                PoolError::Full(family) | PoolError::PoolFull { family, .. } | PoolError::CandidatesInUse(family) => {
                    Self::Room(Room::of(request, *family == family_name(true)))
                }
                _ => Self::Change,
            },
            _ => Self::Change,
        }
    }
}

/// Requests that are served together or not at all.
pub(crate) type Members = Vec<(Owner, Request)>;

struct Group {
    members: Members,
    /// Where it waits, and for what.
    subnet: SubnetName,
    line: WaitFor,
}

#[derive(Default)]
struct Lines {
    waiting: BTreeMap<WaitFor, BTreeSet<u64>>,
    /// Those whose first may be served now.
    woken: BTreeSet<WaitFor>,
}

#[derive(Default)]
pub(crate) struct Queue {
    arrivals: u64,
    groups: BTreeMap<u64, Group>,
    by_owner: FxHashMap<Owner, u64>,
    lines: FxHashMap<SubnetName, Lines>,
}

/// The firsts of lines, by arrival.
pub(crate) type Heads = BinaryHeap<Reverse<(u64, WaitFor)>>;

impl Queue {
    /// Where exactly these requests wait, if they do.
    pub(crate) fn place(&self, members: &[(Owner, Request)]) -> Option<u64> {
        let arrival = *self.by_owner.get(&members.first()?.0)?;
        (self.groups.get(&arrival)?.members == members).then_some(arrival)
    }

    /// Whether somebody who came before `place` waits for the same room.
    pub(crate) fn is_promised(&self, subnet: &str, place: Option<u64>, mut rooms: impl Iterator<Item = Room>) -> Option<Room> {
        let lines = self.lines.get(subnet)?;
        rooms.find(|room| {
            let line = lines.waiting.get(&WaitFor::Room(room.clone()));
            line.and_then(BTreeSet::first).is_some_and(|first| place.is_none_or(|place| *first < place))
        })
    }

    /// Puts requests into a line: where they were before, or last.
    pub(crate) fn wait(&mut self, place: Option<u64>, members: Members, subnet: SubnetName, line: WaitFor) {
        let arrival = place.unwrap_or_else(|| {
            self.arrivals += 1;
            self.arrivals
        });
        self.leave(arrival);
        for (owner, _) in &members {
            self.by_owner.insert(owner.clone(), arrival);
        }
        self.lines.entry(subnet.clone()).or_default().waiting.entry(line.clone()).or_default().insert(arrival);
        self.groups.insert(arrival, Group { members, subnet, line });
    }

    /// Takes requests out of their line.
    pub(crate) fn leave(&mut self, arrival: u64) -> Option<Members> {
        let Group { members, subnet, line } = self.groups.remove(&arrival)?;
        for (owner, _) in &members {
            self.by_owner.remove(owner);
        }
        if let Some(lines) = self.lines.get_mut(&subnet) {
            if let Some(waiting) = lines.waiting.get_mut(&line) {
                waiting.remove(&arrival);
                if waiting.is_empty() {
                    lines.waiting.remove(&line);
                    lines.woken.remove(&line);
                } else {
                    // Perhaps only the one that left could not be served.
                    lines.woken.insert(line);
                }
            }
            if lines.waiting.is_empty() {
                self.lines.remove(&subnet);
            }
        }
        Some(members)
    }

    /// Takes one owner's request out; the others of its group go on waiting without it.
    pub(crate) fn leave_alone(&mut self, owner: &str) {
        if self.by_owner.is_empty() {
            return;
        }
        let Some(arrival) = self.by_owner.remove(owner) else { return };
        let Some(group) = self.groups.get_mut(&arrival) else { return };
        group.members.retain(|(member, _)| member.as_ref() != owner);
        if group.members.is_empty() {
            self.leave(arrival);
        } else if let Some(lines) = self.lines.get_mut(&group.subnet) {
            lines.woken.insert(group.line.clone());
        }
    }

    /// Notes that a holder in `subnet` gave back what it had; `mac` when nobody holds that any more.
    pub(crate) fn released(&mut self, subnet: &str, addresses: impl Iterator<Item = IpAddr>, mac: Option<(VpcName, MacAddr)>) {
        if let Some(lines) = self.lines.get_mut(subnet) {
            let rooms = lines.waiting.keys().take_while(|line| matches!(line, WaitFor::Room(_)));
            let asleep: Vec<WaitFor> = rooms.filter(|line| !lines.woken.contains(line)).cloned().collect();
            lines.woken.extend(asleep);
            lines.woken.extend(addresses.map(WaitFor::Address).filter(|line| lines.waiting.contains_key(line)));
        }
        if let Some((vpc, mac)) = mac {
            let line = WaitFor::Mac(vpc, mac);
            for lines in self.lines.values_mut().filter(|lines| lines.waiting.contains_key(&line)) {
                lines.woken.insert(line.clone());
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Notes that a subnet or one of its pools changed.
    pub(crate) fn changed(&mut self, subnet: &str) {
        if let Some(lines) = self.lines.get_mut(subnet) {
            lines.woken = lines.waiting.keys().cloned().collect();
        }
    }

    /// Subnets in which somebody may be served.
    pub(crate) fn ready(&self) -> impl Iterator<Item = &SubnetName> {
        self.lines.iter().filter(|(_, lines)| !lines.woken.is_empty()).map(|(subnet, _)| subnet)
    }

    /// The firsts of all lines that were woken, which then sleep again.
    pub(crate) fn wake(&mut self, subnet: &str) -> Heads {
        let Some(lines) = self.lines.get_mut(subnet) else { return Heads::new() };
        let woken = std::mem::take(&mut lines.woken).into_iter();
        woken.filter_map(|line| Some(Reverse((*lines.waiting.get(&line)?.first()?, line)))).collect()
    }

    /// Makes a line sleep: its first cannot be served.
    pub(crate) fn sleep(&mut self, subnet: &str, line: &WaitFor) {
        if let Some(lines) = self.lines.get_mut(subnet) {
            lines.woken.remove(line);
        }
    }

    pub(crate) fn members(&self, arrival: u64) -> Option<&Members> {
        self.groups.get(&arrival).map(|group| &group.members)
    }

    /// The next in a line after `arrival`.
    pub(crate) fn next(&self, subnet: &str, line: &WaitFor, arrival: u64) -> Option<u64> {
        let waiting = self.lines.get(subnet)?.waiting.get(line)?;
        waiting.range((Bound::Excluded(arrival), Bound::Unbounded)).next().copied()
    }
}
