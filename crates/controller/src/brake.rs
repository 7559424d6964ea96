//! What vanishes without having been deleted is not believed to be gone until a person says so.
//!
//! Two things are held. An *object* that a list leaves out, or that goes with the definition of its kind, stays what it was
//! for the rules: its rows and addresses stay, and everything else goes on. *Rows* that a first comparison with the database
//! would remove in great number hold up that commit, since nobody knows what they stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use uuid::Uuid;

use crate::config::Config;
use crate::inputs::{Key, Kind, Object};

/// Rows, or addresses that are kept for who is not there, that a commit would remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removal {
    pub(crate) what: &'static str,
    pub(crate) removed: usize,
    pub(crate) of: usize,
    /// Stands for exactly these.
    digest: u64,
}

impl Removal {
    pub(crate) fn of_rows(rows: &[Uuid], of: usize) -> Self {
        Self { what: "rows", removed: rows.len(), of, digest: digest(rows.iter()) }
    }

    pub(crate) fn of_addresses(names: &[Arc<str>], of: usize) -> Self {
        Self { what: "kept addresses", removed: names.len(), of, digest: digest(names.iter()) }
    }

    /// Whether a person has to agree: it is too many and too large a share, or, however few, of kinds there is no object at all.
    pub(crate) fn is_doubtful(&self, config: &Config, empty: &BTreeSet<Kind>) -> bool {
        is_much(config, self.removed, self.of) || (self.removed > 0 && !empty.is_empty())
    }
}

/// Whether so many of `of` objects or rows do not go unnoticed.
fn is_much(config: &Config, gone: usize, of: usize) -> bool {
    gone > config.removal_rows && gone * 100 > of * config.removal_percent
}

#[derive(Debug, Default)]
pub(crate) struct Brake {
    /// What is taken in once it is confirmed: the object as it is said to be; `None`: it is said to be gone.
    withheld: BTreeMap<Key, Option<Object>>,
    removal: Option<Removal>,
    /// What a person has agreed to.
    confirmed: Option<Arc<str>>,
    /// Objects whose end a person has agreed to: what more is said of it needs no further word.
    going: BTreeSet<Key>,
}

impl Brake {
    /// Whether a list is not to be believed that leaves out `gone` of the `of` known objects of a kind: all, or many.
    pub(crate) fn doubts(config: &Config, gone: usize, of: usize) -> bool {
        gone > 0 && (gone == of || is_much(config, gone, of))
    }

    /// Whether a person has agreed to the end of this object.
    pub(crate) fn is_going(&self, key: &Key) -> bool {
        self.going.contains(key)
    }

    /// Holds what is said of an object.
    pub(crate) fn withhold(&mut self, key: Key, object: Option<Object>) {
        self.withheld.insert(key, object);
    }

    /// Something else is said of an object, and believed; returns whether something was held.
    pub(crate) fn believe(&mut self, key: &Key) -> bool {
        self.going.remove(key);
        self.withheld.remove(key).is_some()
    }

    /// The object is there no more.
    pub(crate) fn gone(&mut self, key: &Key) {
        self.going.remove(key);
    }

    /// Holds a commit, or no more; returns whether that is new.
    pub(crate) fn hold(&mut self, removal: Option<Removal>) -> bool {
        let new = self.removal != removal;
        self.removal = removal;
        new
    }

    /// Whether a commit is held.
    pub(crate) const fn holds_commits(&self) -> bool {
        self.removal.is_some()
    }

    /// Whether anything is held.
    pub(crate) fn holds(&self) -> bool {
        self.removal.is_some() || !self.withheld.is_empty()
    }

    /// A person agrees to what has this token.
    pub(crate) fn confirm(&mut self, token: Option<Arc<str>>) {
        self.confirmed = token;
    }

    /// Whether a person has agreed to what is withheld, and to this removal.
    pub(crate) fn is_confirmed(&self, removal: Option<&Removal>) -> bool {
        self.confirmed.as_deref().is_some_and(|token| token == self.token_with(removal))
    }

