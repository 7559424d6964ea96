//! Sorted, disjoint, inclusive ranges of offsets: what is reserved, what a pool holds, where a request may be served from.
//! A range costs the same whatever its length, so a /96 may be excluded from a /64.

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    /// Ranges in any order, which may overlap; one that ends before it begins is empty.
    pub(crate) fn new(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    #[inline(always)]
    pub(crate) fn contains(&self, offset: u128) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= offset);
        after > 0 && offset <= self.0[after - 1].1
    }

    /// How many offsets there are.
    pub(crate) fn total(&self) -> u128 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        self.0.iter().copied()
    }

    /// The parts at or after `offset`, in order.
    pub(crate) fn starting(&self, offset: u128) -> impl Iterator<Item = (u128, u128)> {
        let begin = self.0.partition_point(|(_, last)| *last < offset);
        self.0[begin..].iter().map(move |(first, last)| ((*first).max(offset), *last))
    }

    /// What is here and not in `other`.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.0.len());
        for (mut first, last) in self.iter() {
            let mut gone = false;
            for (from, to) in other.starting(first).take_while(|(from, _)| *from <= last) {
                if first < from {
                    left.push((first, from - 1));
                }
                gone = to >= last;
                first = to.saturating_add(1);
            }
            if !gone {
                left.push((first, last));
            }
        }
        Self(left)
    }

    /// What is in both.
    pub(crate) fn within(&self, other: &Self) -> Self {
        self.without(&self.without(other))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn expanded(ranges: &Ranges) -> BTreeSet<u128> {
        ranges.iter().flat_map(|(first, last)| first..=last).collect()
    }

    fn some() -> impl Strategy<Value = Vec<(u128, u128)>> {
        prop::collection::vec((0u128..40, 0u128..40), 0..6)
    }

    proptest! {
        #[test]
        fn behave_as_sets(a in some(), b in some(), at in 0u128..45) {
            let expand = |of: &[(u128, u128)]| of.iter().flat_map(|(f, l)| *f..=*l).collect::<BTreeSet<_>>();
            let (left, right) = (expand(&a), expand(&b));
            let (a, b) = (Ranges::new(a), Ranges::new(b));
            prop_assert_eq!(expanded(&a), left.clone());
            prop_assert_eq!(a.total(), left.len() as u128);
            prop_assert_eq!(a.contains(at), left.contains(&at));
            prop_assert_eq!(expanded(&a.without(&b)), &left - &right);
            prop_assert_eq!(expanded(&a.within(&b)), &left & &right);
            let after: BTreeSet<u128> = a.starting(at).flat_map(|(f, l)| f..=l).collect();
            prop_assert_eq!(after, left.range(at..).copied().collect::<BTreeSet<_>>());
        }
    }

    #[test]
    fn the_largest_offset_can_be_taken_away() {
        let all = Ranges::new(vec![(0, u128::MAX)]);
        assert!(all.without(&all).is_empty());
        assert_eq!(all.without(&Ranges::new(vec![(u128::MAX, u128::MAX)])).iter().collect::<Vec<_>>(), [(0, u128::MAX - 1)]);
    }
}
