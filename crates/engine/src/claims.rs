//! Several owners may say the same thing: who is believed, and who is told.

use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::Age;
use crate::readers::Task;

/// One of several owners of a fact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claimant {
    /// Age of the input object.
    pub age: Age,
    /// Name of the rule.
    pub rule: &'static str,
    /// Key of the input object, as its `Debug` prints it.
    pub key: String,
}

/// A fact that several owners say differently. The first claimant wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict<F> {
    /// The fact.
    pub fact: F,
    /// The owners, winner first.
    pub claimants: Vec<Claimant>,
}

#[derive(PartialEq)]
pub(crate) struct Claim<V> {
    pub(crate) task: Task,
    pub(crate) age: Age,
    pub(crate) value: V,
}

/// The claims of one thing, never none. Nearly always there is one.
enum Claims<V> {
    One(Claim<V>),
    Several(Vec<Claim<V>>),
}

impl<V> Claims<V> {
    fn all(&self) -> &[Claim<V>] {
        match self {
            Self::One(claim) => std::slice::from_ref(claim),
            Self::Several(claims) => claims,
        }
    }

    fn all_mut(&mut self) -> &mut [Claim<V>] {
        match self {
            Self::One(claim) => std::slice::from_mut(claim),
            Self::Several(claims) => claims,
        }
    }

    fn push(&mut self, claim: Claim<V>) {
        let mut claims = match std::mem::replace(self, Self::Several(Vec::new())) {
            Self::One(first) => vec![first],
            Self::Several(claims) => claims,
        };
        claims.push(claim);
        *self = Self::Several(claims);
    }

    /// The claims without that of `task`; `None` when there is no other.
    fn without(self, task: Task) -> Option<Self> {
        match self {
            Self::One(claim) => (claim.task != task).then_some(Self::One(claim)),
            Self::Several(mut claims) => {
                claims.retain(|claim| claim.task != task);
                if claims.len() > 1 { Some(Self::Several(claims)) } else { claims.pop().map(Self::One) }
            }
        }
    }
}

/// All claims, by what is claimed. The only place that holds values: runs hold keys, which they share with it.
pub(crate) struct Ledger<K, V> {
    claims: FxHashMap<Arc<K>, Claims<V>>,
}

impl<K, V> Default for Ledger<K, V> {
    fn default() -> Self {
        Self { claims: FxHashMap::default() }
    }
}

impl<K: Eq + Hash + Ord, V: Eq> Ledger<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.claims.len()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.claims.keys().map(AsRef::as_ref)
    }

    /// The value of `key` that was believed last. Once a claim of `key` has changed, [`Ledger::believe`] decides anew.
    pub(crate) fn believed(&self, key: &K) -> Option<&V> {
        self.claims.get(key).and_then(|claims| claims.all().first()).map(|claim| &claim.value)
    }

    /// All keys with the value that was believed last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.claims.iter().filter_map(|(key, claims)| Some((key.as_ref(), &claims.all().first()?.value)))
    }

    /// Decides which claim of `key` is believed. `order` breaks ties between claims of one age.
    pub(crate) fn believe(&mut self, key: &K, order: &dyn Fn(Task) -> (u16, String)) -> Option<&Claim<V>> {
        let claims = self.claims.get_mut(key)?.all_mut();
        if claims.len() > 1
            && let Some((winner, _)) = claims.iter().enumerate().min_by_key(|(_, claim)| (claim.age, order(claim.task)))
        {
            claims.swap(0, winner);
        }
        claims.first()
    }

    /// The tasks that claim `key` with values that differ from each other, none if they agree.
    pub(crate) fn disputed(&self, key: &K) -> &[Claim<V>] {
        let claims = self.claims.get(key).map_or(&[] as &[_], Claims::all);
        if claims.iter().all(|claim| claim.value == claims[0].value) { &[] } else { claims }
    }

    /// Takes in what `task` says now, sorted by key, in place of `old`, and returns the keys. Before a claim changes,
    /// `touch` is called with its key and the value that stands first.
    pub(crate) fn say(
        &mut self,
        (task, age): (Task, Age),
        old: &[Arc<K>],
        new: Vec<(K, V)>,
        mut touch: impl FnMut(&Arc<K>, Option<&V>),
    ) -> Box<[Arc<K>]> {
        for key in old {
            if new.binary_search_by(|(k, _)| k.cmp(key)).is_err() {
                touch(key, self.believed(key));
                if let Some(rest) = self.claims.remove(key).and_then(|claims| claims.without(task)) {
                    self.claims.insert(Arc::clone(key), rest);
                }
            }
        }
        let mut keys = Vec::with_capacity(new.len());
        for (key, value) in new {
            let key = match old.binary_search_by(|k| k.as_ref().cmp(&key)) {
                Ok(at) => Arc::clone(&old[at]),
                Err(_) => Arc::new(key),
            };
            self.claim(&key, Claim { task, age, value }, &mut touch);
            keys.push(key);
        }
        keys.into()
    }

    fn claim(&mut self, key: &Arc<K>, claim: Claim<V>, touch: &mut impl FnMut(&Arc<K>, Option<&V>)) {
        let Some(claims) = self.claims.get_mut(key) else {
            touch(key, None);
            self.claims.insert(Arc::clone(key), Claims::One(claim));
            return;
        };
        let mine = claims.all().iter().position(|c| c.task == claim.task);
        if mine.is_some_and(|at| claims.all()[at] == claim) {
            return;
        }
        touch(key, claims.all().first().map(|first| &first.value));
        match mine {
            Some(at) => claims.all_mut()[at] = claim,
            None => claims.push(claim),
        }
    }
}
