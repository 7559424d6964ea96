//! The free addresses of one range, as a bitmap in chunks. Chunks without used addresses take no memory.

use std::collections::BTreeMap;

const BITS: u128 = 4096;
const WORDS: usize = 64;

#[derive(Clone)]
struct Chunk {
    used: u16,
    words: Box<[u64; WORDS]>,
}

/// A set of offsets `0..size`, all free at first.
#[derive(Clone)]
pub struct FreeSet {
    size: u128,
    used: u128,
    /// Where the next search starts.
    cursor: u128,
    chunks: BTreeMap<u128, Chunk>,
}

impl FreeSet {
    /// `size` free offsets; up to 2^128 - 1.
    #[must_use]
    pub const fn new(size: u128) -> Self {
        Self { size, used: 0, cursor: 0, chunks: BTreeMap::new() }
    }

    /// Number of offsets, free or not.
    #[must_use]
    pub const fn size(&self) -> u128 {
        self.size
    }

    /// Number of offsets in use.
    #[must_use]
    pub const fn used(&self) -> u128 {
        self.used
    }

    /// Whether `offset` is free; offsets past the end are not.
    #[must_use]
    pub fn is_free(&self, offset: u128) -> bool {
        offset < self.size && self.chunks.get(&(offset / BITS)).is_none_or(|c| c.words[word(offset)] & bit(offset) == 0)
    }

    /// Takes `offset`; `false` when it is not free.
    pub fn take(&mut self, offset: u128) -> bool {
        if !self.is_free(offset) {
            return false;
        }
        let chunk = self.chunks.entry(offset / BITS).or_insert_with(|| Chunk { used: 0, words: Box::new([0; WORDS]) });
        chunk.words[word(offset)] |= bit(offset);
        chunk.used += 1;
        self.used += 1;
        true
    }

    /// Gives `offset` back; `false` when it was free.
    pub fn give(&mut self, offset: u128) -> bool {
        if offset >= self.size || self.is_free(offset) {
            return false;
        }
        if let Some(chunk) = self.chunks.get_mut(&(offset / BITS)) {
            chunk.words[word(offset)] &= !bit(offset);
            chunk.used -= 1;
            self.used -= 1;
            if chunk.used == 0 {
                self.chunks.remove(&(offset / BITS));
            }
        }
        true
    }

    /// Takes the next free offset after the one taken last this way, beginning anew at the end.
    pub fn take_next(&mut self) -> Option<u128> {
        if self.used >= self.size {
            return None;
        }
        let offset = self.free_from(self.cursor).or_else(|| self.free_from(0))?;
        self.take(offset);
        self.cursor = if offset + 1 < self.size { offset + 1 } else { 0 };
        Some(offset)
    }

    fn free_from(&self, start: u128) -> Option<u128> {
        let mut at = start;
        while at < self.size {
            let Some(chunk) = self.chunks.get(&(at / BITS)) else { return Some(at) };
            if u128::from(chunk.used) < BITS {
                for index in word(at)..WORDS {
                    let base = at / BITS * BITS + (index as u128) * 64;
                    let mut free = !chunk.words[index];
                    if base < at {
                        free &= u64::MAX << (at - base);
                    }
                    if free != 0 {
                        let found = base + u128::from(free.trailing_zeros());
                        return (found < self.size).then_some(found);
                    }
                }
            }
            at = (at / BITS + 1).checked_mul(BITS)?;
        }
        None
    }
}

fn word(offset: u128) -> usize {
    usize::try_from(offset % BITS / 64).unwrap_or(0)
}

fn bit(offset: u128) -> u64 {
    1 << (offset % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Take(u128),
        Give(u128),
        Next,
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(size in 1u128..9000, steps in prop::collection::vec(
            prop_oneof![(0u128..9100).prop_map(Step::Take), (0u128..9100).prop_map(Step::Give), Just(Step::Next), Just(Step::Next)], 1..300)) {
            let mut free = FreeSet::new(size);
            let mut used = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Take(o) => prop_assert_eq!(free.take(o), o < size && used.insert(o)),
                    Step::Give(o) => prop_assert_eq!(free.give(o), used.remove(&o)),
                    Step::Next => match free.take_next() {
                        Some(o) => prop_assert!(o < size && used.insert(o)),
                        None => prop_assert_eq!(used.len() as u128, size),
                    },
                }
                prop_assert_eq!(free.used(), used.len() as u128);
            }
        }
    }

    #[test]
    fn a_freed_offset_is_reused_last() {
        let mut free = FreeSet::new(4);
        assert_eq!((free.take_next(), free.take_next()), (Some(0), Some(1)));
        free.give(0);
        assert_eq!((free.take_next(), free.take_next(), free.take_next(), free.take_next()), (Some(2), Some(3), Some(0), None));
    }

    #[test]
    fn the_largest_range_works() {
        let mut free = FreeSet::new(u128::MAX);
        assert!(free.take(u128::MAX - 1));
        assert_eq!(free.take_next(), Some(0));
    }
}