    /// What was withheld, if a person has agreed to that.
    pub(crate) fn released(&mut self, config: &Config) -> BTreeMap<Key, Option<Object>> {
        let agreed = config.confirm_removal || self.is_confirmed(self.removal.as_ref());
        if !agreed {
            return BTreeMap::new();
        }
        let released = std::mem::take(&mut self.withheld);
        self.going.extend(released.iter().filter(|(_, object)| object.is_some()).map(|(key, _)| key.clone()));
        released
    }

    /// Stands for exactly what is held now, so that agreeing to it agrees to nothing else.
    fn token_with(&self, removal: Option<&Removal>) -> String {
        format!("{:08x}", digest(self.withheld.keys()) ^ removal.map_or(0, |removal| removal.digest))
    }

    /// What is held and how to go on, for people; `None` when nothing is.
    pub(crate) fn describe(&self) -> Option<String> {
        let mut parts = Vec::new();
        if !self.withheld.is_empty() {
            let mut kinds: BTreeMap<Kind, usize> = BTreeMap::new();
            for key in self.withheld.keys() {
                *kinds.entry(key.kind()).or_default() += 1;
            }
            let list: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            parts.push(format!(
                "objects are gone that nobody deleted one by one ({}): a list came without them, or the definition of their kind was deleted; what they stand for stays in the network",
                list.join(", ")
            ));
        }
        if let Some(Removal { what, removed, of, .. }) = &self.removal {
            parts.push(format!("a commit that would remove {removed} of {of} {what} is held, and what comes after it waits"));
        }
        if parts.is_empty() {
            return None;
        }
        let (token, key) = (self.token_with(self.removal.as_ref()), api::annotations::CONFIRM_REMOVAL);
        Some(format!(
            "{}; restore the objects, or confirm that they are to go: kubectl annotate --overwrite namespace kube-system {key}={token}, or start the controller with --confirm-removal",
            parts.join("; ")
        ))
    }
}

fn digest<T: Hash>(items: impl Iterator<Item = T>) -> u64 {
    // Order does not count.
    items.fold(0, |sum: u64, item| {
        let mut hasher = DefaultHasher::new();
        item.hash(&mut hasher);
        sum.wrapping_add(hasher.finish())
    }) & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_for_exactly_what_is_held() {
        let config = Config::new(ovsdb::Remote::Unix("/nowhere".into()));
        let mut brake = Brake::default();
        assert_eq!(brake.describe(), None);
        brake.withhold(Key::Vpc("a".into()), None);
        let first = brake.token_with(None);
        assert!(brake.describe().unwrap().contains("(1 Vpc): "), "{:?}", brake.describe());
        assert!(brake.describe().unwrap().contains(&format!("confirm-removal={first}")), "{:?}", brake.describe());
        brake.withhold(Key::Vpc("b".into()), None);
        brake.confirm(Some(first.as_str().into()));
        assert!(brake.released(&config).is_empty());
        brake.confirm(Some(brake.token_with(None).into()));
        assert_eq!(brake.released(&config).len(), 2);

        let removal = Removal::of_rows(&[Uuid::nil()], 1);
        assert!(!removal.is_doubtful(&config, &BTreeSet::new()) && removal.is_doubtful(&config, &[Kind::Pod].into()));
        assert!(!brake.is_confirmed(Some(&removal)));
        brake.confirm(Some(brake.token_with(Some(&removal)).into()));
        assert!(brake.is_confirmed(Some(&removal)) && !brake.is_confirmed(Some(&Removal::of_rows(&[Uuid::max()], 1))));
    }

    #[test]
    fn few_may_be_missing_from_a_list_and_not_all_nor_many() {
        let config = Config::new(ovsdb::Remote::Unix("/nowhere".into()));
        for (gone, of, doubted) in
            [(0, 0, false), (0, 9, false), (1, 9, false), (9, 9, true), (100, 200, false), (101, 600, false), (101, 500, true)]
        {
            assert_eq!(Brake::doubts(&config, gone, of), doubted, "{gone} of {of}");
        }
    }
}
