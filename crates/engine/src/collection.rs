//! Tables of objects, and the indexes that rules read them by.

use std::any::{Any, TypeId};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use rustc_hash::{FxHashMap, FxHasher};

/// When an object was created, for conflicts: the lower is the older. Seconds since 1970, or any order of the caller's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Age(pub i64);

/// A type of object, held in one table of the world `W`. `Eq` is the cut-off: equal objects wake nobody.
pub trait Collection<W>: Clone + Eq + Send + 'static {
    /// What an object is found by.
    type Key: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static;
    /// A number that no other collection of the world has.
    const ID: u16;
    /// The table in the world.
    fn table(world: &W) -> &Table<Self::Key, Self>;
    /// The table in the world, to change.
    fn table_mut(world: &mut W) -> &mut Table<Self::Key, Self>;
}

/// A way to find objects by something else than their key. Declared once per engine; holds keys, not objects.
pub trait Index<W>: Send + 'static {
    /// The collection that is indexed.
    type Of: Collection<W>;
    /// What objects are found by.
    type Key: Clone + Eq + Hash + Send + 'static;
    /// The index keys of one object.
    fn keys(key: &<Self::Of as Collection<W>>::Key, value: &Self::Of, out: &mut Vec<Self::Key>);
}

pub(crate) struct Slot<V> {
    pub(crate) value: V,
    pub(crate) age: Age,
}

/// The objects of one collection.
pub struct Table<K, V> {
    pub(crate) rows: FxHashMap<K, Slot<V>>,
    indexes: Vec<(TypeId, Box<dyn AnyIndex<K, V>>)>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { rows: FxHashMap::default(), indexes: Vec::new() }
    }
}

impl<K: Eq + Hash, V> Table<K, V> {
    /// The object with `key`.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key).map(|slot| &slot.value)
    }

    /// All objects, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter().map(|(key, slot)| (key, &slot.value))
    }

    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Stores or removes an object, and adds the fingerprints of the index entries whose membership changed.
    pub(crate) fn put(&mut self, key: &K, slot: Option<Slot<V>>, touched: &mut Vec<u64>) -> Option<Slot<V>>
    where
        K: Clone,
    {
        let old = self.rows.remove(key);
        for (_, index) in &mut self.indexes {
            index.update(key, old.as_ref().map(|s| &s.value), slot.as_ref().map(|s| &s.value), touched);
        }
        if let Some(slot) = slot {
            self.rows.insert(key.clone(), slot);
        }
        old
    }

    pub(crate) fn add_index<W, I>(&mut self)
    where
        I: Index<W>,
        I::Of: Collection<W, Key = K>,
        V: 'static,
        K: Clone + Ord + Send + 'static,
        IndexMap<W, I, K>: AnyIndex<K, V>,
        W: 'static,
    {
        self.indexes.push((TypeId::of::<I>(), Box::new(IndexMap::<W, I, K> { map: FxHashMap::default(), of: PhantomData })));
    }

    /// The keys of the objects with index key `key`, ascending; nothing when there are none, or no such index is kept.
    pub fn find<W, I>(&self, key: &I::Key) -> Option<&BTreeSet<K>>
    where
        I: Index<W>,
        K: 'static,
        W: 'static,
    {
        let (_, index) = self.indexes.iter().find(|(id, _)| *id == TypeId::of::<I>())?;
        index.as_any().downcast_ref::<IndexMap<W, I, K>>()?.map.get(key)
    }
}

pub(crate) struct IndexMap<W, I: Index<W>, K> {
    map: FxHashMap<I::Key, BTreeSet<K>>,
    of: PhantomData<fn() -> (W, I)>,
}

pub(crate) trait AnyIndex<K, V>: Send {
    fn update(&mut self, key: &K, old: Option<&V>, new: Option<&V>, touched: &mut Vec<u64>);
    fn as_any(&self) -> &dyn Any;
}

impl<W: 'static, I: Index<W>> AnyIndex<<I::Of as Collection<W>>::Key, I::Of> for IndexMap<W, I, <I::Of as Collection<W>>::Key> {
    fn update(&mut self, key: &<I::Of as Collection<W>>::Key, old: Option<&I::Of>, new: Option<&I::Of>, touched: &mut Vec<u64>) {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        if let Some(value) = old {
            I::keys(key, value, &mut before);
        }
        if let Some(value) = new {
            I::keys(key, value, &mut after);
        }
        for gone in before.iter().filter(|k| !after.contains(k)) {
            if let Some(set) = self.map.get_mut(gone) {
                set.remove(key);
                if set.is_empty() {
                    self.map.remove(gone);
                }
            }
            touched.push(index_fingerprint::<W, I>(gone));
        }
        for come in after.iter().filter(|k| !before.contains(k)) {
            self.map.entry(come.clone()).or_default().insert(key.clone());
            touched.push(index_fingerprint::<W, I>(come));
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The question "what is the object with this key?" as a number. A collision only causes a needless run.
pub(crate) fn key_fingerprint<W, C: Collection<W>>(key: &C::Key) -> u64 {
    let mut hasher = FxHasher::default();
    C::ID.hash(&mut hasher);
    key.hash(&mut hasher);
    hasher.finish()
}

/// The question "which objects have this index key?" as a number.
pub(crate) fn index_fingerprint<W, I: Index<W>>(key: &I::Key) -> u64 {
    let mut hasher = FxHasher::default();
    TypeId::of::<I>().hash(&mut hasher);
    key.hash(&mut hasher);
    hasher.finish()
}
