//! What the rules want of a database: facts, gathered by row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::{Atom, Datum, RowKey};

/// An element of a set column: a value, or a reference to a desired row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// A value.
    Atom(Atom),
    /// A reference.
    Row(RowKey),
}

/// Something wanted of a database, small enough to be claimed by one owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// The row exists with certain columns.
    Row(RowKey),
    /// A set column of a row holds an element.
    Member(RowKey, u16, Element),
    /// A map column of a row holds a key.
    Entry(RowKey, u16, Arc<str>),
}

/// What a [`Fact`] says beyond itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactValue {
    /// Columns of a row that differ from their defaults, by number, ascending.
    Columns(Arc<[(u16, Datum)]>),
    /// An element is there.
    Present,
    /// Value of a map's key.
    Text(Arc<str>),
}

/// A row as wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DesiredRow {
    /// Columns that differ from their defaults; `None` while only members or entries are wanted.
    pub columns: Option<Arc<[(u16, Datum)]>>,
    /// Elements of set columns.
    pub members: BTreeSet<(u16, Element)>,
    /// Keys of map columns.
    pub entries: BTreeMap<(u16, Arc<str>), Arc<str>>,
}

/// All that is wanted, by row.
#[derive(Debug, Default)]
pub struct Desired {
    rows: FxHashMap<RowKey, DesiredRow>,
}

/// What a changed fact touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The row as a whole.
    Row(RowKey),
    /// One element.
    Member(RowKey, u16, Element),
    /// One key.
    Entry(RowKey, u16, Arc<str>),
}

impl Change {
    /// The row.
    #[must_use]
    pub const fn row(&self) -> &RowKey {
        match self {
            Self::Row(key) | Self::Member(key, ..) | Self::Entry(key, ..) => key,
        }
    }
}

impl Desired {
    /// The row with `key`, if anything is wanted of it.
    #[must_use]
    pub fn get(&self, key: &RowKey) -> Option<&DesiredRow> {
        self.rows.get(key)
    }

    /// Whether the row itself is wanted, not only members of it.
    #[must_use]
    pub fn wants(&self, key: &RowKey) -> bool {
        self.rows.get(key).is_some_and(|row| row.columns.is_some())
    }

    /// All rows of which something is wanted.
    pub fn iter(&self) -> impl Iterator<Item = (&RowKey, &DesiredRow)> {
        self.rows.iter()
    }

    /// Number of rows wanted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.values().filter(|row| row.columns.is_some()).count()
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes in a changed fact and says what it touches. A value of the wrong kind counts as absent.
    pub fn apply(&mut self, fact: &Fact, value: Option<&FactValue>) -> Change {
        let (key, change) = match fact {
            Fact::Row(key) => {
                let columns = match value {
                    Some(FactValue::Columns(columns)) => Some(Arc::clone(columns)),
                    _ => None,
                };
                self.rows.entry(key.clone()).or_default().columns = columns;
                (key, Change::Row(key.clone()))
            }
            Fact::Member(key, column, element) => {
                let row = self.rows.entry(key.clone()).or_default();
                if value.is_some() {
                    row.members.insert((*column, element.clone()));
                } else {
                    row.members.remove(&(*column, element.clone()));
                }
                (key, Change::Member(key.clone(), *column, element.clone()))
            }
            Fact::Entry(key, column, name) => {
                let row = self.rows.entry(key.clone()).or_default();
                match value {
                    Some(FactValue::Text(text)) => row.entries.insert((*column, Arc::clone(name)), Arc::clone(text)),
                    _ => row.entries.remove(&(*column, Arc::clone(name))),
                };
                (key, Change::Entry(key.clone(), *column, Arc::clone(name)))
            }
        };
        if self.rows.get(key).is_some_and(|row| row.columns.is_none() && row.members.is_empty() && row.entries.is_empty()) {
            self.rows.remove(key);
        }
        change
    }
}
