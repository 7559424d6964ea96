//! Rows that somebody else keeps changing: put right at once, and after that less and less often.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use ovsdb_types::{Dirty, RowKey};

/// Corrections of one row within `WINDOW` before the next ones wait.
const CORRECTIONS: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// First and longest pause; it doubles in between.
const PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// A row that is being left alone for a while.
#[derive(Debug)]
struct Rest {
    until: Instant,
    pause: Duration,
    /// Its time is over, and the next comparison shows whether it has to be put right.
    over: bool,
    /// What of it is to be looked at afterwards.
    dirty: Dirty,
}

/// What others did to rows of ours, and what became of it.
#[derive(Debug, Default)]
pub(crate) struct Drift {
    /// Rows that the database reported as changed since the last comparison, and that no fact has touched.
    observed: BTreeSet<RowKey>,
    corrected: BTreeMap<RowKey, VecDeque<Instant>>,
    resting: BTreeMap<RowKey, Rest>,
}

impl Drift {
    /// The database reports changes of rows.
    pub(crate) fn observe<'a>(&mut self, rows: impl Iterator<Item = &'a RowKey>) {
        self.observed.extend(rows.cloned());
    }

    /// A fact touches a row: whatever else happened to it is put right with that.
    pub(crate) fn touched(&mut self, row: &RowKey) {
        self.observed.remove(row);
    }

    /// Leaves out of `dirty` the rows that rest and that only others have touched.
    pub(crate) fn hold_back(&mut self, dirty: &mut Dirty, now: Instant) {
        for (row, rest) in &mut self.resting {
            if !rest.over && rest.until > now && self.observed.contains(row) {
                rest.dirty.merge(dirty.split_off(row));
            }
        }
    }

    /// Takes note of the rows that are being written; yields those that from now on rest.
    pub(crate) fn written(&mut self, rows: &[RowKey], now: Instant) -> Vec<RowKey> {
        let mut rests = Vec::new();
        for row in rows.iter().filter(|row| self.observed.contains(*row)) {
            let times = self.corrected.entry(row.clone()).or_default();
            times.push_back(now);
            while times.front().is_some_and(|first| now.duration_since(*first) > WINDOW.max(PAUSES.1 * 2)) {
                times.pop_front();
            }
            let lately = times.iter().rev().take_while(|time| now.duration_since(**time) <= WINDOW).count();
            let before = self.resting.get(row).map(|rest| rest.pause);
            let pause = match before {
                // It was changed again right after its rest.
                Some(pause) => (pause * 2).min(PAUSES.1),
                None if lately >= CORRECTIONS => PAUSES.0,
                None => continue,
            };
            self.resting.insert(row.clone(), Rest { until: now + pause, pause, over: false, dirty: Dirty::default() });
            rests.push(row.clone());
        }
        // Somebody has put it right.
        self.resting.retain(|_, rest| !rest.over);
        self.observed.clear();
        rests
    }

    /// When the next row has rested.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        self.resting.values().filter(|rest| !rest.over).map(|rest| rest.until).min()
    }

    /// What is to be looked at again. A row that nobody changed while it rested is watched as closely as any other again.
    pub(crate) fn wake(&mut self, now: Instant) -> Dirty {
        let mut dirty = Dirty::default();
        let done: Vec<RowKey> =
            self.resting.iter().filter(|(_, rest)| !rest.over && rest.until <= now).map(|(row, _)| row.clone()).collect();
        for row in done {
            let Some(rest) = self.resting.get_mut(&row) else { continue };
            if rest.dirty.is_empty() {
                self.resting.remove(&row);
                self.corrected.remove(&row);
            } else {
                rest.over = true;
                self.observed.insert(row);
                dirty.merge(std::mem::take(&mut rest.dirty));
            }
        }
        dirty
    }

    /// For how long a row is left alone, if it is.
    pub(crate) fn pause(&self, row: &RowKey) -> Option<Duration> {
        self.resting.get(row).map(|rest| rest.pause)
    }
}

#[cfg(test)]
mod tests {
    use ovsdb_types::nb::logical_switch;

    use super::*;

    #[test]
    fn a_row_that_others_keep_changing_is_put_right_less_and_less_often() {
        let (row, start) = (RowKey::new(logical_switch::TABLE, "s"), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut drift = Drift::default();
        // Changed, and put right unless it rests; yields whether it rests from now on.
        let round = |drift: &mut Drift, now: Instant| {
            let mut dirty = Dirty::default();
            dirty.row(row.clone());
            drift.observe([&row].into_iter());
            drift.hold_back(&mut dirty, now);
            let written: Vec<_> = dirty.keys().cloned().collect();
            let rests = drift.written(&written, now);
            (written.len(), rests.len())
        };
        for second in 0..4 {
            assert_eq!(round(&mut drift, at(second)), (1, 0));
        }
        assert_eq!(round(&mut drift, at(4)), (1, 1));
        assert_eq!((round(&mut drift, at(5)), drift.wakes_at()), ((0, 0), Some(at(14))));
        // After its rest it is put right, and rests for longer.
        let dirty = drift.wake(at(14));
        assert_eq!(dirty.keys().count(), 1);
        assert_eq!(drift.written(std::slice::from_ref(&row), at(14)), std::slice::from_ref(&row));
        assert_eq!((drift.pause(&row), drift.wakes_at()), (Some(Duration::from_secs(20)), Some(at(34))));
        // A fact that touches it is not held back meanwhile.
        let mut dirty = Dirty::default();
        dirty.row(row.clone());
        drift.observe([&row].into_iter());
        drift.touched(&row);
        drift.hold_back(&mut dirty, at(20));
        assert_eq!(dirty.keys().count(), 1);
        assert!(drift.written(std::slice::from_ref(&row), at(20)).is_empty());
        // Left alone while it rested, it is as any other again.
        assert!(drift.wake(at(34)).is_empty());
        assert_eq!((drift.wakes_at(), round(&mut drift, at(35))), (None, (1, 0)));
    }
}
