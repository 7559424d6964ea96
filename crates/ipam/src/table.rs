//! Numbers of holders by the hash of what they hold: open addressing with linear probing, eight bytes for an entry. A lookup
//! touches one line of memory, and keys are compared where they are kept anyway, with the holder. In tables that are
//! much larger than the caches, that is what time goes into. What is small is inlined by force: this is built with few
//! optimizations, and calls are the rest of the time.

use crate::holders::Slot;

#[derive(Clone, Copy)]
struct Entry {
    hash: u32,
    slot: Slot,
}

/// There are fewer holders than 2^32.
const VACANT: Slot = Slot::MAX;
const EMPTY: Entry = Entry { hash: 0, slot: VACANT };

#[derive(Default)]
pub(crate) struct Table {
    entries: Vec<Entry>,
    len: usize,
}

/// The upper half of a 64-bit hash, which is the better mixed one; spread, since offsets and MACs are hardly hashed before.
#[allow(clippy::cast_possible_truncation, reason = "the upper half is meant")]
#[inline(always)]
pub(crate) const fn spread(value: u64) -> u32 {
    (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

impl Table {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Where the search for a hash begins: its upper bits, so that entries move apart when the table grows.
    #[inline(always)]
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.entries.len() as u64) >> 32) as usize
    }

    #[inline(always)]
    const fn after(&self, at: usize) -> usize {
        if at + 1 == self.entries.len() { 0 } else { at + 1 }
    }

    /// The holder with this hash of which `is` says that it is the one.
    #[inline(always)]
    pub(crate) fn find(&self, hash: u32, is: impl Fn(Slot) -> bool) -> Option<Slot> {
        if self.len == 0 {
            return None;
        }
        let mut at = self.home(hash);
        loop {
            let entry = self.entries[at];
            if entry.slot == VACANT {
                return None;
            }
            if entry.hash == hash && is(entry.slot) {
                return Some(entry.slot);
            }
            at = self.after(at);
        }
    }

    /// Reads where a search for `hash` begins and goes on without waiting for it. The tables that one operation needs are then
    /// fetched at the same time and not one after another, which for large ones halves the time.
    #[inline(always)]
    pub(crate) fn touch(&self, hash: u32) {
        if self.len > 0 {
            std::hint::black_box(self.entries[self.home(hash)].slot);
        }
    }

    /// Adds a holder.
    #[inline(always)]
    pub(crate) fn insert(&mut self, hash: u32, slot: Slot) {
        if (self.len + 1) * 4 > self.entries.len() * 3 {
            self.resize((self.entries.len() * 2).max(8));
        }
        self.place(Entry { hash, slot });
        self.len += 1;
    }

    #[inline(always)]
    fn place(&mut self, entry: Entry) {
        let mut at = self.home(entry.hash);
        while self.entries[at].slot != VACANT {
            at = self.after(at);
        }
        self.entries[at] = entry;
    }

    fn resize(&mut self, size: usize) {
        for entry in std::mem::replace(&mut self.entries, vec![EMPTY; size]) {
            if entry.slot != VACANT {
                self.place(entry);
            }
        }
    }

    /// Takes out the entry of a holder; `false` when there is none.
    pub(crate) fn remove(&mut self, hash: u32, slot: Slot) -> bool {
        if self.len == 0 {
            return false;
        }
        let mut gap = self.home(hash);
        while self.entries[gap].slot != slot || self.entries[gap].hash != hash {
            if self.entries[gap].slot == VACANT {
                return false;
            }
            gap = self.after(gap);
        }
        // Those behind move up, so that no search ends at the gap before it finds them.
        let mut at = gap;
        loop {
            at = self.after(at);
            let entry = self.entries[at];
            if entry.slot == VACANT {
                break;
            }
            let home = self.home(entry.hash);
            // Whether `home` lies after the gap and no later than `at`, around the end.
            let stays = if gap < at { gap < home && home <= at } else { gap < home || home <= at };
            if !stays {
                self.entries[gap] = entry;
                gap = at;
            }
        }
        self.entries[gap] = EMPTY;
        self.len -= 1;
        if self.len * 8 < self.entries.len() && self.entries.len() > 8 {
            self.resize(self.entries.len() / 2);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_what_is_in_it(steps in prop::collection::vec((any::<bool>(), 0u32..60), 1..400), few in any::<bool>()) {
            // Few hashes, at the end of the table too, so that runs of entries are long and go around.
            let hash = |slot: Slot| if few { u32::MAX - slot % 3 } else { spread(u64::from(slot)) };
            let (mut table, mut model) = (Table::default(), BTreeSet::new());
            for (add, slot) in steps {
                if !add {
                    prop_assert_eq!(table.remove(hash(slot), slot), model.remove(&slot));
                } else if model.insert(slot) {
                    table.insert(hash(slot), slot);
                }
                prop_assert_eq!(table.len(), model.len());
                for slot in 0..60 {
                    prop_assert_eq!(table.find(hash(slot), |s| s == slot).is_some(), model.contains(&slot));
                }
            }
        }
    }
}
