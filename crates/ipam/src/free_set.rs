//! Which offsets of a range are free, and in what order they are given out: those that were not released lately, from a
//! cursor upwards; then the released ones, the one released first coming first.
//!
//! A released offset stays out of the set of plainly free ones until 1,024 others were released after it. So neighbours'
//! caches have forgotten an address when it comes back, and the memory for that is bounded: beyond it the set takes no more
//! than 24 bytes for each run of offsets that are not free, nor more than two bits for each offset.

use std::collections::VecDeque;

use crate::bits::Bits;
use crate::ranges::Ranges;
use crate::runs::Runs;

/// How many released offsets are kept in their order.
pub(crate) const REMEMBERED: usize = 1024;

/// Runs at 24 bytes each take more than two bits for each offset when there are more than one for 96 offsets. A bitmap
/// takes one bit: it goes when there are fewer than one run for 192, so that neither form is left as soon as it is taken.
const OFFSETS_PER_RUN: u128 = 96;

enum Form {
    Runs(Runs),
    Bits(Bits),
}

/// A set of offsets `0..size`, all free at first.
pub(crate) struct FreeSet {
    size: u128,
    /// Used or released lately.
    busy: Form,
    count: u128,
    /// Those of the busy ones that were released, in that order.
    released: VecDeque<u128>,
}

/// An offset that was taken, and what must be known to undo that without a trace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) offset: u128,
    /// Its place among the released ones.
    place: Option<usize>,
}

impl Taken {
    /// Whether it was released lately.
    pub(crate) const fn was_released(self) -> bool {
        self.place.is_some()
    }
}

impl FreeSet {
    pub(crate) fn new(size: u128) -> Self {
        Self { size, busy: Form::Runs(Runs::default()), count: 0, released: VecDeque::new() }
    }

    /// How many runs of offsets that are not plainly free there are.
    pub(crate) const fn runs(&self) -> usize {
        match &self.busy {
            Form::Runs(runs) => runs.count(),
            Form::Bits(bits) => bits.runs(),
        }
    }

    /// Heap of the set, in bytes, and that of the queue of released offsets.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        let set = match &self.busy {
            Form::Runs(runs) => runs.bytes(),
            Form::Bits(bits) => bits.bytes(),
        };
        (set, self.released.capacity() * size_of::<u128>())
    }

    fn insert(&mut self, offset: u128) -> bool {
        let added = match &mut self.busy {
            Form::Runs(runs) => runs.insert(offset),
            Form::Bits(bits) => index(offset).is_some_and(|offset| bits.insert(offset)),
        };
        self.count += u128::from(added);
        self.fit();
        added
    }

    fn remove(&mut self, offset: u128) {
        let removed = match &mut self.busy {
            Form::Runs(runs) => runs.remove(offset),
            Form::Bits(bits) => index(offset).is_some_and(|offset| bits.remove(offset)),
        };
        self.count -= u128::from(removed);
        self.fit();
    }

    /// Takes the smaller form.
    fn fit(&mut self) {
        match &self.busy {
            Form::Runs(runs) if runs.count() as u128 * OFFSETS_PER_RUN > self.size => {
                let Some(size) = index(self.size) else { return };
                let mut bits = Bits::new(size);
                for (first, last) in runs.iter().filter_map(|(first, last)| index(first).zip(index(last))) {
                    bits.insert_run(first, last);
                }
                self.busy = Form::Bits(bits);
            }
            Form::Bits(bits) if bits.runs() as u128 * OFFSETS_PER_RUN * 2 < self.size => {
                let mut runs = Runs::default();
                bits.iter().for_each(|(first, last)| runs.append(first as u128, last as u128));
                self.busy = Form::Runs(runs);
            }
            _ => {}
        }
    }

    /// Takes a chosen offset, which must be less than the size; none when it is used.
    pub(crate) fn take(&mut self, offset: u128) -> Option<Taken> {
        if self.insert(offset) {
            return Some(Taken { offset, place: None });
        }
        let place = self.released.iter().position(|o| *o == offset)?;
        self.released.remove(place);
        Some(Taken { offset, place: Some(place) })
    }

    /// Takes the next offset of `within`: a plainly free one at or after `cursor`, or from the beginning on; else the one
    /// that was released first.
    pub(crate) fn take_next(&mut self, within: &Ranges, cursor: u128) -> Option<Taken> {
        if self.count < self.size
            && let Some(offset) = self.free_from(within, cursor).or_else(|| self.free_from(within, 0))
        {
            self.insert(offset);
            return Some(Taken { offset, place: None });
        }
        let place = self.released.iter().position(|offset| within.contains(*offset))?;
        let offset = self.released.remove(place)?;
        Some(Taken { offset, place: Some(place) })
    }

    fn free_from(&self, within: &Ranges, from: u128) -> Option<u128> {
        let mut free = from;
        for (first, last) in within.starting(from) {
            if free < first {
                free = first;
            } else if free > last {
                continue;
            }
            free = match &self.busy {
                Form::Runs(runs) => runs.next_absent(free)?,
                Form::Bits(bits) => bits.next_absent(index(free)?)? as u128,
            };
            if free <= last {
                return Some(free);
            }
        }
        None
    }

    /// Whether `offset` is free and was not released lately.
    pub(crate) fn is_plainly_free(&self, offset: u128) -> bool {
        match &self.busy {
            Form::Runs(runs) => !runs.contains(offset),
            Form::Bits(bits) => index(offset).is_some_and(|offset| !bits.contains(offset)),
        }
    }

    /// Those released lately, the first one first.
    pub(crate) fn released(&self) -> impl Iterator<Item = u128> {
        self.released.iter().copied()
    }

    /// What [`FreeSet::take_next`] will nearly always take.
    pub(crate) fn next(&self, within: &Ranges, cursor: u128) -> Option<u128> {
        let free = if self.count < self.size { self.free_from(within, cursor) } else { None };
        free.or_else(|| self.released.front().copied())
    }

    /// Gives back an offset that was taken and not given back since.
    pub(crate) fn give(&mut self, offset: u128) {
        self.released.push_back(offset);
        if self.released.len() > REMEMBERED
            && let Some(oldest) = self.released.pop_front()
        {
            self.remove(oldest);
        }
    }

    /// Marks a free offset as released after all others.
    pub(crate) fn mark_released(&mut self, offset: u128) {
        if self.insert(offset) {
            self.give(offset);
        }
    }

    /// Undoes the last taking.
    pub(crate) fn undo(&mut self, taken: Taken) {
        match taken.place {
            Some(place) => self.released.insert(place, taken.offset),
            None => self.remove(taken.offset),
        }
    }

    /// The offsets in use.
    pub(crate) fn used(&self) -> Ranges {
        let busy = match &self.busy {
            Form::Runs(runs) => Ranges::new(runs.iter().collect()),
            Form::Bits(bits) => Ranges::new(bits.iter().map(|(first, last)| (first as u128, last as u128)).collect()),
        };
        busy.without(&Ranges::new(self.released.iter().map(|offset| (*offset, *offset)).collect()))
    }
}

