//! What a rule sees of the world, and where it puts what it says.

use crate::collection::{Collection, Index, index_fingerprint, key_fingerprint};

/// An object and its key, in the world.
pub type KeyAndValue<'w, W, C> = (&'w <C as Collection<W>>::Key, &'w C);

/// The world as one run of a rule sees it. Every read is recorded.
pub struct Cx<'w, W> {
    pub(crate) world: &'w W,
    pub(crate) questions: Vec<u64>,
    pub(crate) reads: u64,
}

impl<'w, W: 'static> Cx<'w, W> {
    /// The object with `key`; its absence is remembered too.
    pub fn get<C: Collection<W>>(&mut self, key: &C::Key) -> Option<&'w C> {
        self.questions.push(key_fingerprint::<W, C>(key));
        self.reads += 1;
        C::table(self.world).get(key)
    }

    /// The keys of the objects with index key `key`, ascending. What the objects hold is not read.
    pub fn keys<I: Index<W>>(&mut self, key: &I::Key) -> impl Iterator<Item = &'w <I::Of as Collection<W>>::Key> + use<'w, I, W> {
        self.questions.push(index_fingerprint::<W, I>(key));
        let found = I::Of::table(self.world).find::<W, I>(key);
        self.reads += 1 + found.map_or(0, |set| set.len() as u64);
        found.into_iter().flatten()
    }

    /// The objects with index key `key`, in the order of their keys.
    pub fn rows<I: Index<W>>(&mut self, key: &I::Key) -> Vec<KeyAndValue<'w, W, I::Of>> {
        let keys: Vec<_> = self.keys::<I>(key).collect();
        keys.into_iter().filter_map(|k| Some((k, self.get::<I::Of>(k)?))).collect()
    }
}

/// What one run of a rule says.
pub struct Out<F: crate::Fact, DK = (), D = ()> {
    pub(crate) facts: Vec<(F, F::Value)>,
    pub(crate) derived: Vec<(DK, D)>,
}

impl<F: crate::Fact, DK, D> Out<F, DK, D> {
    /// Says a fact. Said twice in one run, the last value stands.
    pub fn say(&mut self, fact: F, value: F::Value) {
        self.facts.push((fact, value));
    }

    /// Derives an object for later rules. Derived twice in one run, the last stands.
    pub fn derive(&mut self, key: DK, value: D) {
        self.derived.push((key, value));
    }
}
