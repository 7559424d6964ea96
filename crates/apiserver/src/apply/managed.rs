//! `metadata.managedFields`: who owns which fields, how a write changes that, and how it is written down.
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::compare::Changes;
use super::field_set::FieldSet;

/// Entries for updates that are kept apart; the oldest beyond them share one.
const UPDATES: usize = 10;

/// The manager of that one.
const ANCIENT: &str = "ancient-changes";

/// Elements that a path may have: readers of JSON follow it to a depth of 128, and paths lie deeper than what they name. What
/// lies deeper has no owners.
const DEEPEST: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Operation {
    Apply,
    Update,
}

/// Who writes, through which version of the kind and which subresource (`""`: the object itself).
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    pub manager: &'a str,
    pub api_version: &'a str,
    pub subresource: &'a str,
}

/// The one format in which fields are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Format {
    FieldsV1,
}

/// What one manager owns by one way of writing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    manager: String,
    operation: Operation,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    api_version: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    time: String,
    #[serde(rename = "fieldsType")]
    format: Format,
    #[serde(rename = "fieldsV1", default)]
    fields: FieldSet,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    subresource: String,
}

impl Entry {
    fn new(operation: Operation, writer: Writer<'_>, fields: FieldSet, now: &str) -> Self {
        Self {
            manager: writer.manager.to_owned(),
            operation,
            api_version: writer.api_version.to_owned(),
            time: now.to_owned(),
            format: Format::FieldsV1,
            fields,
            subresource: writer.subresource.to_owned(),
        }
    }

    /// An applier stays the same one when it goes on to another version.
    fn is_of(&self, operation: Operation, writer: Writer<'_>) -> bool {
        self.operation == operation
            && self.manager == writer.manager
            && self.subresource == writer.subresource
            && (operation == Operation::Apply || self.api_version == writer.api_version)
    }

    /// The manager as messages about conflicts name it.
    fn shown(&self) -> String {
        let subresource = if self.subresource.is_empty() { String::new() } else { format!(" with subresource {:?}", self.subresource) };
        let version = if self.operation == Operation::Update { format!(" using {}", self.api_version) } else { String::new() };
        format!("{:?}{subresource}{version}", self.manager)
    }
}

/// The fields of one manager that a configuration would change.
#[derive(Debug)]
pub struct Conflict {
    pub manager: String,
    pub fields: FieldSet,
}

/// All entries of an object. No entry is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managed(Vec<Entry>);

impl Managed {
    /// Reads what is stored; what cannot be read says nothing.
    pub fn stored(list: Option<&RawValue>) -> Self {
        let read = |list: &RawValue| serde_json::from_str(list.get()).ok();
        list.and_then(read).map(Self::of_entries).unwrap_or_default()
    }

    fn of_entries(mut entries: Vec<Entry>) -> Self {
        entries.iter_mut().for_each(|entry| entry.fields.drop_here());
        entries.retain(|entry| !entry.fields.is_empty());
        Self(entries)
    }

