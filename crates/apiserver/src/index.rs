//! Which objects refer to what, found from what is referred to without a look at any other object.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;

/// Keys by reference. Objects without references, which are nearly all, cost nothing.
#[derive(Debug, Default)]
pub struct Index {
    references: FxHashMap<Arc<str>, Vec<String>>,
    keys: FxHashMap<String, BTreeSet<Arc<str>>>,
}

impl Index {
    /// Sets what the object at `key` refers to.
    pub fn set(&mut self, key: &Arc<str>, references: &[String]) {
        if self.references.get(key).map_or(&[] as &[_], Vec::as_slice) == references {
            return;
        }
        for reference in self.references.remove(key).unwrap_or_default() {
            if let Some(keys) = self.keys.get_mut(&reference) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&reference);
                }
            }
        }
        for reference in references {
            self.keys.entry(reference.clone()).or_default().insert(key.clone());
        }
        if !references.is_empty() {
            self.references.insert(key.clone(), references.to_vec());
        }
    }

    /// Keys of the objects that refer to it.
    pub fn referring_to(&self, reference: &str) -> Vec<Arc<str>> {
        self.keys.get(reference).into_iter().flatten().cloned().collect()
    }

    /// Keys of all objects that refer to anything.
    pub fn all(&self) -> Vec<Arc<str>> {
        self.references.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_until_they_change() {
        let mut index = Index::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        index.set(&a, &["x".to_owned(), "y".to_owned()]);
        index.set(&b, &["x".to_owned()]);
        assert_eq!(index.referring_to("x"), [a.clone(), b.clone()]);
        index.set(&a, &["y".to_owned()]);
        assert_eq!((index.referring_to("x"), index.referring_to("y")), (vec![b.clone()], vec![a.clone()]));
        index.set(&a, &[]);
        index.set(&b, &[]);
        assert!(index.all().is_empty() && index.keys.is_empty());
    }
}
