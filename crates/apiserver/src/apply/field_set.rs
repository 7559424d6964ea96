//! Sets of fields, and their wire format `FieldsV1`.
//!
//! A set is a tree of path elements, written as keys of JSON objects: `f:NAME` a field, `k:{…}` the item of a list that has
//! these keys, `v:VALUE` the item of a set, `i:N` an item by its place. `{}` is a member; a member with members below it
//! carries `".": {}`.
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/> (`fieldsV1`)

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::schema::Schema;

/// Members at and below one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    member: bool,
    below: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    pub fn add_here(&mut self) {
        self.member = true;
    }

    /// The whole of an object is nobody's.
    pub fn drop_here(&mut self) {
        self.member = false;
    }

    pub fn has_here(&self) -> bool {
        self.member
    }

    /// What lies below an element.
    pub fn get(&self, element: &str) -> Option<&Self> {
        self.below.get(element)
    }

    /// Puts a set below an element, beside what is there.
    pub fn put(&mut self, element: String, set: Self) {
        if set.is_empty() {
            return;
        }
        match self.below.entry(element) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(set);
            }
            std::collections::btree_map::Entry::Occupied(taken) => taken.into_mut().unite(set),
        }
    }

    pub fn unite(&mut self, other: Self) {
        self.member |= other.member;
        for (element, set) in other.below {
            self.put(element, set);
        }
    }

    /// Removes the members of `other`; what lies below them stays.
    pub fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        for (element, set) in &other.below {
            if let Some(own) = self.below.get_mut(element) {
                own.subtract(set);
                if own.is_empty() {
                    self.below.remove(element);
                }
            }
        }
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self { member: self.member && other.member, below: BTreeMap::new() };
        for (element, set) in &self.below {
            if let Some(theirs) = other.below.get(element) {
                both.put(element.clone(), set.intersection(theirs));
            }
        }
        both
    }

    /// Removes all but what lies below one element.
    pub fn keep(&mut self, element: &str) {
        self.below.retain(|found, _| found == element);
    }

    /// Removes an element with all that lies below it.
    pub fn remove(&mut self, path: &[&str]) {
        match path {
            [] => {}
            [last] => drop(self.below.remove(*last)),
            [first, rest @ ..] => {
                if let Some(inner) = self.below.get_mut(*first) {
                    inner.remove(rest);
                    if inner.is_empty() {
                        self.below.remove(*first);
                    }
                }
            }
        }
    }

    /// Makes every declared field on the way to a member a member, too.
    pub fn with_named_fields(mut self, schema: Schema<'_>) -> Self {
        let below = std::mem::take(&mut self.below);
        for (element, set) in below {
            let (inner, declared) = match element.strip_prefix("f:") {
                Some(field) => (schema.field(field), schema.declares(field)),
                None => (schema.item(), false),
            };
            let mut set = set.with_named_fields(inner);
            set.member |= declared;
            self.below.insert(element, set);
        }
        self
    }

    /// How many elements the longest path has.
    pub fn depth(&self) -> usize {
        self.below.values().map(|set| set.depth() + 1).max().unwrap_or(0)
    }

    /// The members' paths, such as `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.gather("", &mut found);
        found
    }

    fn gather(&self, path: &str, found: &mut Vec<String>) {
        if self.member {
            found.push(path.to_owned());
        }
        for (element, set) in &self.below {
            set.gather(&format!("{path}{}", shown(element)), found);
        }
    }
}

impl Serialize for FieldSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if self.member && !self.below.is_empty() {
            map.serialize_entry(".", &FieldSet::default())?;
        }
        for (element, set) in &self.below {
            map.serialize_entry(element, set)?;
        }
        map.end()
    }
}

/// Reads a node; what has nothing below it is a member.
struct Node;

impl<'de> Visitor<'de> for Node {
    type Value = FieldSet;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of path elements")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<FieldSet, M::Error> {
        let mut set = FieldSet::default();
        while let Some(element) = map.next_key::<String>()? {
            match element.split_once(':') {
                None if element == "." => {
                    map.next_value::<IgnoredAny>()?;
                    set.member = true;
                }
                Some(("f" | "v" | "k" | "i", _)) => set.put(element, map.next_value()?),
                _ => return Err(serde::de::Error::custom("not a path element")),
            }
        }
        set.member |= set.below.is_empty();
        Ok(set)
    }
}

impl<'de> Deserialize<'de> for FieldSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Node)
    }
}

/// An element as messages show it.
pub fn shown(element: &str) -> String {
    let (kind, text) = element.split_once(':').unwrap_or(("f", element));
    match kind {
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
            let keys: Vec<_> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        "v" => format!("[={text}]"),
        "i" => format!("[{text}]"),
        _ => format!(".{text}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(wire: Value) -> Option<FieldSet> {
        serde_json::from_value(wire).ok()
    }

    fn set() -> impl Strategy<Value = FieldSet> {
        let leaf = Just(FieldSet { member: true, below: BTreeMap::new() });
        let node = leaf.prop_recursive(3, 16, 3, |inner| {
            (any::<bool>(), proptest::collection::btree_map("[fkv]:[abc]", inner, 1..4))
                .prop_map(|(member, below)| FieldSet { member, below })
        });
        proptest::collection::btree_map("f:[abc]", node, 1..4).prop_map(|below| FieldSet { member: false, below })
    }

    #[test]
    fn members_with_members_below_carry_a_dot() {
        let wire =
            json!({ "f:spec": { "f:ports": { ".": {}, "k:{\"port\":80}": { ".": {}, "f:name": {} } }, "f:set": { "v:\"a\"": {} } } });
        let set = read(wire.clone()).unwrap();
        let paths = [".spec.ports", ".spec.ports[port=80]", ".spec.ports[port=80].name", ".spec.set[=\"a\"]"];
        assert_eq!(set.paths(), paths);
        assert_eq!(json!(set), wire);
        assert_eq!(read(json!({ "x": {} })), None);
        assert_eq!(read(json!([])), None);
    }

    proptest! {
        #[test]
        fn the_wire_loses_nothing(set in set()) {
            prop_assert_eq!(read(json!(set)), Some(set));
        }

        #[test]
        fn what_is_taken_away_and_what_is_shared_make_the_whole(a in set(), b in set()) {
            let shared = a.intersection(&b);
            let mut rest = a.clone();
            rest.subtract(&b);
            prop_assert!(rest.intersection(&b).is_empty());
            rest.unite(shared);
            prop_assert_eq!(rest, a);
        }
    }
}
