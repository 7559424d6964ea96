//! A set of offsets as a flat bitmap: for many runs in little space. One bit for each offset, and a count for each 4,096,
//! so that the search for an absent one skips what is full.

const GROUP: usize = 64;
const FULL: u16 = 4096;

pub(crate) struct Bits {
    size: usize,
    words: Vec<u64>,
    counts: Vec<u16>,
    runs: usize,
}

impl Bits {
    /// The empty set of offsets `0..size`.
    pub(crate) fn new(size: usize) -> Self {
        let words = size.div_ceil(64);
        Self { size, words: vec![0; words], counts: vec![0; words.div_ceil(GROUP)], runs: 0 }
    }

    /// How many runs there are.
    pub(crate) const fn runs(&self) -> usize {
        self.runs
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.words.capacity() * 8 + self.counts.capacity() * 2
    }

    #[inline(always)]
    pub(crate) fn contains(&self, offset: usize) -> bool {
        self.words.get(offset / 64).is_some_and(|word| word >> (offset % 64) & 1 == 1)
    }

    #[inline(always)]
    fn neighbours(&self, offset: usize) -> usize {
        usize::from(offset > 0 && self.contains(offset - 1)) + usize::from(self.contains(offset + 1))
    }

    /// Adds `offset`, which must be less than the size; `false` when it was there.
    pub(crate) fn insert(&mut self, offset: usize) -> bool {
        if self.contains(offset) {
            return false;
        }
        self.runs = self.runs + 1 - self.neighbours(offset);
        self.words[offset / 64] |= 1 << (offset % 64);
        self.counts[offset / 64 / GROUP] += 1;
        true
    }

    /// Adds the inclusive range, of which nothing may be there.
    pub(crate) fn insert_run(&mut self, first: usize, last: usize) {
        self.runs = self.runs + 1 - usize::from(first > 0 && self.contains(first - 1)) - usize::from(self.contains(last + 1));
        for at in first / 64..=last / 64 {
            let from = if at == first / 64 { u64::MAX << (first % 64) } else { u64::MAX };
            let mask = if at == last / 64 { from & (u64::MAX >> (63 - last % 64)) } else { from };
            self.words[at] |= mask;
            self.counts[at / GROUP] += u16::try_from(mask.count_ones()).unwrap_or(0);
        }
    }

    /// Takes `offset` out; `false` when it was not there.
    pub(crate) fn remove(&mut self, offset: usize) -> bool {
        if !self.contains(offset) {
            return false;
        }
        self.runs = self.runs + self.neighbours(offset) - 1;
        self.words[offset / 64] &= !(1 << (offset % 64));
        self.counts[offset / 64 / GROUP] -= 1;
        true
    }

    /// The first offset at or after `from` that is not here.
    pub(crate) fn next_absent(&self, from: usize) -> Option<usize> {
        let mut at = from / 64;
        let mut absent = !self.words.get(at)? & (u64::MAX << (from % 64));
        while absent == 0 {
            at += 1;
            while at.is_multiple_of(GROUP) && self.counts.get(at / GROUP) == Some(&FULL) {
                at += GROUP;
            }
            absent = !*self.words.get(at)?;
        }
        let found = at * 64 + absent.trailing_zeros() as usize;
        (found < self.size).then_some(found)
    }

    /// All runs, inclusive, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let mut at = from / 64;
            let mut present = *self.words.get(at)? & (u64::MAX << (from % 64));
            while present == 0 {
                at += 1;
                present = *self.words.get(at)?;
            }
            let first = at * 64 + present.trailing_zeros() as usize;
            let end = self.next_absent(first).unwrap_or(self.size);
            from = end;
            Some((first, end - 1))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behave_as_a_set(size in 1usize..9000, steps in prop::collection::vec((any::<bool>(), 0usize..9000, 1usize..200), 1..200)) {
            let (mut bits, mut model) = (Bits::new(size), BTreeSet::new());
            for (add, from, many) in steps {
                for offset in (from..from + many).filter(|o| *o < size) {
                    if add {
                        prop_assert_eq!(bits.insert(offset), model.insert(offset));
                    } else {
                        prop_assert_eq!(bits.remove(offset), model.remove(&offset));
                    }
                }
                prop_assert_eq!(bits.next_absent(from), (from..size).find(|o| !model.contains(o)));
            }
            prop_assert_eq!(bits.iter().flat_map(|(f, l)| f..=l).collect::<BTreeSet<_>>(), model);
            prop_assert_eq!(bits.iter().count(), bits.runs());
        }
    }

    #[test]
    fn what_is_full_is_skipped() {
        let mut bits = Bits::new(40_960);
        bits.insert_run(0, 30_000);
        assert_eq!((bits.next_absent(0), bits.runs()), (Some(30_001), 1));
    }
}
