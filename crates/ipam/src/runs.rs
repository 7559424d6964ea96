//! A set of offsets as runs, in sorted blocks: for few runs in much space. A run takes 16 bytes and its share of the room
//! that blocks keep, less than 24 in all.

/// A block is split when it holds this many runs, so that one insertion moves 2 KB at most.
const SPLIT: usize = 128;
/// A block with fewer is joined with a neighbour.
const JOIN: usize = 48;
/// Runs that a block keeps room for.
const SPARE: usize = 8;

/// Runs, inclusive, of the lower halves of offsets with the same upper half.
type Block = Vec<(u64, u64)>;

#[derive(Default)]
pub(crate) struct Runs {
    /// The upper half of each block, and where its first run begins: apart, so that the search stays in the cache.
    keys: Vec<(u64, u64)>,
    blocks: Vec<Block>,
    count: usize,
    /// The block of the last insertion: what is given out in turn goes on there, without a search.
    recent: usize,
}

#[allow(clippy::cast_possible_truncation, reason = "the halves of the number are meant")]
#[inline(always)]
const fn halves(offset: u128) -> (u64, u64) {
    ((offset >> 64) as u64, offset as u64)
}

#[inline(always)]
fn whole(high: u64, low: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

impl Runs {
    /// How many runs there are. Two that touch at the edge of blocks count as two.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn bytes(&self) -> usize {
        let keys = self.keys.capacity() * size_of::<(u64, u64)>() + self.blocks.capacity() * size_of::<Block>();
        keys + self.blocks.iter().map(|runs| runs.capacity() * size_of::<(u64, u64)>()).sum::<usize>()
    }

    /// The last block that begins at or before the offset.
    fn block_before(&self, high: u64, low: u64) -> Option<usize> {
        let key = (high, low);
        let is_recent = self.keys.get(self.recent).is_some_and(|first| first.0 == high && *first <= key)
            && self.keys.get(self.recent + 1).is_none_or(|next| key < *next);
        if is_recent {
            return Some(self.recent);
        }
        let after = self.keys.partition_point(|first| *first <= key);
        after.checked_sub(1).filter(|at| self.keys[*at].0 == high)
    }

    /// How many runs of a block begin at or before `low`. Counted and not halved: the lines of a block that is not in the cache
    /// are then fetched at the same time, and those behind are moved anyway when a run comes or goes.
    #[inline(always)]
    fn runs_until(runs: &[(u64, u64)], low: u64) -> usize {
        runs.iter().map(|(first, _)| usize::from(*first <= low)).sum()
    }

    /// The block and the run that hold `offset`.
    fn find(&self, offset: u128) -> Option<(usize, usize)> {
        let (high, low) = halves(offset);
        let at = self.block_before(high, low)?;
        let runs = &self.blocks[at];
        let run = Self::runs_until(runs, low).checked_sub(1)?;
        (low <= runs[run].1).then_some((at, run))
    }

    pub(crate) fn contains(&self, offset: u128) -> bool {
        self.find(offset).is_some()
    }

    /// Adds `offset`; `false` when it was there.
    pub(crate) fn insert(&mut self, offset: u128) -> bool {
        let (high, low) = halves(offset);
        let home = self.block_before(high, low).unwrap_or_else(|| {
            let after = self.keys.partition_point(|key| *key <= (high, low));
            if self.keys.get(after).is_none_or(|key| key.0 != high) {
                self.keys.insert(after, (high, low));
                self.blocks.insert(after, Block::new());
            }
            after
        });
        self.recent = home;
        let block = &mut self.blocks[home];
        let at = Self::runs_until(block, low);
        if at > 0 && low <= block[at - 1].1 {
            return false;
        }
        // Neither addition overflows: a run before ends below `low`, one after begins above it.
        let extends = at > 0 && block[at - 1].1 + 1 == low;
        let precedes = block.get(at).is_some_and(|(first, _)| low + 1 == *first);
        match (extends, precedes) {
            (true, true) => {
                block[at - 1].1 = block[at].1;
                block.remove(at);
                self.count -= 1;
            }
            (true, false) => block[at - 1].1 = low,
            (false, true) => block[at].0 = low,
            (false, false) => {
                if block.len() == block.capacity() {
                    block.reserve_exact(SPARE);
                }
                block.insert(at, (low, low));
                self.count += 1;
            }
        }
        self.balance(home);
        true
    }

    /// Adds a run behind all others that lies in one upper half.
    pub(crate) fn append(&mut self, first: u128, last: u128) {
        let ((high, first), (_, last)) = (halves(first), halves(last));
        match self.keys.last().zip(self.blocks.last_mut()) {
            Some((key, runs)) if key.0 == high && runs.len() < SPLIT - SPARE => {
                if runs.len() == runs.capacity() {
                    runs.reserve_exact(SPARE);
                }
                runs.push((first, last));
            }
            _ => {
                self.keys.push((high, first));
                self.blocks.push(vec![(first, last)]);
            }
        }
        self.count += 1;
    }

    /// Takes `offset` out; `false` when it was not there.
    pub(crate) fn remove(&mut self, offset: u128) -> bool {
        let Some((home, at)) = self.find(offset) else { return false };
        let low = halves(offset).1;
        let block = &mut self.blocks[home];
        match block[at] {
            (first, last) if first == last => {
                block.remove(at);
                self.count -= 1;
            }
            (first, last) if first == low => block[at] = (low + 1, last),
            (first, last) if last == low => block[at] = (first, low - 1),
            (first, last) => {
                block[at] = (first, low - 1);
                if block.len() == block.capacity() {
                    block.reserve_exact(SPARE);
                }
                block.insert(at + 1, (low + 1, last));
                self.count += 1;
            }
        }
        self.balance(home);
        true
    }

    /// Keeps blocks neither long nor nearly empty.
    fn balance(&mut self, home: usize) {
        match self.blocks[home].len() {
            0 => {
                self.keys.remove(home);
                self.blocks.remove(home);
                return;
            }
            SPLIT.. => {
                let right = self.blocks[home].split_off(SPLIT / 2);
                self.keys.insert(home + 1, (self.keys[home].0, right[0].0));
                self.blocks.insert(home + 1, right);
            }
            1..JOIN => {
                let joined = |left: usize, right: usize| {
                    let (a, b) = (self.blocks.get(left), self.blocks.get(right));
                    let fits = a.zip(b).is_some_and(|(a, b)| a.len() + b.len() <= SPLIT - SPARE);
                    fits && self.keys[left].0 == self.keys[right].0
                };
                let left = match home.checked_sub(1) {
                    _ if joined(home, home + 1) => home,
                    Some(before) if joined(before, home) => before,
                    _ => return self.fit(home),
                };
                let right = self.blocks.remove(left + 1);
                self.keys.remove(left + 1);
                let runs = &mut self.blocks[left];
                runs.reserve_exact(right.len());
                runs.extend(right);
                return self.fit(left);
            }
            _ => {}
        }
        self.fit(home);
    }

    fn fit(&mut self, home: usize) {
        let runs = &mut self.blocks[home];
        self.keys[home].1 = runs[0].0;
        if runs.capacity() > runs.len() + 2 * SPARE {
            runs.shrink_to(runs.len() + SPARE);
        }
    }

    /// The first offset at or after `from` that is not here; none when everything up to the largest number is.
    pub(crate) fn next_absent(&self, from: u128) -> Option<u128> {
        let mut at = from;
        while let Some((block, run)) = self.find(at) {
            at = whole(self.keys[block].0, self.blocks[block][run].1).checked_add(1)?;
        }
        Some(at)
    }

    /// All runs, inclusive, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        let blocks = self.keys.iter().zip(&self.blocks);
        blocks.flat_map(|((high, _), runs)| runs.iter().map(|(first, last)| (whole(*high, *first), whole(*high, *last))))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behave_as_a_set(steps in prop::collection::vec((any::<bool>(), 0u128..1200), 1..2500), odd in any::<bool>()) {
            // Around the edge between two upper halves; every second offset makes many runs.
            let base = (1u128 << 64) - 600;
            let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
            for (add, at) in steps {
                let offset = base + if odd { at | 1 } else { at };
                if add {
                    prop_assert_eq!(runs.insert(offset), model.insert(offset));
                } else {
                    prop_assert_eq!(runs.remove(offset), model.remove(&offset));
                }
                let expected = (offset..).find(|o| !model.contains(o));
                prop_assert_eq!(runs.next_absent(offset), expected);
            }
            prop_assert_eq!(runs.iter().flat_map(|(f, l)| f..=l).collect::<BTreeSet<_>>(), model);
            prop_assert_eq!(runs.iter().count(), runs.count());
        }
    }

    #[test]
    fn many_runs_at_random_take_less_than_24_bytes_each_however_they_came() {
        let mut seed = 7u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u128::from(seed >> 8)
        };
        let mut runs = Runs::default();
        let offsets: Vec<u128> = (0..100_000).map(|_| random()).collect();
        for offset in &offsets {
            runs.insert(*offset);
        }
        assert!(runs.bytes() < 24 * runs.count(), "{} bytes for {} runs", runs.bytes(), runs.count());
        for offset in &offsets[..80_000] {
            runs.remove(*offset);
        }
        runs.keys.shrink_to_fit();
        runs.blocks.shrink_to_fit();
        assert!(runs.bytes() < 24 * runs.count(), "{} bytes for {} runs", runs.bytes(), runs.count());
    }
}