    /// Takes over the owners that a write of the whole object names: `[]` and `[{}]` forget all, what cannot be read says
    /// nothing. Yields whether that changes anything.
    pub fn take_over(&mut self, given: Option<Value>) -> bool {
        let Some(Value::Array(given)) = given else { return false };
        let clears = given.is_empty() || given == [json!({})];
        let given = if clears { Some(Self::default()) } else { serde_json::from_value(Value::Array(given)).ok().map(Self::of_entries) };
        match given.filter(|given| (clears || !given.is_empty()) && !given.is_same(self)) {
            Some(given) => {
                *self = given;
                true
            }
            None => false,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both say the same, whenever it was.
    pub fn is_same(&self, other: &Self) -> bool {
        let timeless = |managed: &Self| {
            let mut entries = managed.0.clone();
            entries.iter_mut().for_each(|entry| entry.time.clear());
            entries.sort_by(order);
            entries
        };
        self == other || self.0.len() == other.0.len() && timeless(self) == timeless(other)
    }

    /// As metadata carry it, in the order of the real server; nothing if nobody owns anything.
    pub fn written(mut self) -> Option<String> {
        self.0.retain(|entry| entry.fields.depth() <= DEEPEST);
        self.0.sort_by(order);
        // Text, names and maps of text can always be written.
        if self.0.is_empty() { None } else { serde_json::to_string(&self.0).ok() }
    }

    /// A write that is not an apply: what it sets it owns alone, what it removes nobody owns.
    pub fn update(&mut self, writer: Writer<'_>, changes: Changes, now: &str) {
        for entry in &mut self.0 {
            entry.fields.subtract(&changes.set);
            entry.fields.subtract(&changes.removed);
        }
        if !changes.set.is_empty() {
            match self.0.iter_mut().find(|entry| entry.is_of(Operation::Update, writer)) {
                Some(entry) => {
                    entry.fields.unite(changes.set);
                    now.clone_into(&mut entry.time);
                }
                None => self.0.push(Entry::new(Operation::Update, writer, changes.set, now)),
            }
        }
        self.0.retain(|entry| !entry.fields.is_empty());
        self.cap();
    }

    /// Keeps objects that many have written from growing without end.
    fn cap(&mut self) {
        let count = self.0.iter().filter(|entry| entry.operation == Operation::Update).count();
        if count <= UPDATES {
            return;
        }
        let is_recent = |entry: &Entry| entry.operation == Operation::Update && entry.manager != ANCIENT;
        let shared = self.0.iter().any(|entry| entry.manager == ANCIENT);
        // Where the shared entry is yet to be made, it takes the place of one.
        let surplus = count - UPDATES + usize::from(!shared);
        let (mut recent, mut rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.0).into_iter().partition(is_recent);
        recent.sort_by(order);
        for old in recent.drain(..surplus.min(recent.len())) {
            let ancient = Writer { manager: ANCIENT, api_version: &old.api_version, subresource: "" };
            match rest.iter_mut().find(|entry| entry.is_of(Operation::Update, ancient)) {
                Some(entry) => {
                    entry.fields.unite(old.fields);
                    entry.time = old.time;
                }
                None => {
                    let entry = Entry::new(Operation::Update, ancient, old.fields, &old.time);
                    rest.push(entry);
                }
            }
        }
        rest.append(&mut recent);
        self.0 = rest;
    }

    /// The fields that an applier wants from now on; yields those that it wanted before.
    pub fn claim(&mut self, writer: Writer<'_>, fields: FieldSet, now: &str) -> FieldSet {
        match self.0.iter_mut().find(|entry| entry.is_of(Operation::Apply, writer)) {
            Some(entry) => {
                writer.api_version.clone_into(&mut entry.api_version);
                std::mem::replace(&mut entry.fields, fields)
            }
            None => {
                self.0.push(Entry::new(Operation::Apply, writer, fields, now));
                FieldSet::default()
            }
        }
    }

    /// Marks an applier's entry as written now.
    pub fn stamp(&mut self, writer: Writer<'_>, now: &str) {
        if let Some(entry) = self.0.iter_mut().find(|entry| entry.is_of(Operation::Apply, writer)) {
            now.clone_into(&mut entry.time);
        }
    }

    /// All that somebody owns.
    pub fn owned(&self) -> FieldSet {
        let mut all = FieldSet::default();
        self.0.iter().for_each(|entry| all.unite(entry.fields.clone()));
        all
    }

    /// What an applier would take from others.
    pub fn conflicts(&self, writer: Writer<'_>, set: &FieldSet) -> Vec<Conflict> {
        let others = self.0.iter().filter(|entry| !entry.is_of(Operation::Apply, writer));
        let conflict = |entry: &Entry| Conflict { manager: entry.shown(), fields: entry.fields.intersection(set) };
        let mut found: Vec<_> = others.map(conflict).filter(|conflict| !conflict.fields.is_empty()).collect();
        found.sort_by(|a, b| a.manager.cmp(&b.manager));
        found
    }

    /// Takes changed fields from all but the applier that changed them.
    pub fn release(&mut self, writer: Writer<'_>, changes: &Changes) {
        for entry in self.0.iter_mut().filter(|entry| !entry.is_of(Operation::Apply, writer)) {
            entry.fields.subtract(&changes.set);
            entry.fields.subtract(&changes.removed);
        }
        self.0.retain(|entry| !entry.fields.is_empty());
    }
}

fn order(a: &Entry, b: &Entry) -> std::cmp::Ordering {
    let key =
        |entry: &Entry| (entry.operation, entry.time.clone(), entry.manager.clone(), entry.api_version.clone(), entry.subresource.clone());
    key(a).cmp(&key(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(paths: &[&str]) -> FieldSet {
        let mut set: FieldSet = serde_json::from_value(paths.iter().map(|path| (format!("f:{path}"), json!({}))).collect()).unwrap();
        set.drop_here();
        set
    }

    fn writer(manager: &str) -> Writer<'_> {
        Writer { manager, api_version: "v1", subresource: "" }
    }

    fn write(managed: &mut Managed, manager: &str, sets: &[&str], removed: &[&str], now: &str) {
        managed.update(writer(manager), Changes { set: set(sets), removed: set(removed) }, now);
    }

    #[test]
    fn a_written_field_changes_hands_and_a_removed_one_is_nobodys() {
        let mut managed = Managed::default();
        write(&mut managed, "a", &["x", "y", "z"], &[], "1");
        write(&mut managed, "b", &["y"], &["z"], "2");
        let entry = |manager: &str, time: &str, field: &str| {
            let fields = json!({ format!("f:{field}"): {} });
            json!({ "manager": manager, "operation": "Update", "apiVersion": "v1", "time": time, "fieldsType": "FieldsV1", "fieldsV1": fields })
        };
        let text = managed.clone().written().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!([entry("a", "1", "x"), entry("b", "2", "y")]));
        assert_eq!(Managed::stored(Some(&RawValue::from_string(text).unwrap())), managed);
    }

    #[test]
    fn the_oldest_of_many_updates_share_an_entry() {
        let mut managed = Managed::default();
        for n in 10..40 {
            write(&mut managed, &format!("m{n}"), &[&format!("x{n}")], &[], &n.to_string());
        }
        assert!(managed.0.len() <= UPDATES, "{}", managed.0.len());
        assert_eq!(managed.owned().paths().len(), 30);
        assert!(managed.0.iter().any(|entry| entry.manager == ANCIENT));
    }

    #[test]
    fn empty_lists_and_empty_entries_clear_and_garbage_is_ignored() {
        let mut live = Managed::default();
        write(&mut live, "a", &["x"], &[], "1");
        for given in [json!([]), json!([{}])] {
            let mut cleared = live.clone();
            assert!(cleared.take_over(Some(given)) && cleared.is_empty());
        }
        for given in [None, Some(json!(null)), Some(json!([{ "operation": "x" }])), Some(json!("x")), Some(json!([3]))] {
            assert!(!live.take_over(given) && !live.is_empty());
        }
    }
}