fn index(offset: u128) -> Option<usize> {
    usize::try_from(offset).ok()
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
        Undone,
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(size in 1u128..9000, many in any::<bool>(), steps in prop::collection::vec(
            prop_oneof![(0u128..9000).prop_map(Step::Take), (0u128..9000).prop_map(Step::Give), Just(Step::Next), Just(Step::Undone)], 1..300)) {
            let within = Ranges::new(vec![(0, size - 1)]);
            let mut free = FreeSet::new(size);
            let mut used = BTreeSet::new();
            let mut cursor = 0;
            for step in steps {
                let stride = if many { 3 } else { size };
                match step {
                    Step::Take(o) => for o in (o..size).step_by(usize::try_from(stride).unwrap()).take(200) {
                        prop_assert_eq!(free.take(o).is_some(), used.insert(o));
                    },
                    Step::Give(o) => for o in (o..size).step_by(usize::try_from(stride).unwrap()).take(200) {
                        if used.remove(&o) {
                            free.give(o);
                        }
                    },
                    Step::Next => match free.take_next(&within, cursor) {
                        Some(taken) => {
                            cursor = taken.offset + 1;
                            prop_assert!(taken.offset < size && used.insert(taken.offset));
                        }
                        None => prop_assert_eq!(used.len() as u128, size),
                    },
                    Step::Undone => {
                        let before: Vec<u128> = free.released().collect();
                        if let Some(taken) = free.take_next(&within, cursor) {
                            free.undo(taken);
                        }
                        prop_assert_eq!(free.released().collect::<Vec<_>>(), before);
                    }
                }
                let now: BTreeSet<u128> = free.used().iter().flat_map(|(f, l)| f..=l).collect();
                prop_assert_eq!(&now, &used);
                // A bitmap's counts, and the first block's spare room, are what small sets have beyond.
                prop_assert!(free.bytes().0 as u128 <= (24 * free.runs() as u128 + 512).min(size / 4 + 512));
            }
        }
    }

    #[test]
    fn a_released_offset_is_reused_last_and_in_the_order_of_release() {
        let mut free = FreeSet::new(4);
        let all = Ranges::new(vec![(0, 3)]);
        let next = |free: &mut FreeSet| free.take_next(&all, 0).map(|t| t.offset);
        assert_eq!((next(&mut free), next(&mut free), next(&mut free)), (Some(0), Some(1), Some(2)));
        free.give(1);
        free.give(0);
        assert_eq!((next(&mut free), next(&mut free), next(&mut free), next(&mut free)), (Some(3), Some(1), Some(0), None));
    }

    #[test]
    fn the_largest_range_works() {
        let mut free = FreeSet::new(u128::MAX);
        assert!(free.take(u128::MAX - 1).is_some());
        let all = Ranges::new(vec![(0, u128::MAX - 1)]);
        assert_eq!(free.take_next(&all, u128::MAX - 1).map(|t| t.offset), Some(0));
    }
}
