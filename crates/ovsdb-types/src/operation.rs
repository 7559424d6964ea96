//! Operations of a transaction and their results (RFC 7047 §5.2).

use serde::ser::{SerializeMap, SerializeTuple, Serializer};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Atom, Datum};

/// Named column values.
pub type Values = Vec<(&'static str, Datum)>;

/// A test on a column.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Column's name.
    pub column: &'static str,
    /// Comparison.
    pub function: Function,
    /// Right-hand side.
    pub value: Datum,
}

/// Comparisons that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Equal.
    Eq,
    /// The column holds at least the value's elements.
    Includes,
}

impl Condition {
    /// The row with identifier `uuid`.
    #[must_use]
    pub fn row(uuid: Uuid) -> Vec<Self> {
        vec![Self { column: "_uuid", function: Function::Eq, value: Datum::One(Atom::Uuid(uuid)) }]
    }
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut t = s.serialize_tuple(3)?;
        t.serialize_element(self.column)?;
        t.serialize_element(match self.function {
            Function::Eq => "==",
            Function::Includes => "includes",
        })?;
        t.serialize_element(&self.value)?;
        t.end()
    }
}

/// How a mutation changes a set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutator {
    /// Adds elements; of a map, only keys that are not there.
    Insert,
    /// Removes elements; of a map, pairs or, given a set, keys.
    Delete,
}

/// A change to a part of a column.
#[derive(Clone, Debug, PartialEq)]
pub struct Mutation {
    /// Column's name.
    pub column: &'static str,
    /// Direction.
    pub mutator: Mutator,
    /// Elements.
    pub value: Datum,
}

impl Serialize for Mutation {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut t = s.serialize_tuple(3)?;
        t.serialize_element(self.column)?;
        t.serialize_element(match self.mutator {
            Mutator::Insert => "insert",
            Mutator::Delete => "delete",
        })?;
        t.serialize_element(&self.value)?;
        t.end()
    }
}

/// What a `wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The rows equal the given ones.
    Equal,
    /// The rows differ from the given ones.
    NotEqual,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Adds a row with a chosen identifier (the `uuid` member: ovsdb-server(7) §5.2.1).
    Insert {
        /// Table.
        table: &'static str,
        /// Identifier; `None` lets the server choose.
        uuid: Option<Uuid>,
        /// Name by which operations of this transaction refer to the row (`["named-uuid", name]`).
        name: Option<String>,
        /// Columns that differ from their defaults.
        row: Values,
    },
    /// Replaces columns.
    Update {
        /// Table.
        table: &'static str,
        /// Rows.
        condition: Vec<Condition>,
        /// New values.
        row: Values,
    },
    /// Changes parts of sets and maps.
    Mutate {
        /// Table.
        table: &'static str,
        /// Rows.
        condition: Vec<Condition>,
        /// Changes.
        mutations: Vec<Mutation>,
    },
    /// Removes rows.
    Delete {
        /// Table.
        table: &'static str,
        /// Rows.
        condition: Vec<Condition>,
    },
    /// Fails the transaction unless a condition holds.
    Wait {
        /// Table.
        table: &'static str,
        /// Rows.
        condition: Vec<Condition>,
        /// Columns compared.
        columns: Vec<&'static str>,
        /// Sense.
        until: Until,
        /// Rows compared with.
        rows: Vec<Values>,
        /// Milliseconds to wait; 0 decides at once.
        timeout: u64,
    },
    /// Reads rows.
    Select {
        /// Table.
        table: &'static str,
        /// Rows.
        condition: Vec<Condition>,
        /// Columns.
        columns: Vec<&'static str>,
    },
    /// Text for the server's log.
    Comment(String),
}

struct Row<'a>(&'a Values);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().map(|(k, v)| (k, v)))
    }
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut m = s.serialize_map(None)?;
        match self {
            Self::Insert { table, uuid, name, row } => {
                m.serialize_entry("op", "insert")?;
                m.serialize_entry("table", table)?;
                if let Some(uuid) = uuid {
                    m.serialize_entry("uuid", &*uuid.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()))?;
                }
                if let Some(name) = name {
                    m.serialize_entry("uuid-name", name)?;
                }
                m.serialize_entry("row", &Row(row))?;
            }
            Self::Update { table, condition, row } => {
                m.serialize_entry("op", "update")?;
                m.serialize_entry("table", table)?;
                m.serialize_entry("where", condition)?;
                m.serialize_entry("row", &Row(row))?;
            }
            Self::Mutate { table, condition, mutations } => {
                m.serialize_entry("op", "mutate")?;
                m.serialize_entry("table", table)?;
                m.serialize_entry("where", condition)?;
                m.serialize_entry("mutations", mutations)?;
            }
            Self::Delete { table, condition } => {
                m.serialize_entry("op", "delete")?;
                m.serialize_entry("table", table)?;
                m.serialize_entry("where", condition)?;
            }
            Self::Wait { table, condition, columns, until, rows, timeout } => {
                m.serialize_entry("op", "wait")?;
                m.serialize_entry("table", table)?;
                m.serialize_entry("where", condition)?;
                m.serialize_entry("columns", columns)?;
                m.serialize_entry("until", if *until == Until::Equal { "==" } else { "!=" })?;
                m.serialize_entry("rows", &rows.iter().map(Row).collect::<Vec<_>>())?;
                m.serialize_entry("timeout", timeout)?;
            }
            Self::Select { table, condition, columns } => {
                m.serialize_entry("op", "select")?;
                m.serialize_entry("table", table)?;
                m.serialize_entry("where", condition)?;
                m.serialize_entry("columns", columns)?;
            }
            Self::Comment(text) => {
                m.serialize_entry("op", "comment")?;
                m.serialize_entry("comment", text)?;
            }
        }
        m.end()
    }
}

/// Why an operation, or the commit, failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}{}{}", if details.is_empty() { "" } else { ": " }, details)]
pub struct OpError {
    /// Word for programs, such as `constraint violation` or `timed out`.
    pub error: String,
    /// Sentence for people.
    pub details: String,
}

/// What the server answers to one operation.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct OpResult {
    /// Rows matched by an update, mutate or delete.
    pub count: Option<u64>,
    /// Identifier of an inserted row, as `["uuid", text]`.
    pub uuid: Option<(String, Uuid)>,
    /// Rows read by a select.
    pub rows: Option<Vec<serde_json::Value>>,
    error: Option<String>,
    details: Option<String>,
}

impl OpResult {
    /// The failure, if it is one.
    #[must_use]
    pub fn failure(&self) -> Option<OpError> {
        let error = self.error.clone()?;
        Some(OpError { error, details: self.details.clone().unwrap_or_default() })
    }
}
