//! The rows of a monitored database as last seen, with declared indexes.

use uuid::Uuid;

use crate::table::{Table, change};
use crate::{Column, Datum, DatumError, Monitored, RowUpdate, TableId, TableUpdates};

/// An index to keep: the rows of a table by the values of some columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexDef {
    /// Table.
    pub table: TableId,
    /// Column numbers, in the order in which keys are given.
    pub columns: Vec<u16>,
}

/// A change of one row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowChange {
    /// The row appeared.
    Inserted(TableId, Uuid),
    /// Columns changed; sets and maps as differences.
    Modified(TableId, Uuid, Vec<(u16, Datum)>),
    /// The row is gone.
    Deleted(TableId, Uuid),
}

/// Why an update cannot be applied. The replica must then be fetched anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaError {
    /// A change of a row that is not there.
    #[error("table {0}: a change of row {1}, which is not known")]
    UnknownRow(&'static str, Uuid),
    /// A delta of the wrong shape.
    #[error("table {0}, row {1}, column {2}: {3}")]
    Delta(&'static str, Uuid, &'static str, DatumError),
    /// An update of a table or column that is not monitored.
    #[error("an update of table {0}, column {1}, which is not monitored")]
    NotMonitored(&'static str, u16),
}

/// The rows of a monitored database.
#[derive(Debug)]
pub struct Replica {
    monitored: Monitored,
    defs: Vec<IndexDef>,
    tables: Vec<Table>,
}

/// One row of a replica.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    table: &'a Table,
    values: &'a [(u16, Datum)],
    /// Identifier.
    pub uuid: Uuid,
}

impl<'a> Row<'a> {
    /// The value of a column by number; `None` when it is not monitored.
    #[must_use]
    pub fn value(&self, column: u16) -> Option<&'a Datum> {
        self.table.value(self.values, column)
    }

    /// The value of a column; `None` when it is not monitored.
    #[must_use]
    pub fn get<T>(&self, column: Column<T>) -> Option<&'a Datum> {
        self.value(column.index)
    }

    /// The text in a column; empty when there is none.
    #[must_use]
    pub fn text<T>(&self, column: Column<T>) -> &'a str {
        self.get(column).and_then(Datum::as_str).unwrap_or_default()
    }
}

impl Table {
    fn row<'a>(&'a self, uuid: Uuid, values: &'a [(u16, Datum)]) -> Row<'a> {
        Row { table: self, values, uuid }
    }
}

impl Replica {
    /// An empty replica.
    #[must_use]
    pub fn new(monitored: Monitored, defs: Vec<IndexDef>) -> Self {
        let tables = monitored.tables.iter().map(|(id, columns)| Table::new(monitored.schema, *id, columns, &defs)).collect();
        Self { monitored, defs, tables }
    }

    /// What is monitored.
    #[must_use]
    pub const fn monitored(&self) -> &Monitored {
        &self.monitored
    }

    fn table(&self, id: TableId) -> Option<&Table> {
        self.tables.iter().find(|t| t.id == id)
    }

    /// A row by identifier.
    #[must_use]
    pub fn get(&self, table: TableId, uuid: Uuid) -> Option<Row<'_>> {
        let table = self.table(table)?;
        let values = table.rows.get(&uuid)?;
        Some(table.row(uuid, values))
    }

    /// All rows of a table, in no particular order.
    pub fn rows(&self, table: TableId) -> impl Iterator<Item = Row<'_>> {
        self.table(table).into_iter().flat_map(|t| t.rows.iter().map(|(uuid, values)| t.row(*uuid, values)))
    }

    /// Number of rows of a table.
    #[must_use]
    pub fn len(&self, table: TableId) -> usize {
        self.table(table).map_or(0, |t| t.rows.len())
    }

    /// The rows whose indexed columns hold `key`, lowest identifier first; none when the index was not declared.
    pub fn find(&self, table: TableId, columns: &[u16], key: &[Datum]) -> impl Iterator<Item = Row<'_>> {
        let found = self.table(table).and_then(|t| {
            let (_, map) = t.indexes.iter().find(|(c, _)| c == columns)?;
            Some((t, map.get(key)?))
        });
        found.into_iter().flat_map(|(t, uuids)| uuids.iter().filter_map(|uuid| t.rows.get(&uuid).map(|values| t.row(uuid, values))))
    }

    /// Applies a notification.
    ///
    /// # Errors
    /// When the update does not fit the rows held: the caller must fetch the database anew.
    pub fn apply(&mut self, updates: TableUpdates) -> Result<Vec<RowChange>, ReplicaError> {
        let mut changes = Vec::new();
        for (id, rows) in updates.0 {
            let schema = self.monitored.schema.table(id);
            let Some(table) = self.tables.iter_mut().find(|t| t.id == id) else {
                return Err(ReplicaError::NotMonitored(schema.name, 0));
            };
            for (uuid, update) in rows {
                match update {
                    RowUpdate::Present(values) => {
                        let row = table.present(values).map_err(|column| ReplicaError::NotMonitored(schema.name, column))?;
                        if let Some(old) = table.rows.remove(&uuid) {
                            table.index(uuid, &old, false);
                        }
                        table.index(uuid, &row, true);
                        table.rows.insert(uuid, row);
                        changes.push(RowChange::Inserted(id, uuid));
                    }
                    RowUpdate::Modify(deltas) => {
                        let mut row = table.rows.remove(&uuid).ok_or(ReplicaError::UnknownRow(schema.name, uuid))?;
                        table.index(uuid, &row, false);
                        for (column, delta) in &deltas {
                            let default = table.default_of(*column).ok_or(ReplicaError::NotMonitored(schema.name, *column))?;
                            let schema_column = schema.column(*column);
                            change(&mut row, *column, default, |value| value.apply_delta(delta.clone(), schema_column))
                                .map_err(|e| ReplicaError::Delta(schema.name, uuid, schema_column.name, e))?;
                        }
                        table.index(uuid, &row, true);
                        table.rows.insert(uuid, row);
                        changes.push(RowChange::Modified(id, uuid, deltas));
                    }
                    RowUpdate::Delete => {
                        let row = table.rows.remove(&uuid).ok_or(ReplicaError::UnknownRow(schema.name, uuid))?;
                        table.index(uuid, &row, false);
                        changes.push(RowChange::Deleted(id, uuid));
                    }
                }
            }
        }
        Ok(changes)
    }

    /// Replaces everything by a fresh snapshot of `monitored`, which may name other columns than before (a server of
    /// another version), and returns the differences.
    ///
    /// # Errors
    /// When the snapshot is malformed; the rows held stay.
    pub fn replace(&mut self, monitored: Monitored, snapshot: TableUpdates) -> Result<Vec<RowChange>, ReplicaError> {
        let mut fresh = Self::new(monitored, std::mem::take(&mut self.defs));
        self.defs.clone_from(&fresh.defs);
        fresh.apply(snapshot)?;
        let mut changes = Vec::new();
        for old in &self.tables {
            let new = fresh.table(old.id);
            changes.extend(old.rows.keys().filter(|u| new.is_none_or(|t| !t.rows.contains_key(u))).map(|u| RowChange::Deleted(old.id, *u)));
        }
        for new in &fresh.tables {
            let old = self.tables.iter().find(|t| t.id == new.id);
            for (uuid, values) in &new.rows {
                let same =
                    old.and_then(|t| t.rows.get(uuid).map(|v| (t, v))).is_some_and(|(t, v)| t.defaults == new.defaults && v == values);
                if !same {
                    changes.push(RowChange::Inserted(new.id, *uuid));
                }
            }
        }
        *self = fresh;
        Ok(changes)
    }
}
