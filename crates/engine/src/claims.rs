//! Several owners may say the same thing: who is believed, and who is told.

use std::hash::Hash;

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

/// The claims of one thing. Nearly always there is one.
struct Claims<V> {
    first: Claim<V>,
    more: Vec<Claim<V>>,
}

#[derive(Clone)]
pub(crate) struct Claim<V> {
    pub(crate) task: Task,
    pub(crate) age: Age,
    pub(crate) value: V,
}

/// All claims, by what is claimed.
pub(crate) struct Ledger<K, V> {
    claims: FxHashMap<K, Claims<V>>,
}

impl<K, V> Default for Ledger<K, V> {
    fn default() -> Self {
        Self { claims: FxHashMap::default() }
    }
}

impl<K: Clone + Eq + Hash, V: Clone + Eq> Ledger<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.claims.len()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.claims.keys()
    }

    /// The value that is believed. `order` breaks ties between claims of one age.
    pub(crate) fn winner(&self, key: &K, order: &dyn Fn(Task) -> (u16, String)) -> Option<&Claim<V>> {
        let claims = self.claims.get(key)?;
        if claims.more.is_empty() {
            return Some(&claims.first);
        }
        std::iter::once(&claims.first).chain(&claims.more).min_by_key(|claim| (claim.age, order(claim.task)))
    }

    /// The tasks that claim `key` with values that differ from each other, none if they agree.
    pub(crate) fn disputed(&self, key: &K) -> Vec<&Claim<V>> {
        let Some(claims) = self.claims.get(key) else { return Vec::new() };
        if claims.more.iter().all(|c| c.value == claims.first.value) {
            return Vec::new();
        }
        std::iter::once(&claims.first).chain(&claims.more).collect()
    }

    /// Sets (or with `None` withdraws) what `task` claims of `key`.
    pub(crate) fn claim(&mut self, key: &K, task: Task, claim: Option<(Age, V)>) {
        let Some(claims) = self.claims.get_mut(key) else {
            if let Some((age, value)) = claim {
                self.claims.insert(key.clone(), Claims { first: Claim { task, age, value }, more: Vec::new() });
            }
            return;
        };
        match claim {
            Some((age, value)) => {
                let claim = Claim { task, age, value };
                if claims.first.task == task {
                    claims.first = claim;
                } else if let Some(mine) = claims.more.iter_mut().find(|c| c.task == task) {
                    *mine = claim;
                } else {
                    claims.more.push(claim);
                }
            }
            None => {
                if claims.first.task == task {
                    match claims.more.pop() {
                        Some(other) => claims.first = other,
                        None => {
                            self.claims.remove(key);
                        }
                    }
                } else {
                    claims.more.retain(|c| c.task != task);
                }
            }
        }
    }
}
