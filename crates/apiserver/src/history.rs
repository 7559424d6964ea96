//! The last events of one resource: what watches read. A watcher that falls behind its end is cut off and lists again,
//! so slow watchers cost no memory.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::watch;

use crate::fields::Probe;
use crate::selector::Selector;

/// A change of one object.
#[derive(Debug)]
pub struct Event {
    pub rv: u64,
    pub key: Arc<str>,
    /// The object after the change; after a removal, its last state under the version of the removal.
    pub bytes: Bytes,
    pub previous: Option<Bytes>,
    pub removed: bool,
    /// What selectors ask of the object before and after, read once for all watches.
    probes: OnceLock<(Option<Probe>, Probe)>,
}

impl Event {
    pub fn new(rv: u64, key: Arc<str>, bytes: Bytes, previous: Option<Bytes>, removed: bool) -> Self {
        Self { rv, key, bytes, previous, removed, probes: OnceLock::new() }
    }

    /// Whether the selector admitted the object before, and admits it now.
    pub fn admitted(&self, selector: &Selector) -> (bool, bool) {
        if selector.is_everything() {
            return (self.previous.is_some(), !self.removed);
        }
        let (before, after) = self.probes.get_or_init(|| (self.previous.as_deref().map(Probe::read), Probe::read(&self.bytes)));
        let was = before.as_ref().zip(self.previous.as_deref()).is_some_and(|(probe, bytes)| selector.admits(probe, bytes));
        (was, !self.removed && selector.admits(after, &self.bytes))
    }
}

#[derive(Debug)]
pub struct History {
    events: VecDeque<Arc<Event>>,
    /// Events after this version are all here.
    floor: u64,
    depth: usize,
    newest: watch::Sender<u64>,
}

impl History {
    pub fn new(floor: u64, depth: usize) -> Self {
        Self { events: VecDeque::new(), floor, depth, newest: watch::Sender::new(floor) }
    }

    pub fn push(&mut self, event: Event) {
        self.events.push_back(Arc::new(event));
        while self.events.len() > self.depth {
            if let Some(gone) = self.events.pop_front() {
                self.floor = gone.rv;
            }
        }
    }

    pub fn wake(&self) {
        self.newest.send_replace(self.events.back().map_or(self.floor, |event| event.rv));
    }

    pub fn floor(&self) -> u64 {
        self.floor
    }

    pub fn after(&self, rv: u64, max: usize) -> Vec<Arc<Event>> {
        let from = self.events.partition_point(|event| event.rv <= rv);
        self.events.range(from..).take(max).cloned().collect()
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_rises_as_old_events_fall_out() {
        let mut history = History::new(0, 2);
        for rv in 1..=3 {
            history.push(Event::new(rv, "k".into(), Bytes::new(), None, false));
        }
        assert_eq!(history.floor(), 1);
        let seen: Vec<_> = history.after(1, 10).iter().map(|e| e.rv).collect();
        assert_eq!(seen, [2, 3]);
    }
}
