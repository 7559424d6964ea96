//! All holders, by name and by number. Whatever else must name a holder does so by its number, four bytes instead of a name.

use std::hash::{Hash, Hasher};

use api::MacAddr;
use rustc_hash::FxHasher;

use crate::request::{Addresses, Claim, Owner};
use crate::table::{Table, spread};

/// Number of a holder; used anew once it is gone.
pub(crate) type Slot = u32;
/// Number of a subnet; used anew once it is gone.
pub(crate) type SubnetId = u32;

pub(crate) struct Holder {
    pub(crate) owner: Owner,
    pub(crate) claim: Claim,
    pub(crate) subnet: SubnetId,
    pub(crate) addresses: Addresses,
    pub(crate) mac: MacAddr,
}

#[inline(always)]
fn hash(owner: &str) -> u32 {
    let mut hasher = FxHasher::default();
    owner.hash(&mut hasher);
    spread(hasher.finish())
}

#[derive(Default)]
pub(crate) struct Holders {
    by_name: Table,
    slots: Vec<Option<Holder>>,
    vacant: Vec<Slot>,
}

impl Holders {
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    #[inline(always)]
    pub(crate) fn find(&self, owner: &str) -> Option<Slot> {
        self.by_name.find(hash(owner), |slot| self.get(slot).is_some_and(|holder| holder.owner.as_ref() == owner))
    }

    #[inline(always)]
    pub(crate) fn get(&self, slot: Slot) -> Option<&Holder> {
        self.slots.get(slot as usize)?.as_ref()
    }

    #[inline(always)]
    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Holder> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    pub(crate) fn owner(&self, slot: Slot) -> Option<Owner> {
        self.get(slot).map(|holder| holder.owner.clone())
    }

    /// The number that the next holder gets; none when there are 2^32 - 1 of them.
    pub(crate) fn next(&self) -> Option<Slot> {
        self.vacant.last().copied().or_else(|| Slot::try_from(self.slots.len()).ok().filter(|slot| *slot != Slot::MAX))
    }

    /// Puts in a holder under the number that [`Holders::next`] said.
    pub(crate) fn insert(&mut self, holder: Holder) {
        let hash = hash(&holder.owner);
        let slot = match self.vacant.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(holder);
                slot
            }
            None => {
                self.slots.push(Some(holder));
                Slot::try_from(self.slots.len() - 1).unwrap_or(Slot::MAX)
            }
        };
        self.by_name.insert(hash, slot);
    }

    /// The holders in a subnet, `count` of them. All are looked at: this is for changes of subnets, and keeping a list of each
    /// would cost every release.
    pub(crate) fn of_subnet(&self, subnet: SubnetId, count: usize) -> impl Iterator<Item = (Slot, &Holder)> {
        let all = (0..).zip(&self.slots).filter_map(|(slot, holder)| holder.as_ref().map(|holder| (slot, holder)));
        all.filter(move |(_, holder)| holder.subnet == subnet).take(count)
    }

    /// See [`Table::touch`]; and the record of the next holder.
    #[inline(always)]
    pub(crate) fn touch(&self, owner: &str) {
        self.by_name.touch(hash(owner));
        if let Some(slot) = self.vacant.last() {
            std::hint::black_box(self.get(*slot).is_some());
        }
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Holder> {
        let holder = self.slots.get_mut(slot as usize)?.take()?;
        self.by_name.remove(hash(&holder.owner), slot);
        self.vacant.push(slot);
        Some(holder)
    }
}
