//! Natural keys of desired rows, and the row identifiers that follow from them.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::{DatabaseSchema, TableId};

/// Namespace of the identifiers of rows that we create (RFC 9562 §5.5): never changed, or every database would be rebuilt.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f8a_2c1e_93d4_5b70_8e1f_4a5d_c0b7_2e96);

/// The natural key of a row: its owner or its content. The row's name is a column.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// Table that the row belongs to.
    pub table: TableId,
    /// Key, unique in the table.
    pub key: Arc<str>,
}

impl RowKey {
    /// The key `key` in `table`.
    pub fn new(table: TableId, key: impl Into<Arc<str>>) -> Self {
        Self { table, key: key.into() }
    }

    /// The identifier that a row created for this key gets: the same in every database, so that a rebuilt database is
    /// the same database. It depends on the table's name, not on its number, which changes from one schema to the next.
    #[must_use]
    pub fn uuid(&self, schema: &DatabaseSchema) -> Uuid {
        let table = schema.table(self.table).name;
        let mut name = Vec::with_capacity(table.len() + 1 + self.key.len());
        name.extend_from_slice(table.as_bytes());
        name.push(b'/');
        name.extend_from_slice(self.key.as_bytes());
        Uuid::new_v5(&NAMESPACE, &name)
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.table.0, self.key)
    }
}
