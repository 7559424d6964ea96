//! A set of offsets as runs, in sorted blocks: for few runs in much space. A run takes 16 bytes and its share of the room
//! that blocks keep, less than 24 in all.

/// A block is split when it holds this many runs, so that one insertion moves 2 KB at most.
const SPLIT: usize = 128;
/// A block with fewer is joined with a neighbour.
const JOIN: usize = 48;
/// Runs that a block keeps room for.
const SPARE: usize = 8;

/// Runs, inclusive, of offsets with the same upper half.
struct Block {
    high: u64,
    first: u64,
    runs: Vec<(u64, u64)>,
}

#[derive(Default)]
pub(crate) struct Runs {
    blocks: Vec<Block>,
    count: usize,
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
        let blocks = self.blocks.capacity() * size_of::<Block>();
        blocks + self.blocks.iter().map(|block| block.runs.capacity() * size_of::<(u64, u64)>()).sum::<usize>()
    }

    /// The last block that begins at or before the offset.
    fn block_before(&self, high: u64, low: u64) -> Option<usize> {
        let after = self.blocks.partition_point(|block| (block.high, block.first) <= (high, low));
        after.checked_sub(1).filter(|at| self.blocks[*at].high == high)
    }

    /// The block and the run that hold `offset`.
    fn find(&self, offset: u128) -> Option<(usize, usize)> {
        let (high, low) = halves(offset);
        let at = self.block_before(high, low)?;
        let runs = &self.blocks[at].runs;
        let run = runs.partition_point(|(first, _)| *first <= low).checked_sub(1)?;
        (low <= runs[run].1).then_some((at, run))
    }

    pub(crate) fn contains(&self, offset: u128) -> bool {
        self.find(offset).is_some()
    }

    /// Adds `offset`; `false` when it was there.
    pub(crate) fn insert(&mut self, offset: u128) -> bool {
        let (high, low) = halves(offset);
        let home = self.block_before(high, low).unwrap_or_else(|| {
            let after = self.blocks.partition_point(|block| (block.high, block.first) <= (high, low));
            if self.blocks.get(after).is_none_or(|block| block.high != high) {
                self.blocks.insert(after, Block { high, first: low, runs: Vec::new() });
            }
            after
        });
        let block = &mut self.blocks[home];
        let at = block.runs.partition_point(|(first, _)| *first <= low);
        if at > 0 && low <= block.runs[at - 1].1 {
            return false;
        }
        // Neither addition overflows: a run before ends below `low`, one after begins above it.
        let extends = at > 0 && block.runs[at - 1].1 + 1 == low;
        let precedes = block.runs.get(at).is_some_and(|(first, _)| low + 1 == *first);
        match (extends, precedes) {
            (true, true) => {
                block.runs[at - 1].1 = block.runs[at].1;
                block.runs.remove(at);
                self.count -= 1;
            }
            (true, false) => block.runs[at - 1].1 = low,
            (false, true) => block.runs[at].0 = low,
            (false, false) => {
                if block.runs.len() == block.runs.capacity() {
                    block.runs.reserve_exact(SPARE);
                }
                block.runs.insert(at, (low, low));
                self.count += 1;
            }
        }
        self.balance(home);
        true
    }

    /// Adds a run behind all others that lies in one upper half.
    pub(crate) fn append(&mut self, first: u128, last: u128) {
        let ((high, first), (_, last)) = (halves(first), halves(last));
        match self.blocks.last_mut() {
            Some(block) if block.high == high && block.runs.len() < SPLIT - SPARE => {
                if block.runs.len() == block.runs.capacity() {
                    block.runs.reserve_exact(SPARE);
                }
                block.runs.push((first, last));
            }
            _ => self.blocks.push(Block { high, first, runs: vec![(first, last)] }),
        }
        self.count += 1;
    }

    /// Takes `offset` out; `false` when it was not there.
    pub(crate) fn remove(&mut self, offset: u128) -> bool {
        let Some((home, at)) = self.find(offset) else { return false };
        let low = halves(offset).1;
        let block = &mut self.blocks[home];
        match block.runs[at] {
            (first, last) if first == last => {
                block.runs.remove(at);
                self.count -= 1;
            }
            (first, last) if first == low => block.runs[at] = (low + 1, last),
            (first, last) if last == low => block.runs[at] = (first, low - 1),
            (first, last) => {
                block.runs[at] = (first, low - 1);
                if block.runs.len() == block.runs.capacity() {
                    block.runs.reserve_exact(SPARE);
                }
                block.runs.insert(at + 1, (low + 1, last));
                self.count += 1;
            }
        }
        self.balance(home);
        true
    }

    /// Keeps blocks neither long nor nearly empty.
    fn balance(&mut self, home: usize) {
        let block = &mut self.blocks[home];
        match block.runs.len() {
            0 => {
                self.blocks.remove(home);
                return;
            }
            SPLIT.. => {
                let runs = block.runs.split_off(SPLIT / 2);
                let high = block.high;
                self.blocks.insert(home + 1, Block { high, first: runs[0].0, runs });
            }
            1..JOIN => {
                let joined = |left: &Block, right: &Block| left.high == right.high && left.runs.len() + right.runs.len() <= SPLIT - SPARE;
                let left = match (home.checked_sub(1), self.blocks.get(home + 1)) {
                    (_, Some(next)) if joined(&self.blocks[home], next) => home,
                    (Some(before), _) if joined(&self.blocks[before], &self.blocks[home]) => before,
                    _ => return self.fit(home),
                };
                let right = self.blocks.remove(left + 1);
                let runs = &mut self.blocks[left].runs;
                runs.reserve_exact(right.runs.len());
                runs.extend(right.runs);
                return self.fit(left);
            }
            _ => {}
        }
        self.fit(home);
    }

    fn fit(&mut self, home: usize) {
        let block = &mut self.blocks[home];
        block.first = block.runs[0].0;
        if block.runs.capacity() > block.runs.len() + 2 * SPARE {
            block.runs.shrink_to(block.runs.len() + SPARE);
        }
    }

    /// The first offset at or after `from` that is not here; none when everything up to the largest number is.
    pub(crate) fn next_absent(&self, from: u128) -> Option<u128> {
        let mut at = from;
        while let Some((block, run)) = self.find(at) {
            let block = &self.blocks[block];
            at = whole(block.high, block.runs[run].1).checked_add(1)?;
        }
        Some(at)
    }

    /// All runs, inclusive, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        self.blocks.iter().flat_map(|block| block.runs.iter().map(|(first, last)| (whole(block.high, *first), whole(block.high, *last))))
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
        runs.blocks.shrink_to_fit();
        assert!(runs.bytes() < 24 * runs.count(), "{} bytes for {} runs", runs.bytes(), runs.count());
    }
}
