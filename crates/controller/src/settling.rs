//! How long the established connections of a machine that has migrated are let through, whatever is known of them: until a deadline that
//! follows from when its object says that it arrived. Rules know no clock, so that what they read is whether it has passed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use api::view::VirtualMachineInstanceView;
use k8s_openapi::jiff::Timestamp;
use topology::{Instance, PodKey, Stage, input};

/// From the end of a migration. A connection is seen anew by the node with the first packet that policies would let through; what is lost
/// until then is sent again within seconds. The node must see the other side, too, before it forgets the connection again: Open vSwitch's
/// userspace datapath does 30 s after the first packet of one that only one side speaks on, whatever follows, and version 3.1 ends
/// (`conntrack.c`, an assertion of `conn_update_state`) when the other side is first seen in that very moment.
const SETTLES: Duration = Duration::from_secs(20);

/// What an instance of a virtual machine says.
#[derive(Clone, Debug)]
pub(crate) struct ShownInstance {
    pub(crate) holder: PodKey,
    pub(crate) instance: Instance,
    /// While the last migration is settling: until when.
    until: Option<Instant>,
}

impl ShownInstance {
    pub(crate) fn of(object: &VirtualMachineInstanceView) -> Self {
        let (holder, mut instance) = input::instance(object);
        let ended = object.status.migration_state.as_ref().and_then(|state| state.end_timestamp.as_ref());
        let left = ended.and_then(|ended| left(ended.0, Timestamp::now()));
        let until = left.map(|left| Instant::now() + left).filter(|_| arrived(&instance));
        if let Some(migration) = &mut instance.migration {
            migration.settling = until.is_some();
        }
        Self { holder, instance, until }
    }
}

fn arrived(instance: &Instance) -> bool {
    instance.migration.as_ref().is_some_and(|migration| migration.stage == Stage::Completed)
}

/// What is left of the time. Another one's clock that is ahead makes it no longer.
fn left(ended: Timestamp, now: Timestamp) -> Option<Duration> {
    let passed = Duration::try_from(now.duration_since(ended)).unwrap_or_default();
    SETTLES.checked_sub(passed).filter(|left| !left.is_zero())
}

/// The instances whose last migration is settling.
#[derive(Debug, Default)]
pub(crate) struct Settling(BTreeMap<PodKey, Instant>);

impl Settling {
    /// What is said of an instance now.
    pub(crate) fn set(&mut self, shown: &ShownInstance) {
        match shown.until {
            Some(until) => drop(self.0.insert(shown.holder.clone(), until)),
            None => self.remove(&shown.holder),
        }
    }

    pub(crate) fn remove(&mut self, holder: &PodKey) {
        self.0.remove(holder);
    }

    /// When the next one has settled.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// Those that have settled by now.
    pub(crate) fn wake(&mut self, now: Instant) -> Vec<PodKey> {
        let settled: Vec<_> = self.0.iter().filter(|(_, until)| **until <= now).map(|(key, _)| key.clone()).collect();
        settled.iter().for_each(|key| self.remove(key));
        settled
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_is_left_follows_from_the_end_and_is_never_more_than_all() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        assert_eq!(left(at(100), at(105)), Some(SETTLES - Duration::from_secs(5)));
        let settled = 100 + i64::try_from(SETTLES.as_secs()).unwrap();
        assert_eq!((left(at(100), at(settled)), left(at(100), at(500))), (None, None));
        assert_eq!(left(at(100), at(90)), Some(SETTLES));
    }
}
